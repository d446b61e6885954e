"""One chunk of one stage: attempt every candidate in it, record every attempt, lose none.

A row reaches the chunk's journal the moment its candidate is finished, so that a kill costs only
what was in the air. Running a chunk again attempts what is not recorded yet.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from packflow_core.devices import make_seats
from packflow_core.engines.registry import engine_traits
from packflow_core.spec import engine_of
from packflow_core.stages.generation import Means, generate_candidates
from packflow_core.stages.pools import go_on, pool
from packflow_core.stages.recording import device_name, record, row_of
from packflow_core.stages.registry import arguments, work_of
from packflow_core.stages.run_store import LOG, RunStore
from packflow_core.stages.states import clean_states, load_states, renewer, states_folder
from packflow_core.store.atomic import refresh_listing
from packflow_core.store.lock import Lease
from packflow_core.store.rows import Row

if TYPE_CHECKING:
    from packflow_core.workers import Outcome

#: Candidates at most that a worker has in hand at once: a lost worker costs them some steps.
_GROUP_MAX = 512


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


def run_chunk(
    run_folder: str | Path,
    stage: str,
    work: Sequence[tuple[int, int]],
    workers: int | None,
    timeout_s: float | None = None,
    device: str = "auto",
    ranks: int | None = None,
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
        ranks: MPI ranks that make the candidates of a baseline; worker processes do when None.

    Raises:
        StorageFullError: no space left; everything recorded so far is safe.
        PackflowError: the stage cannot work at all, for example without its checkpoint.
    """
    began = time.perf_counter()
    run = RunStore(Path(run_folder))
    lease = Lease(run.folder)
    recorded = run.attempts(stage, [index for index, _ in work])
    todo = {i: a for i, a in work if i not in recorded or recorded[i].attempt < a}
    counts: Counter[str] = Counter()
    means = Means(workers, timeout_s, device, ranks)
    if todo and stage == "generate":
        generate_candidates(run, todo, means, counts)
    elif todo:
        store = run.stage(stage)
        with store.open_journal(f"{min(todo):08d}-{max(todo):08d}") as journal:
            for row in _attempt(run, stage, todo, means):
                lease.check()
                record(journal, row, counts)
        if work_of(stage).grouped:
            clean_states(store, lambda indices: run.attempts(stage, indices))
    return ChunkResult(
        stage, dict(counts), str(run.stage(stage).folder), time.perf_counter() - began
    )


def _attempt(run: RunStore, stage: str, todo: dict[int, int], means: Means) -> Iterator[Row]:
    """Rows of the candidates in `todo` (index to attempt), as they finish."""
    upstream = _upstream_rows(run, stage, todo)
    key = run.plan.key(stage)
    limit = work_of(stage).timeout_s if means.timeout_s is None else means.timeout_s
    for attempt in sorted(set(todo.values())):
        # The dearest first: a large cell that comes last would leave the other workers idle.
        batch = [i for i in upstream if todo[i] == attempt]
        batch.sort(key=lambda i: (-int(upstream[i].get("n_atoms") or 0), i))
        # A candidate that ran out of time gets twice as long the next time.
        seconds = limit * 2 ** (attempt - 1)
        rows = {i: upstream[i] for i in batch}
        for outcome in _outcomes(run, stage, rows, means, seconds):
            go_on()  # the outcomes of a stopped pool say nothing about the candidates
            row = row_of(outcome, upstream[int(str(outcome.key))], seconds)
            row.update(stage_key=key, attempt=attempt)
            if row.get("wall_s") is None:
                row["wall_s"] = outcome.wall_s
            row["device"] = device_name(row.get("device"), outcome.device)
            yield row


def _outcomes(
    run: RunStore, stage: str, rows: dict[int, Row], means: Means, seconds: float
) -> Iterator[Outcome]:
    """Let the workers have the candidates of `rows`, one by one or in groups."""
    kind, extra = work_of(stage), arguments(stage, run)
    if kind.function is None:
        raise ValueError(f"stage '{stage}' does not work candidate by candidate")
    if not kind.grouped:
        seats = make_seats(means.workers, "cpu", gpu=False)
        workers = pool(seats, run.folder / LOG)
        if kind.group > 1:
            size = max(1, min(kind.group, len(rows) // len(seats)))
            cut = list(rows.items())
            parts = [(cut[k : k + size], extra) for k in range(0, len(cut), size)]
            return workers.map_groups(kind.function, parts, timeout_s=seconds)
        items = [(i, (row, *extra)) for i, row in rows.items()]
        return workers.map(kind.function, items, timeout_s=seconds)
    store = run.stage(stage)
    traits = engine_traits(engine_of(run.plan.spec, stage))
    seats = make_seats(means.workers, means.device if traits.gpu else "cpu", gpu=traits.gpu)
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


def _upstream_rows(run: RunStore, stage: str, todo: dict[int, int]) -> dict[int, Row]:
    before = run.plan.upstream_of(stage)
    if before is None:
        raise ValueError(f"stage '{stage}' takes no rows")
    rows = {int(row["index"]): row for row in run.stage(before).rows(todo)}
    if todo.keys() - rows.keys():  # written by another machine, and not yet seen by this one
        refresh_listing(run.stage(before).folder)
        rows = {int(row["index"]): row for row in run.stage(before).rows(todo)}
    return rows
