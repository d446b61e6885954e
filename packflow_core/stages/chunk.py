"""One chunk of one stage: attempt every candidate in it, record every attempt, lose none.

A row reaches the chunk's journal the moment its candidate is finished, so that a kill costs only
what was in the air. Running a chunk again attempts what is not recorded yet.
"""

from __future__ import annotations

import atexit
import logging
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from packflow_core import progress
from packflow_core.devices import make_seats
from packflow_core.engines.registry import engine_traits
from packflow_core.errors import PackflowError, RunFailedError
from packflow_core.spec import engine_of
from packflow_core.stages.plan import z_of
from packflow_core.stages.registry import arguments, block_size, work_of
from packflow_core.stages.run_store import LOG, RunStore
from packflow_core.stages.states import clean_states, load_states, renewer, states_folder
from packflow_core.store.rows import CARRIED, Row, next_row
from packflow_core.store.schema import Reason, Status
from packflow_core.store.stage_store import StageJournal

if TYPE_CHECKING:
    from packflow_core.workers import Outcome, Seat, WorkerPool

logger = logging.getLogger(__name__)

_REASONS = {
    "timeout": Reason.TIMEOUT,
    "worker_lost": Reason.WORKER_LOST,
    "exception": Reason.INTERNAL,
}
_DETAIL_LENGTH = 500

#: Candidates at most that a worker has in hand at once: a lost worker costs them some steps.
_GROUP_MAX = 512

_stopping = threading.Event()
_pools: dict[tuple[tuple[Seat, ...], Path | None], WorkerPool] = {}
_pools_lock = threading.Lock()
_generator_lock = threading.Lock()


@dataclass(frozen=True)
class ChunkResult:
    """What a chunk came to: small, so that it may travel through an orchestrator.

    Attributes:
        stage: its stage.
        counts: recorded candidates by status.
        folder: where their rows are.
        wall_s: elapsed time, s.
    """

    stage: str
    counts: dict[str, int]
    folder: str
    wall_s: float


class StoppedError(RunFailedError):
    """The run was told to stop; what is recorded is kept."""


@dataclass(frozen=True)
class _How:
    """How a chunk is worked on, none of which changes a result."""

    workers: int | None
    timeout_s: float | None
    device: str


def run_chunk(
    run_folder: str | Path,
    stage: str,
    work: Sequence[tuple[int, int]],
    workers: int | None,
    timeout_s: float | None = None,
    device: str = "auto",
) -> ChunkResult:
    """Attempt candidates of one stage.

    Args:
        run_folder: the run's folder; its lock is held by whoever runs the flow.
        stage: name of the stage.
        work: pairs (candidate index, number of this attempt); pairs that are recorded already
            are skipped.
        workers: worker processes shared by all chunks of this process.
        timeout_s: time limit for a candidate's first attempt, s; the stage's own when None.
        device: where engines compute that can use a GPU, see `packflow_core.devices`.

    Raises:
        StorageFullError: no space left; everything recorded so far is safe.
        PackflowError: the stage cannot work at all, for example without its checkpoint.
    """
    began = time.perf_counter()
    run = RunStore(Path(run_folder))
    recorded = run.attempts(stage, [index for index, _ in work])
    todo = {i: a for i, a in work if i not in recorded or recorded[i].attempt < a}
    counts: Counter[str] = Counter()
    if todo and stage == "generate":
        with _generator_lock:
            _generate(run, todo, counts)
    elif todo:
        store = run.stage(stage)
        with store.open_journal(f"{min(todo):08d}-{max(todo):08d}") as journal:
            for row in _attempt(run, stage, todo, _How(workers, timeout_s, device)):
                _record(journal, row, counts)
        if work_of(stage).grouped:
            clean_states(store, lambda indices: run.attempts(stage, indices))
    return ChunkResult(
        stage, dict(counts), str(run.stage(stage).folder), time.perf_counter() - began
    )


