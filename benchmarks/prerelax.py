"""Does a relaxation with `springs` before the real one save time, and does it keep the basins?

Every candidate is generated, given its hydrogens and an `h_only` relaxation as in `csp run`; from
there it is relaxed with the engine in question, once as it is and once for every number of steps
of `springs` asked for. Seconds are those of the processor, in one process and one thread.

    python benchmarks/prerelax.py --n 12 --springs-steps 30 1000
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import time
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"

import numpy as np  # noqa: E402

from packflow_core.chem.molecule import Molecule  # noqa: E402
from packflow_core.crystal.crystal import Crystal  # noqa: E402
from packflow_core.engines.base import EV_TO_KJ_MOL  # noqa: E402
from packflow_core.store.rows import crystal_of  # noqa: E402

OBEQOD = "O=[N+]([O-])c1cc(Cl)c(Cl)cc1[N+](=O)[O-]"

#: Two relaxed crystals with energies (kJ/mol) and volumes (a fraction) this close are one.
SAME_ENERGY = 0.5
SAME_VOLUME = 0.01


@dataclass(frozen=True)
class End:
    """How a candidate ended.

    Attributes:
        status: ok, or what went wrong.
        energy: kJ/mol per molecule.
        volume: Å3 per molecule.
        density: g/cm3.
        steps: of the engine in question, without those of `h_only`.
        seconds: of these.
        springs_steps, springs_seconds: before them.
        springs_density: g/cm3, between the two.
    """

    status: str
    energy: float = np.nan
    volume: float = np.nan
    density: float = np.nan
    steps: int = 0
    seconds: float = 0.0
    springs_steps: int = 0
    springs_seconds: float = 0.0
    springs_density: float = np.nan


@lru_cache(maxsize=4)
def _engine(name: str) -> Any:
    import torch

    from packflow_core.engines.registry import get_engine

    torch.set_num_threads(1)
    return get_engine(name)


def _relax(crystal: Crystal, engine: str, molecule: Molecule, **params: Any) -> Any:
    from packflow_core.relax.protocol import RelaxParams
    from packflow_core.relax.relaxation import relax_crystal

    return relax_crystal(crystal, _engine(engine), RelaxParams(**params), molecule.bonds_h)


def relax_hydrogens(crystal: Crystal, engine: str, smiles: str) -> Crystal:
    """The start of all relaxations; runs in a worker."""
    return _relax(crystal, engine, Molecule.from_smiles(smiles), protocol="h_only").crystal


def relax(crystal: Crystal, engine: str, smiles: str, springs_steps: int) -> End:
    """One relaxation, after so many steps of `springs`; runs in a worker."""
    molecule = Molecule.from_smiles(smiles)
    before: dict[str, Any] = {}
    if springs_steps:
        # Libraries are loaded and threads are started outside the measurement.
        _relax(crystal, "springs", molecule, max_steps=1)
        began = time.process_time()
        pressed = _relax(crystal, "springs", molecule, max_steps=springs_steps)
        before = {
            "springs_steps": pressed.n_steps,
            "springs_seconds": time.process_time() - began,
            "springs_density": pressed.crystal.density,
        }
        crystal = pressed.crystal
    _engine(engine)
    began = time.process_time()
    end = _relax(crystal, engine, molecule)
    seconds = time.process_time() - began
    if end.last is None:
        return End(status=f"{end.status}: {end.reason}", steps=end.n_steps, **before)
    return End(
        status="ok" if str(end.status) == "ok" else f"{end.status}: {end.reason}",
        energy=end.last.energy / crystal.z * EV_TO_KJ_MOL,
        volume=end.crystal.volume / crystal.z,
        density=end.crystal.density,
        steps=end.n_steps,
        seconds=seconds,
        **before,
    )


def candidates(smiles: str, z: Sequence[int], n: int, seed: int) -> list[Crystal]:
    """Crystals as they leave the stage `hydrogenate`."""
    from packflow_core.stages.generate import GenerateParams, generate
    from packflow_core.stages.hydrogenate import HydrogenateParams, hydrogenate

    molecule = Molecule.from_smiles(smiles)
    rows = generate(
        range(n),
        smiles=molecule.smiles,
        z_values=z,
        seed=seed,
        target="prerelax",
        generator="packflow-open",
        params=GenerateParams(),
    )
    rows = [
        hydrogenate(row, molecule, HydrogenateParams()) for row in rows if row["status"] == "ok"
    ]
    return [crystal_of(row) for row in rows if row["status"] == "ok"]


class Process:
    """One worker process; another one where native code has killed it."""

    def __init__(self) -> None:
        self._pool: ProcessPoolExecutor | None = None

    def call(self, function: Any, *arguments: Any) -> Any:
        """The function's value; None where the process died of it."""
        if self._pool is None:
            spawn = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(1, mp_context=spawn)
        future: Future[Any] = self._pool.submit(function, *arguments)
        try:
            return future.result()
        except BrokenProcessPool:
            self._pool = None
            return None

    def close(self) -> None:
        """End the process."""
        if self._pool is not None:
            self._pool.shutdown()


