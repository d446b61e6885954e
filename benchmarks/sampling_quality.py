"""Quality of the samples of a model against calls of its network, by solver and schedule.

    python benchmarks/sampling_quality.py measure VAL.npz RESULTS.jsonl
    python benchmarks/sampling_quality.py table RESULTS.jsonl
    python benchmarks/sampling_quality.py figure RESULTS.jsonl docs/images/sampling_calls.png

VAL.npz is a set prepared by `csp train --prepare`. Every molecule is sampled at its most frequent
Z. `measure` appends a line for each schedule and seed and skips those that are there. All
schedules start from the same noise, so differences are taken molecule by molecule; their intervals
are 95 % intervals of a bootstrap over molecules.
"""

from __future__ import annotations

import os

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")

import argparse
import json
import sys
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from packflow_core.chem.elements import COVALENT_RADII
from packflow_core.chem.molecule import Molecule
from packflow_core.crystal.contacts import BOND_TOLERANCE
from packflow_core.crystal.lattice import is_valid_parameters, parameters_to_cell
from packflow_core.evaluation.descriptors import describe
from packflow_core.model.checkpoint import load_model
from packflow_core.model.sampler import Sampler, Schedule
from packflow_core.model.solvers import Solver
from packflow_core.training.data import TrainingSet

FloatArray = NDArray[np.float64]

DEFAULT = "10 ab2"
TIMES = (0.7, 0.6, 0.5, 0.4, 0.3, 0.2)
RAW_REFERENCE, REFERENCE = "30 Euler, power 1.5", "30 Euler, power 1.5 + 6 x 10"
_STEPS: dict[Solver, tuple[int, ...]] = {
    "euler": (4, 8, 15, 30),
    "ab2": (4, 6, 8, 10, 12, 20, 30),
    "heun": (3, 5, 8, 15),
    "midpoint": (2, 4, 8, 15),
}
SCHEDULES = {
    REFERENCE: Schedule(30, "euler", 1.5, TIMES, 10),
    "8 AB2 + 6 x 2": Schedule(8, "ab2", 1.0, TIMES, 2),
    RAW_REFERENCE: Schedule(30, "euler", 1.5),
    **{f"{n} {solver}": Schedule(n, solver) for solver, ns in _STEPS.items() for n in ns},
    "4 AB2 + 6 x 2": Schedule(4, "ab2", 1.0, TIMES, 2),
    "8 AB2 + 6 x 1": Schedule(8, "ab2", 1.0, TIMES, 1),
    "8 AB2 + 6 x 3": Schedule(8, "ab2", 1.0, TIMES, 3),
    "8 AB2 + 6 x 5": Schedule(8, "ab2", 1.0, TIMES, 5),
    "8 AB2 + 3 x 4": Schedule(8, "ab2", 1.0, (0.6, 0.4, 0.2), 4),
    "8 Euler + 6 x 2": Schedule(8, "euler", 1.0, TIMES, 2),
    "4 midpoint + 6 x 1": Schedule(4, "midpoint", 1.0, TIMES, 1),
}
#: Name, heading, factor and whether less is better.
METRICS = (
    ("bonds", "bonds within 0.4 Å, %", 100.0, False),
    ("density", "density error, %", 100.0, True),
    ("clash", "clash rate, %", 1.0, True),
    ("amd", "AMD to the nearest minimum, Å", 1.0, True),
    ("best", "the best of 16, Å", 1.0, True),
    ("diversity", "AMD between samples, Å", 1.0, False),
)


#: Colour, marker and name of the solvers.
LOOKS = {
    "euler": ("#0072B2", "o", "Euler"),
    "ab2": ("#D55E00", "s", "AB2"),
    "heun": ("#009E73", "^", "Heun"),
    "midpoint": ("#CC79A7", "D", "midpoint"),
}
TICKS = (4, 8, 14, 20, 30, 50, 90)

Metric = tuple[str, str, float, bool]
#: Calls, number of seeds and [seeds, molecules] of every metric, by schedule.
Means = dict[str, tuple[int, int, dict[str, FloatArray]]]


class Watched(Sampler):
    """Remembers molecules as the network left them, before they become conformers."""

    drawn: list[FloatArray]

    def _mended(self, molecules: FloatArray) -> FloatArray:
        self.drawn.append(molecules)
        return super()._mended(molecules)


