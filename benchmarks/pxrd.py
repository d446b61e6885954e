"""Is the right structure the one whose powder pattern fits best? Measured on known twins.

The pattern of a known form, relaxed from experiment in one model (`NAME_minexp.cif`), stands for
the measured one. Among other predicted structures of its molecule, and its other known forms, the
structure that a search found for it (`NAME_csp.cif`, often of another model, in a cell of another
size) should come first. For several widths of the triangle, with and without scaling of the cell.

    python benchmarks/pxrd.py --data DIR --pairs 30 --others 30

DIR holds crystals.parquet and reference_forms/ with manifest.csv (docs/training.md has the format).
"""

from __future__ import annotations

import argparse
import csv
import time
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from packflow_core.analysis.pxrd_measured import MeasuredPattern
from packflow_core.analysis.pxrd_patterns import PxrdParams, find_reflections, profile
from packflow_core.analysis.pxrd_similarity import PatternMatch, compare
from packflow_core.crystal.cif import read_cif
from packflow_core.crystal.crystal import Crystal, right_handed

COLUMNS = ["cell", "numbers", "frac", "n_mol"]


def twins(folder: Path) -> list[tuple[str, str, list[Path]]]:
    """Known forms that are there twice: name, molecule, and the files of its other forms."""
    with (folder / "manifest.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["homomolecular"] == "True"]
    kept = {row["file"]: row for row in rows if (folder / row["file"]).is_file()}
    found = []
    for name in sorted({file.rsplit("_", 1)[0] for file in kept}):
        if f"{name}_csp.cif" not in kept or f"{name}_minexp.cif" not in kept:
            continue
        molecule = kept[f"{name}_csp.cif"]["mol_hash"]
        others = [
            folder / file
            for file, row in kept.items()
            if row["mol_hash"] == molecule and not file.startswith(f"{name}_")
        ]
        found.append((name, molecule, others))
    return found


def landscape(data: Path, molecule: str, n: int, seed: int) -> list[Crystal]:
    """Predicted structures of a molecule that match no known form."""
    wanted = (pc.field("mol_hash") == molecule) & (pc.field("origin") == "csp")
    table = pq.read_table(data / "crystals.parquet", columns=COLUMNS, filters=wanted)
    chosen = np.random.default_rng(seed).permutation(len(table))[:n]
    crystals = []
    for row in table.take(np.sort(chosen)).to_pylist():
        cell = np.array(row["cell"], dtype=np.float64).reshape(3, 3)
        positions = np.array(row["frac"], dtype=np.float64).reshape(-1, 3) @ cell
        crystals.append(
            Crystal(np.array(row["numbers"]), positions, right_handed(cell), int(row["n_mol"]))
        )
    return crystals


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=30)
    parser.add_argument("--others", type=int, default=30)
    parser.add_argument("--widths", type=float, nargs="+", default=[0.3, 0.6, 1.0, 2.0])
    arguments = parser.parse_args()
    forms = arguments.data / "reference_forms"
    places: dict[tuple[float, bool], list[int]] = {}
    own: dict[tuple[float, bool], list[float]] = {}
    foreign: dict[tuple[float, bool], list[float]] = {}
    ratios, seconds, compared = [], 0.0, 0
    pairs = twins(forms)
    step = max(1, len(pairs) // arguments.pairs)
    for k, (name, molecule, others) in enumerate(pairs[::step][: arguments.pairs]):
        truth = read_cif(forms / f"{name}_minexp.cif")
        candidates = [read_cif(forms / f"{name}_csp.cif"), *map(read_cif, others)]
        candidates += landscape(arguments.data, molecule, arguments.others, k)
        ratios.append(candidates[0].density / truth.density)
        for width in arguments.widths:
            params = PxrdParams(shift_deg=width)
            pattern = profile(find_reflections(truth, params), params)
            measured = MeasuredPattern(pattern, np.ones(len(pattern), dtype=bool))
            began = time.perf_counter()
            found: list[PatternMatch] = [
                compare(find_reflections(crystal, params), measured, params)
                for crystal in candidates
            ]
            seconds += time.perf_counter() - began
            compared += len(candidates)
            for scaled in (False, True):
                values = [m.similarity_scaled if scaled else m.similarity for m in found]
                places.setdefault((width, scaled), []).append(
                    1 + sum(value > values[0] for value in values[1:])
                )
                own.setdefault((width, scaled), []).append(values[0])
                foreign.setdefault((width, scaled), []).append(max(values[1:]))
        print(f"{name}: density ratio {ratios[-1]:.3f}, {len(candidates)} candidates", flush=True)
    print(
        f"\n{len(ratios)} forms, density of the twin over that of the form {min(ratios):.3f} to "
        f"{max(ratios):.3f}, {1000 * seconds / compared:.0f} ms a structure"
    )
    print("width  cell     first  best three  similarity of the twin  best of the others")
    for (width, scaled), found_places in places.items():
        ranks, twin = np.array(found_places), np.array(own[width, scaled])
        others_best = np.array(foreign[width, scaled])
        print(
            f"{width:5.1f}  {'scaled ' if scaled else 'relaxed'}  {(ranks == 1).mean():5.2f}  "
            f"{(ranks <= 3).mean():10.2f}  {np.median(twin):.3f} ({twin.min():.3f} to "
            f"{twin.max():.3f})  {np.median(others_best):.3f} (nine of "
            f"ten below {np.percentile(others_best, 90):.3f})"
        )


if __name__ == "__main__":
    main()