def compare(plain: list[End], pressed: list[End], label: str) -> dict[str, Any]:
    """What the pre-relaxation changed, over candidates that ended `ok` both ways."""
    both = [
        (a, b) for a, b in zip(plain, pressed, strict=True) if (a.status, b.status) == ("ok", "ok")
    ]
    change = np.array([b.energy - a.energy for a, b in both])
    volume = np.array([b.volume / a.volume - 1 for a, b in both])
    lowest = sorted(a for a in {a.energy for a, _ in both})[:3]
    kept = [
        any(
            abs(b.energy - energy) < SAME_ENERGY and abs(b.volume / a.volume - 1) < SAME_VOLUME
            for _, b in both
            for a, _ in both
            if a.energy == energy
        )
        for energy in lowest
    ]
    same = (np.abs(change) < SAME_ENERGY) & (np.abs(volume) < SAME_VOLUME)
    return {
        "springs": label,
        "ok": f"{sum(e.status == 'ok' for e in pressed)}/{len(pressed)}",
        "engine steps": sum(b.steps for _, b in both),
        "of plain": sum(b.steps for _, b in both) / sum(a.steps for a, _ in both),
        "engine s": sum(b.seconds for _, b in both),
        "springs steps": sum(b.springs_steps for _, b in both),
        "springs s": sum(b.springs_seconds for _, b in both),
        "time of plain": sum(b.seconds + b.springs_seconds for _, b in both)
        / sum(a.seconds for a, _ in both),
        "same": int(same.sum()),
        "lower": int((~same & (change < 0)).sum()),
        "higher": int((~same & (change >= 0)).sum()),
        "mean change": float(change.mean()),
        "median change": float(np.median(change)),
        "best": min(b.energy for _, b in both) - min(a.energy for a, _ in both),
        "3 lowest kept": f"{sum(kept)}/{len(kept)}",
    }


def _table(rows: Sequence[dict[str, Any]]) -> str:
    def text(value: Any) -> str:
        return f"{value:.2f}" if isinstance(value, float) else str(value)

    head = list(rows[0])
    lines = [" | ".join(head), " | ".join("---" for _ in head)]
    lines += [" | ".join(text(row[name]) for name in head) for row in rows]
    return "\n".join(f"| {line} |" for line in lines)


def main() -> None:
    """Measure, and print two tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--smiles", default=OBEQOD)
    parser.add_argument("--z", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--n", type=int, default=12, help="candidates")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--engine", default="gfnff")
    parser.add_argument("--springs-steps", type=int, nargs="+", default=[30, 1000])
    parser.add_argument("--json", type=Path, help="write every single relaxation there")
    options = parser.parse_args()

    smiles = Molecule.from_smiles(options.smiles).smiles
    process = Process()
    starts = []
    for crystal in candidates(smiles, options.z, options.n, options.seed):
        start = process.call(relax_hydrogens, crystal, options.engine, smiles)
        if start is not None:
            starts.append(start)
    ends: dict[int, list[End]] = {steps: [] for steps in (0, *options.springs_steps)}
    details = []
    for number, start in enumerate(starts):
        row: dict[str, Any] = {"candidate": number, "z": start.z, "density": start.density}
        for steps, so_far in ends.items():
            end = process.call(relax, start, options.engine, smiles, steps) or End("crashed")
            so_far.append(end)
            name = f"{steps} " if steps else ""
            row |= {f"{name}steps": end.steps, f"{name}s": end.seconds}
            row |= {f"{name}kJ/mol": end.energy, f"{name}g/cm3": end.density}
            if end.status != "ok":
                row[f"{name}kJ/mol"] = end.status
        details.append(row)
        print(f"{number + 1}/{len(starts)}: {row}", flush=True)
        if options.json:
            every = {steps: [asdict(end) for end in some] for steps, some in ends.items()}
            options.json.write_text(json.dumps(every, indent=1))
    process.close()
    print(f"\n{smiles}, Z {options.z}, {len(starts)} candidates, engine {options.engine}\n")
    print(_table(details))
    print()
    labels = {0: "none"} | {steps: f"{steps} steps at most" for steps in options.springs_steps}
    print(_table([compare(ends[0], ends[steps], labels[steps]) for steps in ends]))


if __name__ == "__main__":
    main()