class Target:
    """A molecule, the Z to sample, and its low-energy crystals."""

    def __init__(self, data: TrainingSet, index: int, model: Any) -> None:
        crystals = np.flatnonzero(data.molecule == index)
        self.z = int(np.bincount(data.z[crystals]).argmax())
        volumes = np.linalg.det(data.cells[crystals].astype(np.float64)) / data.z[crystals]
        self.volume = float(np.median(volumes)) * self.z
        self.molecule = Molecule.from_smiles(data.smiles[index])
        self.sampler = Watched(model, self.molecule)
        lowest = crystals[np.argsort(np.nan_to_num(data.erel[crystals]), kind="stable")][:40]
        self.known = np.stack([self._amd(data, i) for i in lowest])

    def _amd(self, data: TrainingSet, crystal: int) -> FloatArray:
        numbers = np.tile(self.molecule.numbers, int(data.z[crystal]))
        cell = data.cells[crystal].astype(np.float64)
        x = np.asarray(data.crystal(crystal), dtype=np.float64).reshape(1, -1, 3)
        return describe(numbers, x, cell[None]).amd[0]

    def measure(self, schedule: Schedule, n: int, seed: int) -> dict[str, float]:
        """Means over n samples."""
        self.sampler.drawn = []
        samples = self.sampler.sample(self.z, range(n), seed, schedule)
        ends = self.sampler.drawn[-n:] if schedule.restarts else [s.positions for s in samples]
        x = np.stack(ends).reshape(-1, self.molecule.n_heavy, 3)
        i, j = self.molecule.bonds.T
        radii = COVALENT_RADII[self.molecule.numbers]
        error = np.abs(np.linalg.norm(x[:, i] - x[:, j], axis=-1) - (radii[i] + radii[j]))
        fine = [s for s in samples if is_valid_parameters(s.parameters)]
        cells = np.stack([parameters_to_cell(s.parameters) for s in fine])
        numbers = np.tile(self.molecule.numbers, self.z)
        found = describe(numbers, np.stack([s.positions for s in fine]), cells)
        away = np.abs(found.amd[:, None] - self.known).max(-1).min(1)
        apart = np.abs(found.amd[:, None] - found.amd).max(-1)
        return {
            "bonds": float((error <= BOND_TOLERANCE).mean()) if error.size else float("nan"),
            "density": float(np.nanmean(np.abs(self.volume / found.volume - 1))),
            "clash": float(np.nanmean(found.clash_percent)),
            "amd": float(np.nanmean(away)),
            "best": float(np.nanmin(away)),
            "diversity": float(np.nanmean(apart[np.triu_indices(len(apart), 1)])),
            "valid": len(fine) / n,
        }


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parts = parser.add_subparsers(required=True)
    part = parts.add_parser("measure", help="sample and append to RESULTS")
    part.add_argument("data", type=Path)
    part.add_argument("results", type=Path)
    part.add_argument("--model", default="packflow-open")
    part.add_argument("--molecules", type=int, default=12)
    part.add_argument("--samples", type=int, default=16)
    part.add_argument("--seed", type=int, action="append", help="may be repeated; 0")
    part.add_argument("--only", action="append", help="schedule; may be repeated; all")
    part.add_argument("--symmetric", action="store_true", help="hold samples to space groups")
    part.set_defaults(run=measure)
    part = parts.add_parser("table", help="print RESULTS as Markdown")
    part.add_argument("results", type=Path)
    part.set_defaults(run=table)
    part = parts.add_parser("figure", help="draw RESULTS")
    part.add_argument("results", type=Path)
    part.add_argument("image", type=Path)
    part.set_defaults(run=figure)
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.run(args)


def measure(args: argparse.Namespace) -> None:
    """Run every schedule and seed that RESULTS lacks."""
    there = {(d["schedule"], d["seed"]) for d in _lines(args.results)}
    data = TrainingSet.load(args.data)
    model = load_model(args.model).model
    places = np.linspace(0, len(data.smiles) - 1, args.molecules).astype(int)
    targets = [Target(data, int(m), model) for m in places]
    for seed in args.seed or [0]:
        for name in args.only or SCHEDULES:
            if (name, seed) in there:
                continue
            schedule = replace(SCHEDULES[name], symmetric=args.symmetric)
            begun = time.process_time()
            found = [t.measure(schedule, args.samples, seed) for t in targets]
            line = {
                "schedule": name,
                "seed": seed,
                "calls": schedule.network_calls,
                "seconds": time.process_time() - begun,
                "targets": found,
            }
            with args.results.open("a") as file:
                file.write(json.dumps(line) + "\n")


