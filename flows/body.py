"""What the flows share: the stages of a run folder as Prefect tasks, and how a flow run ends."""

from __future__ import annotations

import logging
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from prefect import State
from prefect.context import FlowRunContext
from prefect.exceptions import TerminationSignal
from prefect.futures import PrefectFuture, wait
from prefect.states import Failed

from flows.artifacts import FlowArtifacts
from flows.how import How
from flows.object_folder import at_hand
from flows.runners import gpu_slot, is_elsewhere, task_runner, uses_gpu, watched
from flows.secrets import lend_token
from packflow_core.errors import PackflowError
from packflow_core.spec import RunSpec
from packflow_core.stages.chunk import ChunkResult
from packflow_core.stages.finish import Summary
from packflow_core.stages.generation import check_ranks
from packflow_core.stages.pipeline import run_stage, verdict
from packflow_core.stages.plan import check_device, device_of
from packflow_core.stages.pools import stop
from packflow_core.stages.run_store import OpenRun, RunStore, plan_for
from packflow_core.store.atomic import refresh_listing
from packflow_core.store.schema import stage_kind
from tasks.generate import generate_chunk
from tasks.hydrogenate import hydrogenate_chunk
from tasks.rank import analyse_chunk
from tasks.relax import relax_chunk, relax_h_chunk
from tasks.report import report

__all__ = ["carry_out", "task_runner"]

logger = logging.getLogger(__name__)

#: Tasks by kind of stage.
_TASKS: dict[str, Any] = {
    "generate": generate_chunk,
    "hydrogenate": hydrogenate_chunk,
    "relax_h": relax_h_chunk,
    "relax": relax_chunk,
    "rank": analyse_chunk,
}


def carry_out(spec: RunSpec, folder: Path, how: How) -> Summary | State[Any]:
    """Run or continue a spec in its folder; call it inside a flow.

    Returns:
        The summary; a failed state, to be returned by the flow, when the results are written but
        the run lost more candidates than its spec allows, or all of them.

    Raises:
        UserInputError: an input is wrong; nothing was started.
        RunFailedError: the run broke; what was finished is kept.
    """
    lend_token(spec.engines)
    with at_hand(folder, write=True) as here:
        return _carry_out(spec, here, how)


def _carry_out(spec: RunSpec, folder: Path, how: How) -> Summary | State[Any]:
    """`carry_out` in a local folder."""
    plan = plan_for(spec, folder, how.rerank)
    if not how.rerank:
        check_device(spec, how.workers, how.device)
        check_ranks(spec, how.ranks)
    with OpenRun(folder, plan, workers=how.workers, rerank=how.rerank) as run:
        try:
            summary = _stages(run, how)
            problem = verdict(run)
        except (KeyboardInterrupt, SystemExit, TerminationSignal) as end:
            if isinstance(end, TerminationSignal):
                stop()  # the chunks of the other threads, for which this process would wait
            run.end_session("interrupted")
            raise
        except Exception as error:
            message = str(error) if isinstance(error, PackflowError) else repr(error)
            _end_quietly(run, "failed", error=message)
            raise
        told = {"verdict": str(problem)} if problem else {}
        run.end_session("finished", stages=summary.stage_seconds(), **told)
    return Failed(message=str(problem), data=problem) if problem else summary


def _stages(run: RunStore, how: How) -> Summary:
    artifacts = FlowArtifacts(run)
    context = FlowRunContext.get()
    elsewhere = context is not None and is_elsewhere(context.task_runner)

    def submit(stage: str, cut: list[list[tuple[int, int]]]) -> list[ChunkResult]:
        kind = stage_kind(stage)
        relaxes = kind in ("relax_h", "relax")
        parameters: dict[str, Any] = {
            # A process elsewhere has another working folder.
            "run_folder": str(run.folder.resolve()) if elsewhere else str(run.folder),
            "workers": how.workers,
            "timeout_s": how.timeout_s if relaxes else None,
            "device": device_of(run.plan.spec, stage, how.device),
        }
        if stage == "generate":
            parameters["ranks"] = how.ranks
        if stage != kind:
            parameters["stage"] = stage
        device = parameters["device"] if relaxes else "cpu"
        tags = ["gpu"] if uses_gpu(device) else []
        with gpu_slot(device), watched(run, stage) if elsewhere else nullcontext():
            futures: list[PrefectFuture[ChunkResult]] = [
                _TASKS[kind]
                .with_options(task_run_name=f"{stage} {work[0][0]}-{work[-1][0]}", tags=tags)
                .submit(work=work, **parameters)
                for work in cut
            ]
            wait(futures)  # every chunk gets its chance before the first failure is raised
            if elsewhere:
                refresh_listing(run.stage(stage).folder)
        return [future.result() for future in futures]

    stages = ("rank",) if how.rerank else run.plan.stage_names
    with artifacts.watching():
        for number, stage in enumerate(stages):
            whole = stage == "generate" and how.ranks is not None
            run_stage(run, stage, submit, how.retry_failed, whole)
            artifacts.stage_done(number + 1, len(stages))
    summary: Summary = report(str(run.folder), how.workers, how.device)
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