def pool(workers: int | Sequence[Seat], log: Path | None = None) -> WorkerPool:
    """The process's worker pool of that size; what its workers print is appended to `log`."""
    from packflow_core.workers import WorkerPool

    seats = tuple(make_seats(workers, "cpu", gpu=False) if isinstance(workers, int) else workers)
    with _pools_lock:
        if (seats, log) not in _pools:
            _pools[seats, log] = WorkerPool(seats, log=log)
        return _pools[seats, log]


def close_pools() -> None:
    """End all workers."""
    with _pools_lock:
        while _pools:
            _, old = _pools.popitem()
            old.close()


def stop() -> None:
    """Make every chunk of this process end now, from another thread or a signal handler.

    Candidates that are in the air are not recorded: the next run attempts them again.
    """
    _stopping.set()
    close_pools()


def _go_on() -> None:
    if _stopping.is_set():
        raise StoppedError("The run was stopped; continue it with 'csp resume'.")


atexit.register(close_pools)


def _attempt(run: RunStore, stage: str, todo: dict[int, int], how: _How) -> Iterator[Row]:
    """Rows of the candidates in `todo` (index to attempt), as they finish."""
    upstream = _upstream_rows(run, stage, todo)
    key = run.plan.key(stage)
    limit = work_of(stage).timeout_s if how.timeout_s is None else how.timeout_s
    for attempt in sorted(set(todo.values())):
        # The dearest first: a large cell that comes last would leave the other workers idle.
        batch = [i for i in upstream if todo[i] == attempt]
        batch.sort(key=lambda i: (-int(upstream[i].get("n_atoms") or 0), i))
        # A candidate that ran out of time gets twice as long the next time.
        seconds = limit * 2 ** (attempt - 1)
        rows = {i: upstream[i] for i in batch}
        for outcome in _outcomes(run, stage, rows, how, seconds):
            _go_on()  # the outcomes of a stopped pool say nothing about the candidates
            row = _row_of(outcome, upstream[int(str(outcome.key))], seconds)
            row.update(stage_key=key, attempt=attempt)
            if row.get("wall_s") is None:
                row["wall_s"] = outcome.wall_s
            row["device"] = _device(row.get("device"), outcome.device)
            yield row


