"""The stages in their order, without any orchestrator: what the flow does, as plain functions."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from packflow_core import progress
from packflow_core.baselines.names import family_of
from packflow_core.errors import PackflowError, RunFailedError, TooManyFailuresError
from packflow_core.stages.chunk import ChunkResult, run_chunk
from packflow_core.stages.generators import block_size
from packflow_core.stages.plan import device_of
from packflow_core.stages.registry import MAX_TASKS, batched, chunks, work_of
from packflow_core.stages.run_store import RunStore
from packflow_core.stages.window import reject_outside_window
from packflow_core.store.ledger import StageLedger
from packflow_core.store.schema import Reason, Status

logger = logging.getLogger(__name__)

#: Candidates that a stage must have attempted before a share of failures says something.
_ENOUGH_ATTEMPTS = 10

#: Work of one chunk: pairs (candidate index, number of this attempt).
Work = Sequence[tuple[int, int]]
#: Runs the chunks of a stage somehow and returns when all are done.
RunChunks = Callable[[str, list[list[tuple[int, int]]]], Iterable[ChunkResult]]


class NothingRankedError(RunFailedError):
    """The run is done, and not one candidate reached the ranking."""


def run_stage(
    run: RunStore,
    stage: str,
    run_chunks: RunChunks,
    retry_failed: bool = False,
    whole: bool = False,
) -> None:
    """Attempt what is pending in one stage until nothing is.

    A candidate that failed for a reason that may pass comes again, with the next attempt number,
    as often as `RETRY` says. When the stage is complete and lost too many, that is said at once.

    Args:
        run: held by this process; the stages before are complete.
        stage: its name.
        run_chunks: called with the stage and its chunks, if there are any.
        retry_failed: attempt retryable failures of earlier calls once more, too.
        whole: all work in one chunk, for what starts a program of its own.

    Raises:
        RunFailedError: chunks ended without recording what they were given.
    """
    reject_outside_window(run, stage)
    work = run.pending(stage, retry_failed)
    _attempt(run, stage, work, run_chunks, whole)
    while again := run.pending(stage):
        if forgotten := set(again) & set(work):
            raise RunFailedError(
                f"Stage {stage} ended without a row for {len(forgotten)} candidates; "
                f"'csp resume {run.folder}' attempts them again."
            )
        logger.info("stage %s: another attempt at %d candidates", stage, len(again))
        work = again
        _attempt(run, stage, work, run_chunks, whole)
    if sentence := too_many_failed(run.stage_ledger(stage), run.plan.spec.max_failed):
        logger.warning("%s", sentence)
        progress.current().warn(f"{sentence}; the run goes on with the others.")


def _attempt(
    run: RunStore, stage: str, work: list[tuple[int, int]], run_chunks: RunChunks, whole: bool
) -> None:
    """Run the chunks of some work and tell the progress."""
    sink = progress.current()
    again = {index for index, _ in work}
    done = Counter(attempt.status for i, attempt in run.attempts(stage).items() if i not in again)
    sink.start(stage, sum(done.values()) + len(work), done)
    logger.info("stage %s: %d candidates to do, %d done", stage, len(work), sum(done.values()))
    at_most = MAX_TASKS // len(run.plan.stage_names)
    try:
        if work:
            spec = run.plan.spec
            whole |= stage == "generate" and family_of(spec.generator) == "genarris"
            cut = chunks(stage, work, block_size(spec), at_most, batched(spec, stage), whole)
            for result in run_chunks(stage, cut):
                logger.info(
                    "stage %s: chunk done in %.1f s: %s", stage, result.wall_s, result.counts
                )
    finally:
        sink.finish(stage)


def run_stages(
    run: RunStore,
    workers: int | None,
    retry_failed: bool = False,
    device: str = "auto",
    timeout_s: float | None = None,
    ranks: int | None = None,
) -> None:
    """All stages, one chunk after the other, in this process and its workers."""

    def one_by_one(stage: str, cut: list[list[tuple[int, int]]]) -> list[ChunkResult]:
        where = device_of(run.plan.spec, stage, device)
        limit = timeout_s if work_of(stage).grouped else None
        return [run_chunk(run.folder, stage, work, workers, limit, where, ranks) for work in cut]

    for stage in run.plan.stage_names:
        whole = stage == "generate" and ranks is not None
        run_stage(run, stage, one_by_one, retry_failed, whole)


def too_many_failed(ledger: StageLedger, allowed: float) -> str | None:
    """That more candidates failed in a stage than allowed, as a phrase; None if not.

    Rejected candidates are no failures, and a handful of attempts proves nothing.

    Args:
        ledger: of the stage.
        allowed: fraction of the candidates that it attempted.
    """
    attempted = ledger.attempted - ledger.reasons.get(f"{Status.REJECTED}: {Reason.WINDOW}", 0)
    if attempted < _ENOUGH_ATTEMPTS or ledger.failed <= allowed * attempted:
        return None
    reason, count = next(
        (name.removeprefix(f"{Status.FAILED}: "), count)
        for name, count in ledger.reasons.items()
        if name.startswith(Status.FAILED)
    )
    return (
        f"{ledger.failed} of {attempted} candidates failed in stage {ledger.stage} "
        f"({reason}: {count}), more than the {allowed:.0%} allowed by --max-failed"
    )


def verdict(run: RunStore) -> PackflowError | None:
    """What is wrong with a run whose stages are done, or None.

    Nothing ranked is a failed run; a larger fraction of failures than allowed, in the run or in
    one stage, is a warning that goes to the exit code.
    """
    ledger = run.ledger()
    if ledger[-1].ok + ledger[-1].unconverged == 0:
        why = "no candidate was attempted"
        handed_on = [*(stage.eligible for stage in ledger[1:]), 0]
        worst, lost = max(
            ((stage, stage.attempted - on) for stage, on in zip(ledger, handed_on, strict=True)),
            key=lambda pair: pair[1],
        )
        if lost:
            reason, count = next(iter(worst.reasons.items()))
            why = (
                f"{count} of {worst.attempted} ended as '{reason}' in stage {worst.stage}; "
                f"'csp failures {run.folder}' lists them"
            )
        return NothingRankedError(f"No candidate reached the ranking: {why}.")
    # A candidate that failed goes on to no other stage, so it is counted once.
    fraction = sum(stage.failed for stage in ledger) / run.plan.spec.n
    allowed = run.plan.spec.max_failed
    if fraction > allowed:
        return TooManyFailuresError(
            f"{fraction:.0%} of the candidates failed, more than the {allowed:.0%} allowed by "
            f"--max-failed; 'csp failures {run.folder}' says why."
        )
    for stage in ledger:
        if sentence := too_many_failed(stage, allowed):
            return TooManyFailuresError(f"{sentence}; 'csp failures {run.folder}' says why.")
    return None
