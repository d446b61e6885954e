"""Would the limits of validity refuse sound crystals? And does every symmetrised crystal come back?

    python benchmarks/validity.py --data DIR --predicted 20000

DIR holds crystals.parquet and molecules.parquet (docs/training.md has the format): relaxed crystals
and experimental ones. All that are not merely predicted are judged, and so many predicted ones.
Of every tenth the symmetry ladder is climbed and the asymmetric unit is made.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from rdkit import Chem

from packflow_core.analysis.symmetrised import symmetrise
from packflow_core.analysis.symmetry import ladder_facts
from packflow_core.analysis.validity import find_invalidity
from packflow_core.chem.molecule import Molecule
from packflow_core.crystal.crystal import Crystal, right_handed
from packflow_core.crystal.validity_limits import ValidityLimits
from packflow_core.errors import UserInputError
from packflow_core.stages.density_window import expected_molecular_volume

COLUMNS = ["mol_hash", "cell", "numbers", "frac", "n_mol", "n_atoms_mol", "origin"]
EVERY = 10


def bare_graph(numbers: list[int], bonds: list[list[int]]) -> Chem.Mol:
    """Elements and bonds without orders, to find one order of atoms in another."""
    mol = Chem.RWMol()
    for number in numbers:
        atom = Chem.Atom(int(number))
        atom.SetNoImplicit(True)
        mol.AddAtom(atom)
    for i, j in bonds:
        mol.AddBond(i, j, Chem.BondType.SINGLE)
    return mol.GetMol()


def in_our_order(record: dict[str, Any]) -> tuple[Molecule, NDArray[np.int64]] | None:
    """The molecule, and the record's atoms in its order; None where that is not to be had."""
    try:
        molecule = Molecule.from_smiles(record["smiles"])
    except UserInputError:
        return None
    theirs = bare_graph(record["numbers"], np.array(record["bonds"]).reshape(-1, 2).tolist())
    match = theirs.GetSubstructMatch(
        bare_graph(molecule.numbers_h.tolist(), molecule.bonds_h.tolist())
    )
    if len(match) != len(record["numbers"]):
        return None
    return molecule, np.array(match, dtype=np.int64)


def as_crystal(row: dict[str, Any], order: NDArray[np.int64]) -> Crystal:
    """The crystal of a row, the atoms of every molecule in the order of ours."""
    z = int(row["n_mol"])
    atoms = (np.arange(z)[:, None] * row["n_atoms_mol"] + order).reshape(-1)
    cell = np.array(row["cell"], dtype=np.float64).reshape(3, 3)
    positions = np.array(row["frac"], dtype=np.float64).reshape(-1, 3) @ cell
    return Crystal(np.array(row["numbers"])[atoms], positions[atoms], right_handed(cell), z)


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--predicted", type=int, default=2000)
    arguments = parser.parse_args()
    records = {
        record["mol_hash"]: record
        for record in pq.read_table(arguments.data / "molecules.parquet").to_pylist()
    }
    table = pq.read_table(arguments.data / "crystals.parquet", columns=COLUMNS)
    predicted = pc.equal(table.column("origin"), "csp").to_numpy(zero_copy_only=False)
    chosen = np.random.default_rng(0).permutation(np.flatnonzero(predicted))
    chosen = np.concatenate([np.flatnonzero(~predicted), chosen[: arguments.predicted]])
    orders: dict[str, tuple[Molecule, NDArray[np.int64]] | None] = {}
    counts: Counter[tuple[str, str]] = Counter()
    agreement: list[float] = []
    shifts: list[float] = []
    lower = judged = 0
    seconds = np.zeros(3)
    for k in chosen.tolist():
        row = table.slice(k, 1).to_pylist()[0]
        if row["mol_hash"] not in orders:
            orders[row["mol_hash"]] = in_our_order(records[row["mol_hash"]])
        known = orders[row["mol_hash"]]
        if known is None:
            counts[row["origin"], "not read"] += 1
            continue
        molecule, order = known
        crystal = as_crystal(row, order)
        began = time.perf_counter()
        found = find_invalidity(
            crystal, molecule, ValidityLimits(), expected_molecular_volume(molecule)
        )
        seconds[0] += time.perf_counter() - began
        judged += 1
        counts[row["origin"], found.reason.value if found else "ok"] += 1
        if found:
            print(f"{row['origin']} {molecule.smiles}: {found.reason.value}, {found.detail}")
        if judged % EVERY:
            continue
        began = time.perf_counter()
        facts = ladder_facts(crystal, 0.1, 0.01, 0.3)
        seconds[1] += time.perf_counter() - began
        began = time.perf_counter()
        symmetric = symmetrise(crystal)
        seconds[2] += time.perf_counter() - began
        agreement.append(float(facts["space_group_agreement"] or 0.0))
        if symmetric is not None:
            shifts.append(symmetric.rmsd_A)
        lower += symmetric is None or symmetric.number != facts["space_group_number"]
    for (origin, outcome), count in sorted(counts.items()):
        print(f"{origin:28} {outcome:16} {count}")
    each = 1000 * seconds / np.array([judged, len(agreement), len(agreement)])
    print(f"ms each: validity {each[0]:.1f}, ladder {each[1]:.1f}, symmetrised {each[2]:.1f}")
    print(f"{len(agreement)} symmetrised, {lower} in a lower group than the one reported")
    print(f"shift of the atoms, Å: median {np.median(shifts):.1e}, largest {max(shifts):.3f}")
    print(f"all rungs agree: {np.mean(np.array(agreement) == 1.0):.3f}")


if __name__ == "__main__":
    main()