def _outcomes(
    run: RunStore, stage: str, rows: dict[int, Row], how: _How, seconds: float
) -> Iterator[Outcome]:
    """Let the workers have the candidates of `rows`, one by one or in groups."""
    kind, extra = work_of(stage), arguments(stage, run)
    if kind.function is None:
        raise ValueError(f"stage '{stage}' does not work candidate by candidate")
    if not kind.grouped:
        items = [(i, (row, *extra)) for i, row in rows.items()]
        workers = pool(make_seats(how.workers, "cpu", gpu=False), run.folder / LOG)
        return workers.map(kind.function, items, timeout_s=seconds)
    store = run.stage(stage)
    traits = engine_traits(engine_of(run.plan.spec, stage))
    seats = make_seats(how.workers, how.device if traits.gpu else "cpu", gpu=traits.gpu)
    size = 1
    if traits.batched:
        size = min(_GROUP_MAX, -(-len(rows) // len(seats)))
    kept = load_states(store, rows)
    members = [(i, (row, kept.get(i))) for i, row in rows.items()]
    # Dealt out like cards, so that every group has its share of large cells.
    count = -(-len(members) // size)
    shared = (*extra, seconds, str(states_folder(store)))
    groups = [(members[k::count], shared) for k in range(count)]
    return pool(seats, run.folder / LOG).map_groups(
        kind.function, groups, timeout_s=seconds, renew=renewer(store)
    )


def _device(said: str | None, seat: str) -> str:
    """Device of an attempt: the seat's, with the name of the card where the engine told it.

    A worker sees one GPU alone and calls it the first.
    """
    _, bracket, card = (said or "").partition(" (")
    return f"{seat} ({card}" if bracket and seat != "cpu" else seat


def _upstream_rows(run: RunStore, stage: str, todo: dict[int, int]) -> dict[int, Row]:
    before = run.plan.upstream_of(stage)
    if before is None:
        raise ValueError(f"stage '{stage}' takes no rows")
    return {int(row["index"]): row for row in run.stage(before).rows(todo)}


def _row_of(outcome: Outcome, previous: Row, seconds: float) -> Row:
    """Row of a finished candidate; whatever went wrong outside the stage becomes `failed`."""
    if outcome.error is None and isinstance(outcome.value, dict):
        return {**outcome.value, **{name: previous.get(name) for name in CARRIED}}
    if outcome.error is None:
        return _failed(previous, Reason.INTERNAL, f"the stage returned {type(outcome.value)}")
    detail = outcome.detail or ""
    if outcome.error == "timeout":
        detail = f"no result within {seconds:g} s"
    return _failed(previous, _REASONS.get(outcome.error, Reason.INTERNAL), detail)


def _failed(previous: Row, reason: Reason, detail: str) -> Row:
    logger.warning("%s: %s: %s", previous.get("candidate_id"), reason, detail)
    return next_row(previous, status=Status.FAILED, reason=reason, detail=_shorten(detail))


def _shorten(detail: str) -> str:
    """The end of a long text, where a traceback says what happened."""
    text = detail.strip()
    return text if len(text) <= _DETAIL_LENGTH else "..." + text[3 - _DETAIL_LENGTH :]


def _record(journal: StageJournal, row: Row, counts: Counter[str]) -> None:
    try:
        journal.append(row)
    except ValueError as error:  # the row does not fit the schema: record that instead
        again = {name: row.get(name) for name in ("stage_key", "attempt", "wall_s")}
        row = {**_failed(row, Reason.INTERNAL, str(error)), **again}
        journal.append(row)
    counts[row["status"]] += 1
    progress.current().advance(journal.stage, row["status"])


# -- the generator ----------------------------------------------------------------------------
def _generate(run: RunStore, todo: dict[int, int], counts: Counter[str]) -> None:
    """Sample block by block; a block's rows are written as one part, all or none."""
    store = run.stage("generate")
    size = block_size(run.plan.spec.z)
    blocks: dict[int, list[int]] = {}
    for index in sorted(todo):
        blocks.setdefault(index // size, []).append(index)
    for indices in blocks.values():
        _go_on()
        began = time.perf_counter()
        rows = _sample(run, indices)
        each = (time.perf_counter() - began) / len(rows)
        for row in rows:
            row.update(
                campaign=run.plan.spec.campaign,
                target=run.plan.spec.name,
                method=run.plan.spec.method,
                seed=run.plan.spec.seed,
                stage_key=store.key,
                attempt=todo[int(row["index"])],
                wall_s=each,
                host=socket.gethostname(),
            )
            row.setdefault("device", "cpu")
        store.write_part(rows)
        for row in rows:
            counts[row["status"]] += 1
            progress.current().advance("generate", row["status"])


def _sample(run: RunStore, indices: list[int]) -> list[Row]:
    from packflow_core.stages.generate import generate

    spec = run.plan.spec
    try:
        rows = generate(
            indices,
            smiles=spec.smiles,
            z_values=spec.z,
            seed=spec.seed,
            target=spec.name,
            generator=spec.generator,
            params=spec.generate,
        )
    except (PackflowError, MemoryError):
        raise
    except Exception as error:
        logger.exception("sampling of candidates %d to %d failed", indices[0], indices[-1])
        return [_unsampled(run, i, f"{type(error).__name__}: {error}") for i in indices]
    by_index = {int(row["index"]): row for row in rows}
    return [by_index.get(i) or _unsampled(run, i, "the generator left it out") for i in indices]


def _unsampled(run: RunStore, index: int, detail: str) -> Row:
    spec = run.plan.spec
    birth: Row = {
        "candidate_id": f"{spec.name}-z{z_of(index, spec.z)}-{index:06d}",
        "index": index,
        "z": z_of(index, spec.z),
    }
    return next_row(
        birth, status=Status.FAILED, reason=Reason.INTERNAL, detail=_shorten(detail),
        engine=run.plan.stages["generate"].identity, device="cpu",
    )  # fmt: skip
