"""How long duplicates take to find, and whether the right ones are found.

    python benchmarks/duplicates.py                       # 10,000 structures of aspirin
    python benchmarks/duplicates.py --n 2000 --packings 100 --sample 60
    python benchmarks/duplicates.py --table crystals.parquet --molecule HASH    # a real landscape

The landscape is synthetic, so that the truth is known: some hundred packings of one molecule by the
baseline random+press, each copied a few to a few hundred times. A copy is the same crystal in
another cell, another origin and orientation, molecules in another order, in either hand, one in ten
a supercell; its molecules are shifted and turned a little, its cell is strained, and its energy is
off, as those of crystals that were relaxed to a finite force are. Energies of the packings crowd
towards the top, as they do in landscapes.

Then a sample is clustered by comparing all pairs, with StructureMatcher and with oxtalign, each in
the same process, and the clusters are compared. One core; all times are CPU seconds of it.

A table has the columns mol_hash, landscape, model, erel_kjmol, cell, numbers, frac and n_mol; the
largest landscape of the molecule is taken.
"""

from __future__ import annotations

import argparse
import itertools
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch

from packflow_core.analysis.duplicates import (
    DuplicateLimits,
    amd_columns,
    find_duplicates,
)
from packflow_core.analysis.ranking import Clusters
from packflow_core.analysis.similarity import Packing, matches, structure_matcher_rms
from packflow_core.baselines.press import calibrated, press
from packflow_core.baselines.press_params import PressParams
from packflow_core.baselines.random_packing import PackParams, pack
from packflow_core.chem.conformers import conformer_pool
from packflow_core.chem.molecule import Molecule
from packflow_core.crystal.crystal import Crystal, right_handed

#: Sizes of the flaws of a copy: shift in Å and turn in radians of each molecule, strain of the
#: cell, and error of the energy in kJ/mol.
SHIFT, TURN, STRAIN, ENERGY = 0.02, 0.006, 0.003, 0.1


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--n", type=int, default=10_000, help="structures")
    parser.add_argument("--packings", type=int, default=400, help="distinct packings")
    parser.add_argument("--sample", type=int, default=80, help="structures compared all with all")
    parser.add_argument("--smiles", default="CC(=O)Oc1ccccc1C(=O)O")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--table", type=Path, help="a table of relaxed crystals instead")
    parser.add_argument("--molecule", help="mol_hash of the table")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.table:
        crystals, energy = from_table(args.table, args.molecule, args.n)
        clusters, seconds = timed(crystals, energy)
        print(f"{len(crystals)} structures: {int(clusters.representative.sum())} distinct, "
              f"{seconds:.0f} CPU s")  # fmt: skip
        return
    rng = np.random.default_rng(args.seed)
    parents = packings(args.smiles, args.packings, args.seed)
    crystals, energy, truth = landscape(parents, args.n, rng)
    print(f"{len(crystals)} structures of {len(parents)} packings, "
          f"{np.bincount(truth).max()} copies of one at most")  # fmt: skip
    clusters, _ = timed(crystals, energy)
    judge("all", clusters.label, truth, parents)
    if args.sample:
        against_all_pairs(crystals, energy, truth, parents, args.sample, rng)


def packings(smiles: str, n: int, seed: int) -> list[Crystal]:
    """Distinct packings of a molecule, Z = 2, 4 and 8."""
    molecule = Molecule.from_smiles(smiles)
    conformers = conformer_pool(molecule, 10).positions
    params = calibrated(molecule.numbers_h, conformers[0], PressParams())
    out: list[Crystal] = []
    number = 0
    while len(out) < n:
        drafts = []
        for _ in range(64):
            z = (4, 2, 4, 8)[number % 4]
            found = pack(
                molecule.numbers_h, conformers[number % len(conformers)], z, seed, number,
                PackParams(),
            )  # fmt: skip
            number += 1
            if found.packing is not None:
                drafts.append(found.packing)
        out += [done.crystal for done in press(drafts, params) if done.crystal is not None]
    return out[:n]


def landscape(
    parents: list[Crystal], n: int, rng: np.random.Generator
) -> tuple[list[Crystal], np.ndarray, np.ndarray]:
    """Copies of packings, their energies, ascending, and the packing that each comes from."""
    share = rng.pareto(1.5, len(parents)) + 0.2
    truth = np.concatenate(
        [np.arange(len(parents)), rng.choice(len(parents), n - len(parents), p=share / share.sum())]
    )
    level = 40.0 * np.sqrt(rng.random(len(parents)))
    energy = level[truth] + ENERGY * rng.normal(size=n)
    order = np.argsort(energy)
    crystals = [copy(parents[truth[k]], rng) for k in order]
    return crystals, energy[order] - energy.min(), truth[order]


def copy(crystal: Crystal, rng: np.random.Generator) -> Crystal:
    """The crystal in another setting, with the flaws of a relaxation."""
    if rng.random() < 0.1:
        reps = rng.permutation([2, 1, 1])
        crystal = crystal.repeated((int(reps[0]), int(reps[1]), int(reps[2])))
    strain = np.eye(3) + STRAIN * rng.normal(size=(3, 3))
    molecules = crystal.positions.reshape(crystal.z, -1, 3)
    centres = molecules.mean(axis=1, keepdims=True)
    turns = np.stack([small_turn(rng) for _ in range(crystal.z)])
    moved = (molecules - centres) @ turns + centres @ strain
    moved += SHIFT * rng.normal(size=(crystal.z, 1, 3))
    cell = crystal.cell @ strain
    moved += (rng.integers(-1, 2, (crystal.z, 3)) @ cell)[:, None]
    moved = moved[rng.permutation(crystal.z)] + rng.normal(size=3)
    shear = np.eye(3, dtype=np.int64)
    shear[tuple(rng.choice(3, 2, replace=False))] = rng.integers(-1, 2)
    frame, _ = np.linalg.qr(rng.normal(size=(3, 3)))  # either hand
    return Crystal(
        crystal.numbers, moved.reshape(-1, 3) @ frame, right_handed(shear @ cell @ frame), crystal.z
    )


