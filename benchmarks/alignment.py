"""What an alignment gains and costs: a base and an aligned generator, molecule by molecule.

    python benchmarks/alignment.py run MOLECULES.smi --generator packflow-open \
        --generator aligned/model.safetensors --n 16 --out DIR
    python benchmarks/alignment.py table DIR
    python benchmarks/alignment.py proxy DIR
    python benchmarks/alignment.py gain MOLECULES.smi --generator packflow-open \
        --generator aligned/model.safetensors --mode pressed --n 32
    python benchmarks/alignment.py curves FOLDER[=LABEL]... --out curves.png
    python benchmarks/alignment.py tradeoff FOLDER[=LABEL]... --out tradeoff.png

`run` is `csp run` of every molecule (SMILES and name a line) with every generator, same seed, same
Z, same settings; called again it goes on. `table` compares the first generator with the second:
raw proposals, proposals as they go into the relaxation, and what comes out. `proxy` asks how well
the scores that an alignment uses foretell the relaxed energies of the same candidates: cosine and
sign agreement of standardised advantages (PackFlow, appendix A). `gain` scores fresh candidates as
an alignment does, without relaxing them: minutes where `run` takes hours. `curves` and
`tradeoff` draw logs of alignments.
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from numpy.typing import NDArray

from packflow_core.align.advantages import standardised
from packflow_core.align.gain import RewardGain
from packflow_core.align.molecules import read_molecules
from packflow_core.align.params import AlignParams
from packflow_core.align.rewards import Mode, group_rewards, score_candidates
from packflow_core.chem.molecule import Molecule
from packflow_core.crystal.contacts import bond_errors, bond_statistics, clashing_atoms
from packflow_core.engines.base import EV_TO_KJ_MOL
from packflow_core.model.checkpoint import load_model
from packflow_core.race.comparison import compare_runs
from packflow_core.race.legs import Leg, read_leg
from packflow_core.race.settings import CompareSettings
from packflow_core.stages.run_store import RunStore
from packflow_core.store.rows import crystal_of
from packflow_core.workers import WorkerPool

matplotlib.use("Agg")

FloatArray = NDArray[np.float64]

#: Candidates whose advantages are compared at most, as in a group of an alignment, and at least.
_GROUP, _FEWEST = 16, 8


def run(
    molecules: Path,
    generators: list[str],
    n: int,
    z: str,
    workers: int,
    out: Path,
    settings: Sequence[str] = (),
) -> None:
    """Predict every molecule with every generator; finished runs are left as they are."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "generators.txt").write_text("\n".join(generators))
    for line in molecules.read_text().splitlines():
        smiles, name = line.split()
        for number, generator in enumerate(generators):
            folder = out / name / str(number)
            subprocess.run(
                ["csp", "run", smiles, "--name", name, "--n", str(n), "--z", z, "--quiet",
                 "--workers", str(workers), *(x for text in settings for x in ("--set", text)),
                 "--generator", generator, "--out", str(folder)],
                check=True,
            )  # fmt: skip
            print(name, generator, flush=True)


def raw_quality(run_folder: RunStore) -> dict[str, float]:
    """Clashes, bonds and volume of the network's own crystals."""
    molecule = Molecule.from_smiles(run_folder.plan.spec.smiles)
    rows = run_folder.stage("generate").table().to_pylist()
    crystals = [crystal_of(row) for row in rows if row["status"] == "ok"]
    return {
        "clash": float(np.mean([clashing_atoms(c).mean() for c in crystals])),
        "bonds": float(
            np.mean([bond_statistics(bond_errors(c, molecule.bonds))[0] for c in crystals])
        ),
        "volume": float(np.mean([c.volume / c.z for c in crystals])),
    }


def compared(folder: Path) -> dict[str, float]:
    """Numbers of one molecule: base, aligned, in kJ/mol above the lowest of both."""
    stores = [RunStore(folder / str(k)) for k in (0, 1)]
    legs = [read_leg(store, f"leg {k}") for k, store in enumerate(stores)]
    race = compare_runs([store.folder for store in stores], CompareSettings(), folder / "race")
    zero = min(float(np.nanmin(leg.energy)) for leg in legs)
    numbers: dict[str, float] = {}
    budget = min(float(leg.cost_s.sum()) for leg in legs)
    for k, (store, leg) in enumerate(zip(stores, legs, strict=True)):
        found = raw_quality(store)
        start = (leg.energy_start - zero) * EV_TO_KJ_MOL
        end = (leg.energy - zero) * EV_TO_KJ_MOL
        inside = np.cumsum(leg.cost_s) <= budget
        found |= {
            "start": float(np.nanmedian(start)),
            "lowest": float(np.nanmin(end)),
            "lowest_budget": float(np.nanmin(np.where(inside, end, np.nan))),
            "median": float(np.nanmedian(end)),
            "density": float(np.nanmedian(leg.density_start)),
            "basins": float(race.basins.found()[k].sum()),
            "ranked": float(leg.ranked.sum()),
            "seconds": float(leg.cost_s.mean()),
        }
        numbers |= {f"{name}_{k}": value for name, value in found.items()}
    return numbers


