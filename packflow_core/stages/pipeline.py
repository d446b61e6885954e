"""The stages in their order, without any orchestrator: what the flow does, as plain functions."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from packflow_core import progress
from packflow_core.errors import PackflowError, RunFailedError, TooManyFailuresError
from packflow_core.stages.chunk import ChunkResult, run_chunk
from packflow_core.stages.registry import chunks
from packflow_core.stages.run_store import RunStore
from packflow_core.store.schema import STAGES

logger = logging.getLogger(__name__)

#: Work of one chunk: pairs (candidate index, number of this attempt).
Work = Sequence[tuple[int, int]]
#: Runs the chunks of a stage somehow and returns when all are done.
RunChunks = Callable[[str, list[list[tuple[int, int]]]], Iterable[ChunkResult]]


def run_stage(run: RunStore, stage: str, run_chunks: RunChunks, retry_failed: bool = False) -> None:
    """Attempt what is pending in one stage.

    Args:
        run: held by this process.
        stage: its name.
        run_chunks: called with the stage and its chunks, if there are any.
        retry_failed: attempt retryable failures of earlier calls again.
    """
    sink = progress.current()
    work = run.pending(stage, retry_failed)
    again = {index for index, _ in work}
    done = Counter(attempt.status for i, attempt in run.attempts(stage).items() if i not in again)
    sink.start(stage, sum(done.values()) + len(work), done)
    logger.info("stage %s: %d candidates to do, %d done", stage, len(work), sum(done.values()))
    try:
        if work:
            for result in run_chunks(stage, chunks(stage, work, run.plan.spec.z)):
                logger.info(
                    "stage %s: chunk done in %.1f s: %s", stage, result.wall_s, result.counts
                )
    finally:
        sink.finish(stage)


def run_stages(run: RunStore, workers: int, retry_failed: bool = False) -> None:
    """All stages, one chunk after the other, in this process and its workers."""

    def one_by_one(stage: str, cut: list[list[tuple[int, int]]]) -> list[ChunkResult]:
        return [run_chunk(run.folder, stage, work, workers) for work in cut]

    for stage in STAGES:
        run_stage(run, stage, one_by_one, retry_failed)


def verdict(run: RunStore) -> PackflowError | None:
    """What is wrong with a run whose stages are done, or None.

    Nothing ranked is a failed run; a larger fraction of failures than allowed is a warning that
    goes to the exit code.
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
        return RunFailedError(f"No candidate reached the ranking: {why}.")
    fraction, allowed = run.failed_fraction(), run.plan.spec.max_failed
    if fraction > allowed:
        return TooManyFailuresError(
            f"{fraction:.0%} of the candidates failed, more than the {allowed:.0%} allowed by "
            f"--max-failed; 'csp failures {run.folder}' says why."
        )
    return None
