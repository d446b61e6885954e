"""`csp verify` on a run folder: the guards on the best of its ranking, and the files they write."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from packflow_core.crystal.lattice import heights
from packflow_core.devices import make_seats
from packflow_core.engines.registry import engine_traits
from packflow_core.errors import UserInputError
from packflow_core.spec import engine_of, relax_params_of
from packflow_core.stages.pools import go_on, pool
from packflow_core.stages.run_store import LOG, RunStore
from packflow_core.store.atomic import atomic_path, storage_errors, write_json
from packflow_core.store.journal import rows_to_batch
from packflow_core.store.rows import Row, crystal_of
from packflow_core.trust.equivalent_cells import HEIGHT_A
from packflow_core.trust.findings import cell_findings, tight_findings
from packflow_core.trust.run_gas_phase import engine_problem, limit_of
from packflow_core.trust.tight_relaxation import tighter
from packflow_core.trust.verify import Means, verify
from packflow_core.trust.verify_table import VERIFY_SCHEMA, Verification
from packflow_core.workers import WorkerPool

logger = logging.getLogger(__name__)

TRUST_TABLE = "trust.parquet"
TRUST_JSON = "trust.json"

#: Structures that `csp verify` takes, and those that the end of a run looks at by itself.
TOP, TOP_BY_ITSELF = 10, 5
#: Share of the time spent relaxing that the end of a run may spend on the guard by itself.
SHARE = 0.05
#: What a prepared system and a fresh density cost beyond a step of a relaxation.
_FIRST_CALL = 2.0

#: How the cost of a call grows with the number of atoms, a power.
_SCALING = 1.3


def verify_run(
    run: RunStore,
    ranked: Sequence[Row],
    workers: Callable[[], WorkerPool],
    top: int = TOP,
    relax: bool = True,
    timeout_s: float | None = None,
) -> Verification:
    """Check the best distinct structures of a run; writes `trust.parquet` and `trust.json`.

    Args:
        run: held by this process.
        ranked: of the ranked table, best first.
        workers: gives the pool.
        top: structures to check.
        relax: relax them tighter, too, which costs about as much as relaxing them did.
        timeout_s: time limit of one energy or relaxation, s; from the run's own when None.

    Raises:
        UserInputError: nothing is ranked, or the engine of the run cannot be used here.
        StorageFullError: no space left; what was computed is kept.
    """
    rows = best_distinct(ranked, top)
    if not rows:
        raise UserInputError(
            f"{run.folder} holds no ranked structures yet (the run is {run.status}); finish it "
            f"with 'csp resume {run.folder}'."
        )
    stage, spec = run.plan.last_relaxation, run.plan.spec
    engine, identity = engine_of(spec, stage), run.plan.engine
    if problem := engine_problem(engine, identity):
        raise UserInputError(problem)
    limit = limit_of(run) if timeout_s is None else timeout_s
    means = Means(engine, identity, workers(), limit, go_on)
    params = tighter(relax_params_of(spec, stage)) if relax else None
    found = verify(rows, run.folder, means, params, spec.smiles)
    _write(run.folder, found)
    return found


def verify_folder(
    run_folder: str | Path,
    top: int = TOP,
    relax: bool = True,
    workers: int | None = None,
    device: str = "auto",
    timeout_s: float | None = None,
) -> dict[str, Any]:
    """`verify_run` on a folder, with workers of its own, and the report written again.

    Args:
        run_folder: the run's folder; its lock is held by whoever calls this.
        top: structures to check.
        relax: relax them tighter, too.
        workers: worker processes; one per processor or GPU when None.
        device: where the engine computes that can use a GPU.
        timeout_s: time limit of one energy or relaxation, s.

    Returns:
        Small enough to travel through an orchestrator: the engine, the number of structures, the
        findings, and the path of the table.

    Raises:
        UserInputError, StorageFullError: as `verify_run`.
    """
    from packflow_core.stages.finish import read_ranked, write_report_again

    run = RunStore(Path(run_folder))
    ranked = read_ranked(run.folder)
    traits = engine_traits(engine_of(run.plan.spec, run.plan.last_relaxation))
    seats = make_seats(workers, device if traits.gpu else "cpu", gpu=traits.gpu)
    found = verify_run(run, ranked, lambda: pool(seats, run.folder / LOG), top, relax, timeout_s)
    write_report_again(run, ranked)
    return {
        "engine": found.engine,
        "structures": len(found.rows),
        "findings": list(found.findings),
        "table": str((run.folder / TRUST_TABLE).resolve()),
    }


def best_distinct(rows: Sequence[Row], top: int) -> list[Row]:
    """The best so many distinct structures of a ranked table."""
    distinct = [r for r in rows if r.get("rank") is not None and r.get("representative", True)]
    return sorted(distinct, key=lambda row: int(row["rank"]))[:top]


def read_verification(folder: Path, ranked: Sequence[Row]) -> Verification | None:
    """What the last `csp verify` found; None where there is none that can be read.

    Where the ranking has changed since, the only finding is that sentence.
    """
    try:
        rows: list[Row] = pq.read_table(folder / TRUST_TABLE).to_pylist()
    except (OSError, pa.ArrowException):
        return None
    if not rows:
        return None
    tight = any(row["tight_status"] for row in rows)
    now = {row["candidate_id"]: (row.get("rank"), row.get("energy_eV")) for row in ranked}
    if any(now.get(row["candidate_id"]) != (row["rank"], row["energy_eV"]) for row in rows):
        stale = "The ranking has changed since it was verified; 'csp verify' renews that."
        return Verification(rows[0]["engine"], [], tight, (stale,))
    findings = [*cell_findings(rows), *(tight_findings(rows) if tight else ())]
    return Verification(rows[0]["engine"], rows, tight, tuple(findings))


def is_cheap(run: RunStore, rows: Sequence[Row]) -> bool:
    """Whether the energies in other cells cost little beside what the run took.

    Estimated from the seconds that a step took in the last relaxation of these candidates.

    Args:
        run: the run.
        rows: ranked rows, those to check.
    """
    columns = ["index", "wall_s", "n_steps", "n_atoms"]
    table = run.stage(run.plan.last_relaxation).table(columns).to_pylist()
    spent = sum(row["wall_s"] or 0.0 for row in table)
    steps = {row["index"]: row for row in table if row["wall_s"] and row["n_steps"]}
    cost = 0.0
    for row in rows:
        took = steps.get(row["index"])
        if took is None:
            return False
        height = heights(crystal_of(row).cell)
        ratio = float(np.maximum(np.ceil(HEIGHT_A / height), 1.0).prod())
        call = took["wall_s"] / (took["n_steps"] + 1)
        cost += call * _FIRST_CALL * (2.0 + max(ratio, 2.0) ** _SCALING)
    return bool(rows) and cost <= SHARE * spent


def _write(folder: Path, found: Verification) -> None:
    names = set(VERIFY_SCHEMA.names)
    rows = [{name: row.get(name) for name in names} for row in found.rows]
    with storage_errors(folder):
        with atomic_path(folder / TRUST_TABLE) as temporary:
            table = pa.Table.from_batches([rows_to_batch(rows, VERIFY_SCHEMA)])
            pq.write_table(table, temporary, compression="zstd")
        write_json(folder / TRUST_JSON, found.as_dict())
