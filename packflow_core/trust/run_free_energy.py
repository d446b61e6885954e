"""`csp free-energy` on a run folder: its best structures, and the files that it writes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import util
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from packflow_core.errors import UserInputError
from packflow_core.spec import engine_of, relax_params_of
from packflow_core.stages.pools import go_on
from packflow_core.stages.run_store import RunStore
from packflow_core.store.atomic import atomic_path, storage_errors, write_json
from packflow_core.store.journal import rows_to_batch
from packflow_core.store.rows import Row
from packflow_core.trust.free_energy import Price, free_energies
from packflow_core.trust.free_energy_table import (
    FREE_ENERGY_SCHEMA,
    FreeEnergies,
    free_energy_findings,
)
from packflow_core.trust.phonons import Repeats
from packflow_core.trust.run_gas_phase import engine_problem, limit_of
from packflow_core.trust.run_verify import best_distinct
from packflow_core.trust.tight_relaxation import tighter
from packflow_core.trust.verify import Means
from packflow_core.workers import WorkerPool

FREE_ENERGY_TABLE = "free_energy.parquet"
FREE_ENERGY_JSON = "free_energy.json"

#: Elapsed seconds above which the price must be agreed to.
FREE_S = 600.0


def free_energy_run(
    run: RunStore,
    ranked: Sequence[Row],
    workers: Callable[[], WorkerPool],
    top: int,
    temperature_K: float,
    supercell: Repeats | None,
    approve: Callable[[Price], None],
    timeout_s: float | None = None,
) -> FreeEnergies:
    """Harmonic free energies of the best distinct structures; writes table and JSON.

    Args:
        run: held by this process.
        ranked: of the ranked table.
        workers: gives the pool.
        top: structures.
        temperature_K: K.
        supercell: repeats along a, b, c; None for as many molecules in each.
        approve: called with the price before anything dear; what it raises ends the work.
        timeout_s: time limit of one relaxation or force call, s; from the run's own when None.

    Raises:
        UserInputError: phonopy is not installed, nothing is ranked, or the engine of the run
            cannot be used here.
        StorageFullError: no space left; what was computed is kept.
    """
    require_phonopy()
    rows = best_distinct(ranked, top)
    if not rows:
        raise UserInputError(f"{run.folder} holds no ranked structures yet; finish the run first.")
    stage, spec = run.plan.last_relaxation, run.plan.spec
    engine, identity = engine_of(spec, stage), run.plan.engine
    if problem := engine_problem(engine, identity):
        raise UserInputError(problem)
    times = run.stage(stage).table(["index", "wall_s"]).to_pylist()
    took = {row["index"]: float(row["wall_s"] or 0.0) for row in times}
    limit = limit_of(run) if timeout_s is None else timeout_s
    found = free_energies(
        rows,
        run.folder,
        Means(engine, identity, workers(), limit, go_on),
        spec.smiles,
        tighter(relax_params_of(spec, stage)),
        temperature_K,
        supercell,
        approve,
        [took.get(row["index"], 0.0) for row in rows],
    )
    _write(run.folder, found)
    return found


def require_phonopy() -> None:
    """Refuse to begin without the package.

    Raises:
        UserInputError: it is not installed.
    """
    if util.find_spec("phonopy") is None:
        raise UserInputError(
            "Free energies need the package phonopy; install it with "
            "pip install 'packflow-csp[phonons]'."
        )


def read_free_energies(folder: Path, ranked: Sequence[Row]) -> FreeEnergies | None:
    """What the last `csp free-energy` found; None where there is none that can be read.

    Where the ranking has changed since, the only finding is that sentence.
    """
    try:
        rows: list[Row] = pq.read_table(folder / FREE_ENERGY_TABLE).to_pylist()
    except (OSError, pa.ArrowException):
        return None
    if not rows:
        return None
    engine, temperature = rows[0]["engine"], rows[0]["temperature_K"]
    now = {row["candidate_id"]: (row.get("rank"), row.get("energy_eV")) for row in ranked}
    if any(now.get(row["candidate_id"]) != (row["rank"], row["energy_eV"]) for row in rows):
        stale = "The ranking has changed since its free energies; 'csp free-energy' renews them."
        return FreeEnergies(engine, temperature, [], (stale,))
    return FreeEnergies(engine, temperature, rows, tuple(free_energy_findings(rows)))


def _write(folder: Path, found: FreeEnergies) -> None:
    rows = [{name: row.get(name) for name in FREE_ENERGY_SCHEMA.names} for row in found.rows]
    with storage_errors(folder):
        with atomic_path(folder / FREE_ENERGY_TABLE) as temporary:
            table = pa.Table.from_batches([rows_to_batch(rows, FREE_ENERGY_SCHEMA)])
            pq.write_table(table, temporary, compression="zstd")
        write_json(folder / FREE_ENERGY_JSON, found.as_dict())
