"""Candidates made by MPI ranks: the launcher started, watched, and started again with what is left.

A rank that dies loses what it had in hand and nothing else: its finished rows are in its journal,
the other ranks go on, and the candidates that died with it get rows that say so, `worker_lost`, so
that the run attempts them again, one by one. Where the launcher ends all ranks with the first, or
its node dies, what nobody had finished is started again, as often as something comes of it.
"""

from __future__ import annotations

import logging
import secrets
from collections import Counter
from collections.abc import Callable, Sequence

from packflow_core.errors import UserInputError
from packflow_core.mpi.dispatch import LATE, Job, Pair, RankSeen, cut
from packflow_core.mpi.program import find_mpi, require_mpi
from packflow_core.mpi.settle import Settlement, death, lost_rows, unrecorded
from packflow_core.mpi.start import Start
from packflow_core.stages.generators import block_size
from packflow_core.stages.run_store import RunStore

__all__ = ["MAKE_ROWS", "find_mpi", "require_mpi", "run_ranks"]

logger = logging.getLogger(__name__)

#: Makes the rows of a block.
MAKE_ROWS = "packflow_core.stages.generators:make_rows"

#: In the place of a rank that died before it could say anything.
_UNSEEN = RankSeen("")
#: Starts in a row whose ranks died over first attempts and recorded nothing.
_FRUITLESS = 3


def run_ranks(
    run: RunStore,
    stage: str,
    work: Sequence[Pair],
    ranks: int,
    on_row: Callable[[str], None],
    stopping: Callable[[], bool] | None = None,
    *,
    block: int | None = None,
    timeout_s: float = 600.0,
    function: str = MAKE_ROWS,
) -> Counter[str]:
    """Have candidates made by MPI ranks, and record every attempt.

    Args:
        run: held by this process.
        stage: name of the stage.
        work: pairs (candidate index, number of this attempt), by index; those with a row already
            are left out.
        ranks: how many; no more are started than there are blocks.
        on_row: called in this thread with the status of each row that was recorded.
        stopping: asked several times a second whether to end; the work that is then not recorded
            is left.
        block: consecutive candidates that are made together; the generator's own size when None.
        timeout_s: time limit of a block of first attempts, s; doubles with each attempt.
        function: "module:function" that makes the rows of a block, see `rank.MakeRows`.

    Returns:
        The rows recorded by this call, by status.

    Raises:
        UserInputError: MPI is not installed, or its launcher does not fit mpi4py.
        RunFailedError: the launcher, or every rank, fails at once; what is recorded is kept.
        PackflowError: what a rank raised, for example StorageFullError.
    """
    if ranks < 1:
        raise UserInputError(f"{ranks} MPI ranks cannot work; ask for at least one.")
    launcher = require_mpi()
    size = block_size(run.plan.spec) if block is None else block
    total: Counter[str] = Counter()

    def count(status: str, rows: int) -> None:
        total[status] += rows
        for _ in range(rows):
            on_row(status)

    left, suspects, fruitless = unrecorded(run, stage, work), list[Pair](), 0
    while left or suspects:
        # Several ranks died with second attempts in hand: one rank finds out which is to blame.
        now, number = (suspects, 1) if suspects else (left, ranks)
        blocks = cut(now, size)
        label = f"ranks-{secrets.token_hex(4)}"
        number = min(number, len(blocks))
        job = Job(run.folder.resolve(), stage, label, number, blocks, function, timeout_s)
        with Start(run, job, launcher, count) as start:
            start.watch(stopping or (lambda: False))
            found = start.settle()
            if start.stopped:
                return total
            suspects = _ambiguous(found, start)
            charged = _charge(run, job, found, start, set(suspects))
            for status, rows in charged.items():
                count(status, rows)
            # A candidate that dies again, alone, is dealt with; ranks that die again are not.
            second = [a > 1 for pairs in found.lost.values() for _, a in pairs]
            fruitless = 0 if found.counts or (second and all(second)) else fruitless + 1
            if not (found.counts or found.taken) or fruitless == _FRUITLESS:
                raise start.failure()
        spared = set(suspects)
        left = [pair for pair in unrecorded(run, stage, work) if pair not in spared]
    return total


def _ambiguous(found: Settlement, start: Start) -> list[Pair]:
    """Second attempts that died with one of several ranks, which may all have had one reason."""
    died = [
        pairs for name, pairs in found.lost.items() if start.seen.get(name, _UNSEEN).end != LATE
    ]
    if len(died) < 2:
        return []
    return sorted(pair for pairs in died for pair in pairs if pair[1] > 1)


def _charge(
    run: RunStore, job: Job, found: Settlement, start: Start, spared: set[Pair]
) -> Counter[str]:
    """Record what was lost, but for those that get away; returns the rows by status."""
    store, counts = run.stage(job.stage), Counter[str]()
    for name, pairs in found.lost.items():
        rank = start.seen.get(name)
        how = death(rank, start.seen, start.output)
        logger.warning("%s %s; %d candidates lost", rank or "an MPI rank", how, len(pairs))
        rows = lost_rows(run, [pair for pair in pairs if pair not in spared], rank, how)
        store.write_part(rows)
        counts.update(str(row["status"]) for row in rows)
    return counts