def table(args: argparse.Namespace) -> None:
    """Means over molecules and seeds, and differences from the reference with intervals."""
    found = _means(args.results)
    print("| schedule | calls |" + "".join(f" {m[1]} |" for m in METRICS) + " seeds |")
    print("|---" * (len(METRICS) + 3) + "|")
    for name, (calls, seeds, values) in found.items():
        base = REFERENCE if SCHEDULES[name].restarts else RAW_REFERENCE
        cells = []
        for key, _, factor, _ in METRICS:
            mean = factor * np.nanmean(values[key])
            places = 1 if factor == 100.0 or key == "clash" else 3
            text = f"{mean:.{places}f}"
            if name != base and base in found:
                low, high = factor * _interval(values[key], found[base][2][key])
                text += f" ({low:+.{places}f} to {high:+.{places}f})"
            cells.append(text)
        print(f"| {name} | {calls} | " + " | ".join(cells) + f" | {seeds} |")


def figure(args: argparse.Namespace) -> None:
    """Four metrics against calls; bars are intervals of the difference from the reference."""
    found = _means(args.results)
    drawing = Figure(figsize=(10, 7.2), layout="constrained")
    for axes, metric in zip(drawing.subplots(2, 2).flat, METRICS[:4], strict=True):
        _draw(axes, metric, found)
    handles, labels = drawing.axes[0].get_legend_handles_labels()
    drawing.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    drawing.savefig(args.image, dpi=110)


def _draw(axes: Axes, metric: Metric, found: Means) -> None:
    key, heading, factor, less = metric
    groups: dict[tuple[str, bool], list[tuple[float, float, float, float]]] = defaultdict(list)
    for name, (calls, _, values) in found.items():
        if name in (RAW_REFERENCE, REFERENCE):
            continue
        restarted = bool(SCHEDULES[name].restarts)
        base = found[REFERENCE if restarted else RAW_REFERENCE][2][key]
        seeds = min(len(base), len(values[key]))
        centre = factor * float(np.nanmean(base))
        shift = factor * float(np.nanmean(values[key][:seeds] - base[:seeds]))
        low, high = factor * _interval(values[key], base)
        # Points of equal calls stand side by side, the default in the middle.
        place = calls * {"8 AB2 + 3 x 4": 1.06, "8 Euler + 6 x 2": 0.94}.get(name, 1.0)
        point = (place, centre + shift, shift - low, high - shift)
        if name == DEFAULT:
            ring, label = centre + shift, f"{name}: default"
            axes.plot(place, ring, "o", ms=14, mfc="none", mec="#1b1f24", ls="none", label=label)
        groups[SCHEDULES[name].solver, restarted].append(point)
    for (solver, restarted), points in groups.items():
        colour, marker, label = LOOKS[solver]
        x, y, below, above = np.array(sorted(points)).T
        axes.errorbar(
            x, y, (below, above), fmt=marker, ms=5, color=colour, elinewidth=0.9, capsize=2,
            ls="none" if restarted else "-", lw=1.3, mfc="white" if restarted else colour,
            label=f"{label}, restarts" if restarted else label,
        )  # fmt: skip
    for name, style in ((RAW_REFERENCE, ":"), (REFERENCE, "--")):
        centre = factor * float(np.nanmean(found[name][2][key]))
        axes.axhline(centre, color="#6b737c", lw=1, ls=style)
        axes.plot(
            found[name][0], centre, "*" if name == REFERENCE else "P", ms=10, color="#1b1f24",
            ls="none", label=f"{name} (reference)",
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set_xticks(TICKS, [str(t) for t in TICKS])
    axes.minorticks_off()
    axes.set(xlabel="calls of the network", ylabel=heading)
    axes.set_title(("less" if less else "more") + " is better", fontsize=9, color="#6b737c")
    axes.grid(color="#e4e7eb")


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]


def _means(path: Path) -> Means:
    grouped = defaultdict(list)
    for line in _lines(path):
        grouped[line["schedule"]].append(line)
    found = {}
    for name in SCHEDULES:
        if lines := sorted(grouped.get(name, []), key=lambda line: line["seed"]):
            values = {
                key: np.array([[t[key] for t in line["targets"]] for line in lines])
                for key, *_ in METRICS
            }
            found[name] = (lines[0]["calls"], len(lines), values)
    return found


def _interval(one: FloatArray, other: FloatArray) -> FloatArray:
    """95 % interval of the mean difference, paired by seed and molecule, bootstrapped."""
    seeds = min(len(one), len(other))
    difference = np.nanmean(one[:seeds] - other[:seeds], axis=0)
    rng = np.random.default_rng(0)
    picks = rng.integers(0, len(difference), (10_000, len(difference)))
    return np.percentile(np.nanmean(difference[picks], axis=1), [2.5, 97.5])


if __name__ == "__main__":
    main()