def table(out: Path) -> None:
    """Print the numbers of every molecule, their means, and how often the second is better."""
    lines = []
    for folder in sorted(p for p in out.iterdir() if (p / "1" / "run.json").exists()):
        lines.append({"molecule": folder.name, **compared(folder)})
    if not lines:
        sys.exit(f"{out} holds no finished pair of runs.")
    with (out / "alignment.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)
    names = [name.removesuffix("_0") for name in lines[0] if name.endswith("_0")]
    print("molecule".ljust(12), *(f"{name:>19}" for name in names))
    for line in lines:
        pairs = (f"{line[f'{n}_0']:9.3f} {line[f'{n}_1']:9.3f}" for n in names)
        print(str(line["molecule"])[:12].ljust(12), *pairs)
    values = {n: np.array([[line[f"{n}_{k}"] for k in (0, 1)] for line in lines]) for n in names}
    print("mean".ljust(12), *("{:9.3f} {:9.3f}".format(*values[n].mean(0)) for n in names))
    for name in names:
        less = values[name][:, 1] - values[name][:, 0]
        print(
            f"{name}: second less in {int((less < -1e-9).sum())}, more in "
            f"{int((less > 1e-9).sum())} of {len(less)}; change {less.mean():+.3f} "
            f"(standard error {less.std(ddof=1) / np.sqrt(len(less)) if len(less) > 1 else 0:.3f})"
        )


def agreement(proxy: FloatArray, truth: FloatArray) -> tuple[float, float]:
    """Cosine and sign agreement of standardised advantages of a group; NaN takes no part."""
    known = np.isfinite(proxy) & np.isfinite(truth)
    a, b = standardised(-proxy[known]), standardised(-truth[known])
    cosine = float(a @ b / max(float(np.linalg.norm(a) * np.linalg.norm(b)), 1e-12))
    return cosine, float((np.sign(a) == np.sign(b)).mean())


def proxies(leg: Leg, store: RunStore, engine: str) -> list[dict[str, float]]:
    """Agreement of each kind of score with the relaxed energies, group by group of one Z."""
    smiles = store.plan.spec.smiles
    rows = {row["index"]: row for row in store.stage("generate").table().to_pylist()}
    z = np.array([rows[k]["z"] for k in range(len(leg))])
    kinds: dict[str, tuple[Mode, int]] = {
        "hydrogens": ("hydrogens", 0), "hydrogens, 25 steps": ("hydrogens", 25),
        "pressed": ("pressed", 0),
    }  # fmt: skip
    found = []
    for one in np.unique(z):
        members = np.flatnonzero(z == one)
        for start in range(0, len(members), _GROUP):
            group = members[start : start + _GROUP]
            if len(group) < _FEWEST:
                continue
            line: dict[str, float] = {}
            for kind, (mode, steps) in kinds.items():
                made = [rows[k] for k in group]
                scored = score_candidates(
                    list(enumerate(made)),
                    smiles,
                    engine,
                    mode,
                    steps,
                )
                scores = dict(pair for pair in scored if pair is not None)
                energies, forces = group_rewards(
                    [scores[k] for k in range(len(group))], penalise=True
                )
                for channel, values in (("energy", energies), ("force", forces)):
                    cosine, sign = agreement(values, leg.energy[group])
                    line[f"{kind}: {channel}, AVA"] = cosine
                    line[f"{kind}: {channel}, sign"] = sign
            found.append(line)
    return found


def proxy(out: Path) -> None:
    """Print the mean agreement of each kind of score over all groups of base runs."""
    lines: list[dict[str, float]] = []
    for folder in sorted(p for p in out.iterdir() if (p / "0" / "run.json").exists()):
        store = RunStore(folder / "0")
        lines += proxies(read_leg(store, "base"), store, store.plan.spec.engine)
    print(f"{len(lines)} groups of {_FEWEST} to {_GROUP} candidates")
    for name in lines[0]:
        values = np.array([line[name] for line in lines])
        print(
            f"{name}: {values.mean():.2f} (standard error {values.std() / len(lines) ** 0.5:.2f})"
        )


def gain(
    molecules: Path, generators: list[str], mode: Mode, n: int, z: tuple[int, ...], workers: int
) -> None:
    """Print what the second and later generators gain over the first, molecule by molecule."""
    chemistry = read_molecules(molecules, "val")
    base = load_model(generators[0])
    params = AlignParams(mode=mode, group_size=n, z=z, max_heavy=10_000)
    with WorkerPool(workers) as pool:
        watch = RewardGain(
            chemistry, base.preset, params, base.model.eval(), pool, molecules=10_000
        )
        for generator in generators[1:]:
            values = watch.per_molecule(load_model(generator).model.eval())
            print(generator, "less", generators[0], f"({mode}, {n} candidates)")
            print(" ".join(f"{name:>11}" for name in watch.names))
            for group, line in zip(watch.groups, values, strict=True):
                print(" ".join(f"{value:11.3f}" for value in line), group.smiles)
            for name, column in zip(watch.names, values.T, strict=True):
                known = column[np.isfinite(column)]
                error = known.std(ddof=1) / np.sqrt(len(known)) if len(known) > 1 else np.nan
                print(
                    f"{name}: {known.mean():+.3f} (standard error {error:.3f}), below 0 in "
                    f"{int((known < 0).sum())} of {len(known)}",
                    flush=True,
                )


def curves(folders: list[str], out: Path) -> None:
    """Draw rollouts, validation and divergence of alignments by step."""
    panels = [
        ("sound", "sound rollouts"), ("val_clash", "clashing atoms, validation"),
        ("val_bonds", "bonds within 0.4 Å, validation"),
        ("val_energy", "energy less the reference's (kJ/mol)"),
        ("val_force", "force less the reference's (eV/Å)"),
        ("divergence", "divergence from the reference"),
    ]  # fmt: skip
    figure, grid = plt.subplots(2, 3, figsize=(11, 6), layout="constrained")
    axes = grid.ravel()
    for given in folders:
        label, log = read_log(given)
        for axis, (column, title) in zip(axes, panels, strict=True):
            steps, values = known_values(log, column)
            axis.plot(steps, values, marker=".", label=label)
            axis.set(xlabel="step", title=title)
            axis.xaxis.get_major_locator().set_params(integer=True)
    axes[-1].set_yscale("log")
    axes[0].legend(frameon=False, fontsize=8)
    figure.savefig(out, dpi=100)
    print(out)


def tradeoff(folders: list[str], out: Path) -> None:
    """Draw energy against force where alignments end, as for shares of the energy (Fig. 4d)."""
    figure, axis = plt.subplots(figsize=(4.6, 3.8), layout="constrained")
    axis.axhline(0, color="0.8", linewidth=1)
    axis.axvline(0, color="0.8", linewidth=1)
    for given in folders:
        label, log = read_log(given)
        (_, force), (_, energy) = known_values(log, "val_force"), known_values(log, "val_energy")
        axis.plot(force[-1], energy[-1], "o")
        axis.annotate(label, (force[-1], energy[-1]), xytext=(5, 5), textcoords="offset points")
    axis.set(
        xlabel="median force less the reference's (eV/Å)",
        ylabel="median energy less the reference's (kJ/mol)",
    )
    axis.margins(0.2)
    figure.savefig(out, dpi=100)
    print(out)


def read_log(given: str) -> tuple[str, list[dict[str, str]]]:
    """Label and log of FOLDER or FOLDER=LABEL."""
    name, _, label = given.partition("=")
    folder = Path(name)
    with (folder / "training-log.csv").open() as stream:
        return label or folder.name, list(csv.DictReader(stream))


def known_values(log: list[dict[str, str]], column: str) -> tuple[FloatArray, FloatArray]:
    """Steps and values of a column where it has one."""
    steps = np.array([float(row["step"]) for row in log])
    values = np.array([float(row.get(column) or "nan") for row in log])
    known = np.isfinite(values)
    return steps[known], values[known]


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = parser.add_subparsers(dest="what", required=True)
    part = parts.add_parser("run")
    part.add_argument("molecules", type=Path)
    part.add_argument("--generator", action="append", required=True)
    part.add_argument("--n", type=int, default=16)
    part.add_argument("--z", default="2,4")
    part.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    part.add_argument("--out", type=Path, required=True)
    part.add_argument("--set", action="append", default=[], help="FIELD=VALUE of csp run")
    for name in ("table", "proxy"):
        parts.add_parser(name).add_argument("out", type=Path)
    part = parts.add_parser("gain")
    part.add_argument("molecules", type=Path)
    part.add_argument("--generator", action="append", required=True)
    part.add_argument("--mode", choices=("heavy", "hydrogens", "pressed"), default="pressed")
    part.add_argument("--n", type=int, default=32)
    part.add_argument("--z", type=int, default=2)
    part.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    for name in ("curves", "tradeoff"):
        part = parts.add_parser(name)
        part.add_argument("folders", nargs="+", metavar="FOLDER[=LABEL]")
        part.add_argument("--out", type=Path, default=Path(f"{name}.png"))
    given = parser.parse_args()
    if given.what == "run":
        run(given.molecules, given.generator, given.n, given.z, given.workers, given.out, given.set)
    elif given.what == "table":
        table(given.out)
    elif given.what == "proxy":
        proxy(given.out)
    elif given.what == "gain":
        gain(given.molecules, given.generator, given.mode, given.n, (given.z,), given.workers)
    else:
        (curves if given.what == "curves" else tradeoff)(given.folders, given.out)


if __name__ == "__main__":
    main()
