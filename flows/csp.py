"""The flow `csp`: a SMILES becomes ranked crystals."""

import logging
from collections import Counter
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.futures import PrefectFuture, wait
from prefect.task_runners import ThreadPoolTaskRunner

from flows.artifacts import FlowArtifacts
from packflow_core.errors import PackflowError
from packflow_core.spec import RunSpec
from packflow_core.stages.chunk import ChunkResult, default_workers
from packflow_core.stages.finish import Summary
from packflow_core.stages.pipeline import run_stage
from packflow_core.stages.run_store import OpenRun, RunStore, plan_for
from packflow_core.store.schema import STAGES
from tasks.generate import generate_chunk
from tasks.hydrogenate import hydrogenate_chunk
from tasks.rank import analyse_chunk
from tasks.relax import relax_chunk, relax_h_chunk
from tasks.report import report

logger = logging.getLogger(__name__)

_TASKS: dict[str, Any] = {
    "generate": generate_chunk,
    "hydrogenate": hydrogenate_chunk,
    "relax_h": relax_h_chunk,
    "relax": relax_chunk,
    "rank": analyse_chunk,
}

#: Chunks under way at once. They share one pool of workers, so this is not parallelism: a second
#: chunk only keeps the workers busy while the slowest candidate of the first one ends.
_CHUNKS_AT_ONCE = 2
_RUNNER: Any = ThreadPoolTaskRunner(max_workers=_CHUNKS_AT_ONCE)


@flow(
    name="csp",
    flow_run_name="csp {spec.name} {spec.method}",
    task_runner=_RUNNER,
    persist_result=False,
)
def csp(
    spec: RunSpec,
    out: str | None = None,
    workers: int | None = None,
    retry_failed: bool = False,
    timeout_s: float | None = None,
    rerank: bool = False,
) -> Summary:
    """Predict the crystal structures of one molecule.

    Args:
        spec: what to predict and how.
        out: run folder; `runs/<campaign>/<target>/<method>` when not given. A folder that holds
            the same run is continued.
        workers: worker processes; one per processor when not given.
        retry_failed: attempt candidates again that failed for a reason that may pass.
        timeout_s: time limit of a candidate's first relaxation, s; generous when not given.
        rerank: only analyse and rank the relaxed candidates of a folder, whose earlier ranking
            may have had other parameters or another reference.

    Returns:
        Counts, the best structures and the paths of the result files.

    Raises:
        UserInputError: an input is wrong; nothing was started.
        RunFailedError: the run broke; what was finished is kept.
    """
    folder = Path(out) if out else spec.default_folder()
    plan = plan_for(spec, folder, rerank)
    count = workers or default_workers()
    with OpenRun(folder, plan, workers=count, rerank=rerank) as run:
        try:
            summary = _run(run, count, retry_failed, timeout_s, rerank)
        except (KeyboardInterrupt, SystemExit):
            run.end_session("interrupted")
            raise
        except Exception as error:
            message = str(error) if isinstance(error, PackflowError) else repr(error)
            _end_quietly(run, "failed", error=message)
            raise
        run.end_session("finished", stages=summary.stage_seconds())
        return summary


def _run(
    run: RunStore, workers: int, retry_failed: bool, timeout_s: float | None, rerank: bool
) -> Summary:
    artifacts = FlowArtifacts(run)

    def submit(stage: str, cut: list[list[tuple[int, int]]]) -> list[ChunkResult]:
        limit = timeout_s if stage in ("relax_h", "relax") else None
        task = _TASKS[stage]
        futures: list[PrefectFuture[ChunkResult]] = [
            task.with_options(task_run_name=f"{stage} {work[0][0]}-{work[-1][0]}").submit(
                str(run.folder), work, workers, limit
            )
            for work in cut
        ]
        wait(futures)  # every chunk gets its chance before the first failure is raised
        return [future.result() for future in futures]

    stages = ("rank",) if rerank else STAGES
    for number, stage in enumerate(stages):
        run_stage(run, stage, submit, retry_failed)
        artifacts.stage_done(number + 1, len(stages))
    summary: Summary = report(str(run.folder), workers)
    artifacts.finished(summary)
    total = Counter({stage["stage"]: stage["attempted"] for stage in summary.stages})
    logger.info("run %s finished: %s", run.folder, dict(total))
    return summary


def _end_quietly(run: RunStore, status: str, **values: Any) -> None:
    """Record the end of a broken run, unless the disk that broke it does not let us."""
    try:
        run.end_session(status, **values)
    except (PackflowError, OSError):
        logger.exception("the end of the run could not be recorded in %s", run.folder)