def small_turn(rng: np.random.Generator) -> np.ndarray:
    """A rotation by about `TURN` about any axis."""
    x, y, z = TURN * rng.normal(size=3)
    u, _, vt = np.linalg.svd(np.eye(3) + np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]))
    turn: np.ndarray = u @ vt
    return turn


def timed(crystals: list[Crystal], energy: np.ndarray) -> tuple[Clusters, float]:
    """Clusters, with the time of each step on the terminal."""
    started = time.process_time()
    invariants = [amd_columns(crystal) for crystal in crystals]
    middle = time.process_time()
    clusters, effort = find_duplicates(crystals, energy, invariants, DuplicateLimits())
    end = time.process_time()
    print(f"invariants {middle - started:.1f} CPU s, clusters {end - middle:.1f} CPU s; "
          f"{clusters.n_confirmations} close pairs: "
          f"{effort.describe()}")  # fmt: skip
    return clusters, end - started


def judge(name: str, label: np.ndarray, truth: np.ndarray, parents: list[Crystal]) -> None:
    """Count packings that were split, and clusters that join packings, on the terminal."""
    split = [int(t) for t in np.unique(truth) if len(np.unique(label[truth == t])) > 1]
    astray = sum(
        int((truth == t).sum() - np.bincount(label[truth == t]).max()) for t in np.unique(truth)
    )
    joined = [np.unique(truth[label == c]) for c in np.unique(label)]
    pairs = [(int(a), int(b)) for group in joined for a, b in itertools.combinations(group, 2)]
    found = [matches(parents[a], parents[b]) for a, b in pairs]
    equal = sum(m.full and m.rmsd is not None and m.rmsd < 0.3 for m in found)
    print(
        f"{name}: {len(np.unique(label))} clusters of {len(np.unique(truth))} packings; "
        f"{len(split)} packings split, {astray} structures apart from the others of their packing; "
        f"{len(pairs)} pairs of packings joined, {equal} of them equal by oxtalign (15 molecules "
        "within 0.3 Å)"
    )


def against_all_pairs(
    crystals: list[Crystal],
    energy: np.ndarray,
    truth: np.ndarray,
    parents: list[Crystal],
    size: int,
    rng: np.random.Generator,
) -> None:
    """The same sample by all pairs of StructureMatcher, of oxtalign, and by ours."""
    chosen = np.flatnonzero(np.isin(truth, rng.choice(len(parents), size // 4, replace=False)))
    chosen = np.sort(rng.permutation(chosen)[:size])
    sample, levels, true = [crystals[k] for k in chosen], energy[chosen], truth[chosen]
    print(f"\nsample of {len(sample)} structures of {len(np.unique(true))} packings")
    clusters, ours = timed(sample, levels)
    judge("ours", clusters.label, true, parents)
    packed = [Packing(crystal) for crystal in sample]

    def by_oxtalign(i: int, j: int) -> bool:
        found = matches(packed[i], packed[j])
        return found.full and found.rmsd is not None and found.rmsd <= DuplicateLimits().rmsd_A

    for name, same in (
        ("oxtalign", by_oxtalign),
        ("StructureMatcher", lambda i, j: structure_matcher_rms(sample[i], sample[j]) is not None),
    ):
        started = time.process_time()
        label = np.arange(len(sample))
        for i, j in itertools.combinations(range(len(sample)), 2):
            if same(i, j):
                label[label == label[j]] = label[i]
        seconds = time.process_time() - started
        judge(f"all pairs by {name}", label, true, parents)
        agree = np.array_equal(label[:, None] == label, clusters.label[:, None] == clusters.label)
        print(f"  {seconds:.0f} CPU s, {seconds / ours:.0f} times ours; "
              f"{'the same' if agree else 'not the same'} clusters")  # fmt: skip


def from_table(path: Path, molecule: str, limit: int) -> tuple[list[Crystal], np.ndarray]:
    """Crystals of the largest landscape of a molecule, and their energies, ascending."""
    rows = pq.read_table(path, filters=[("mol_hash", "=", molecule)]).to_pylist()
    groups: dict[tuple[str, str], list[dict]] = {}
    for row in rows:
        if row["erel_kjmol"] is not None:
            groups.setdefault((row["landscape"], row["model"]), []).append(row)
    rows = sorted(max(groups.values(), key=len), key=lambda row: row["erel_kjmol"])[:limit]
    crystals = []
    for row in rows:
        cell = np.array(row["cell"], dtype=np.float64).reshape(3, 3)
        positions = np.array(row["frac"], dtype=np.float64).reshape(-1, 3) @ cell
        crystals.append(
            Crystal(np.array(row["numbers"]), positions, right_handed(cell), row["n_mol"])
        )
    return crystals, np.array([row["erel_kjmol"] for row in rows])


if __name__ == "__main__":
    main()
