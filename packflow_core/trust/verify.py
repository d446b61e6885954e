"""The guards of a ranking: the best structures in other cells, and relaxed tighter.

Everything is computed in workers, one energy or relaxation at a time, and kept as soon as it is
there. What was computed under the same key is not computed again, so a command that was killed
goes on where it was, and one with a larger N adds to what is there.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from packflow_core import progress
from packflow_core.engines.base import EV_TO_KJ_MOL
from packflow_core.relax.protocol import RelaxParams
from packflow_core.store.rows import Row, crystal_of
from packflow_core.store.schema import Status
from packflow_core.trust.equivalent_cells import CELLS, HEIGHT_A, energy_written_as
from packflow_core.trust.findings import cell_findings, tight_findings
from packflow_core.trust.rank_doubt import rank_doubts
from packflow_core.trust.records import Records, key_of
from packflow_core.trust.tight_relaxation import relax_tightly
from packflow_core.trust.verify_table import Verification
from packflow_core.workers import Outcome, WorkerPool

logger = logging.getLogger(__name__)

#: Folder of the single results, in the run's folder.
RECORDS_FOLDER = "trust"
#: Names of the two guards in the progress.
CELLS_STAGE, TIGHT_STAGE = "other cells", "tighter"


@dataclass(frozen=True)
class Means:
    """With what to compute.

    Attributes:
        engine: name of the engine.
        identity: its identity.
        pool: the workers.
        limit_s: time limit of one item, s.
        go_on: called after each outcome; what it raises ends the work.
    """

    engine: str
    identity: str
    pool: WorkerPool
    limit_s: float
    go_on: Callable[[], None] = lambda: None


def verify(
    rows: Sequence[Row],
    folder: Path,
    means: Means,
    tight: RelaxParams | None = None,
    smiles: str = "",
) -> Verification:
    """Score structures in equivalent cells and, where asked for, relax them tighter.

    Args:
        rows: ranked rows, best first, by the engine of `means`.
        folder: for the single results, see `RECORDS_FOLDER`.
        means: engine, workers and limits.
        tight: parameters of the tighter relaxation; none is made when None.
        smiles: the molecule; needed for the relaxation.

    Returns:
        One row per structure. What could not be computed is empty, with the reason beside it.
    """
    found = [_identity(row, means.identity) for row in rows]
    with Records(folder / RECORDS_FOLDER) as records:
        for row, columns in zip(found, _in_other_cells(rows, means, records), strict=True):
            row.update(columns)
        if tight is not None:
            relaxed = relaxed_tightly(rows, means, records, tight, smiles)
            for row, columns in zip(found, relaxed, strict=True):
                row.update(columns)
    _doubts(found)
    for row in found:
        if row.get("larger_kJ_mol") is not None:
            row["_larger"] = row["lattice_energy_rel_kJ_mol"] + row["larger_kJ_mol"]
    _places(found, "_larger", "larger_rank")
    _places(found, "tight_energy_per_molecule_eV", "tight_rank")
    for row in found:
        row.pop("_larger", None)
    findings = [*cell_findings(found), *(tight_findings(found) if tight else ())]
    return Verification(means.identity, found, tight is not None, tuple(findings))


def _identity(row: Row, engine: str) -> Row:
    names = ("candidate_id", "index", "rank", "cluster", "z", "energy_eV")
    return {
        **{name: row.get(name) for name in names},
        "lattice_energy_rel_kJ_mol": row.get("lattice_energy_rel_kJ_mol"),
        "engine": engine,
        "energy_problem": "",
        "tight_status": "",
        "tight_problem": "",
    }


def _in_other_cells(rows: Sequence[Row], means: Means, records: Records) -> list[Row]:
    """Columns of the energy-extensivity guard, one dictionary per row."""
    crystals = [crystal_of(row) for row in rows]
    keys = {
        (i, cell): key_of(crystal, "cell", cell, HEIGHT_A, means.identity)
        for i, crystal in enumerate(crystals)
        for cell in CELLS
    }
    work = {pair: key for pair, key in keys.items() if key not in records}
    items = [(pair, (means.engine, crystals[pair[0]], pair[1])) for pair in work]
    problems: dict[tuple[int, str], str] = {}
    outcomes = means.pool.map(energy_written_as, items, means.limit_s)
    for pair, outcome in watched(CELLS_STAGE, outcomes, len(keys), len(keys) - len(work), means):
        value = outcome.value
        if outcome.error is not None:  # another day it may pass: not kept
            problems[pair] = f"{outcome.error}: {outcome.detail}"
        elif isinstance(value, str):
            records.add(work[pair], {"problem": value})
        else:
            records.add(work[pair], {"energy_eV": value})
    columns = []
    for i, row in enumerate(rows):
        ranked = float(row["energy_eV"]) / int(row["z"])
        out: Row = {}
        told = []
        differences = [0.0]
        for cell in CELLS:
            record = records.get(keys[i, cell])
            energy = None if record is None else record.facts.get("energy_eV")
            if energy is None:
                why = problems.get((i, cell)) or (record.facts["problem"] if record else "unknown")
                told.append(f"{cell}: {why}")
            else:
                differences.append(EV_TO_KJ_MOL * (float(energy) - ranked))
            out[f"{cell}_kJ_mol"] = None if energy is None else differences[-1]
        # A spread of the ranked energy alone says nothing.
        spread = max(differences) - min(differences) if len(differences) > 1 else None
        columns.append({**out, "energy_spread_kJ_mol": spread, "energy_problem": "; ".join(told)})
    return columns


def relaxed_tightly(
    rows: Sequence[Row], means: Means, records: Records, params: RelaxParams, smiles: str
) -> list[Row]:
    """Columns of the convergence guard, one dictionary per row.

    Args:
        rows: ranked rows.
        means: engine, workers and limits.
        records: where results are kept.
        params: of the relaxation, see `tight_relaxation.tighter`.
        smiles: the molecule.
    """
    crystals = [crystal_of(row) for row in rows]
    settings = params.model_dump(mode="json")
    keys = [key_of(crystal, "tight", settings, means.identity) for crystal in crystals]
    work = [i for i, key in enumerate(keys) if key not in records]
    items = [((i, "tight"), (means.engine, crystals[i], smiles, params)) for i in work]
    problems: dict[int, str] = {}
    outcomes = means.pool.map(relax_tightly, items, means.limit_s)
    for pair, outcome in watched(TIGHT_STAGE, outcomes, len(keys), len(keys) - len(work), means):
        if outcome.error is not None:
            problems[pair[0]] = f"{outcome.error}: {outcome.detail}"
        else:
            facts = dict(outcome.value)
            geometry = np.array([*facts.pop("positions"), *facts.pop("cell")])
            records.add(keys[pair[0]], facts, geometry)
    columns: list[Row] = []
    for i, (row, crystal) in enumerate(zip(rows, crystals, strict=True)):
        record = records.get(keys[i])
        if record is None:
            why = problems.get(i, "unknown")
            columns.append({"tight_status": str(Status.FAILED), "tight_problem": why})
            continue
        facts, cell = record.facts, record.array[-9:].reshape(3, 3)
        ok = facts["status"] == Status.OK and facts["energy_eV"] is not None
        out: Row = {
            "tight_status": facts["status"],
            "tight_problem": "" if ok else f"{facts['reason']}: {facts['detail']}",
            "tight_fmax_eV_A": facts["fmax_eV_A"],
            "tight_stress_GPa": facts["stress_GPa"],
            "tight_n_steps": facts["n_steps"],
            "tight_positions": record.array[:-9].tolist(),
            "tight_cell": record.array[-9:].tolist(),
        }
        if ok:
            energy = facts["energy_eV"] / crystal.z
            volume = float(abs(np.linalg.det(cell)))
            out["tight_energy_per_molecule_eV"] = energy
            out["tight_change_kJ_mol"] = EV_TO_KJ_MOL * (energy - row["energy_eV"] / crystal.z)
            out["tight_volume_change_percent"] = 100.0 * (volume / crystal.volume - 1.0)
        columns.append(out)
    return columns


def watched(
    stage: str, outcomes: Iterable[Outcome], total: int, done: int, means: Means
) -> Iterable[tuple[Any, Outcome]]:
    """Keys and outcomes, counted by the progress."""
    sink = progress.current()
    sink.start(stage, total, {str(Status.OK): done})
    try:
        for outcome in outcomes:
            means.go_on()
            bad = outcome.error is not None
            sink.advance(stage, str(Status.FAILED if bad else Status.OK))
            yield outcome.key, outcome
    finally:
        sink.finish(stage)


def _doubts(rows: list[Row]) -> None:
    """Fill the columns of the ranks that the spreads leave open."""
    known = [row for row in rows if row["energy_spread_kJ_mol"] is not None]
    low, high = [], []
    for row in known:
        shifts = [row[f"{cell}_kJ_mol"] for cell in CELLS]
        shifts = [0.0, *(shift for shift in shifts if shift is not None)]
        low.append(row["lattice_energy_rel_kJ_mol"] + min(shifts))
        high.append(row["lattice_energy_rel_kJ_mol"] + max(shifts))
    for row, doubt in zip(known, rank_doubts(low, high), strict=True):
        row["rank_best"], row["rank_worst"] = doubt.best, doubt.worst
        row["swaps_with"] = [int(known[j]["rank"]) for j in doubt.swaps_with]


def _places(rows: list[Row], energy: str, column: str) -> None:
    """Fill the places of the verified by other energies; those without one have no place."""
    known = [row for row in rows if row.get(energy) is not None]
    known.sort(key=lambda row: (round(float(row[energy]), 6), str(row["candidate_id"])))
    for place, row in enumerate(known, start=1):
        row[column] = place
