"""The flow `resume`: an interrupted run, or one with failures, is continued from its folder."""

from typing import Any

from prefect import State, flow

from flows.body import carry_out, task_runner
from flows.how import How
from flows.object_folder import at_hand
from packflow_core.stages.finish import Summary
from packflow_core.stages.requeue import requeue as queue_again
from packflow_core.stages.run_store import RunStore
from packflow_core.store.schema import Reason


@flow(
    name="resume",
    flow_run_name="resume {run_folder}",
    task_runner=task_runner(),
    persist_result=False,
)
def resume(
    run_folder: str,
    retry_failed: bool = False,
    requeue: list[Reason] | None = None,
    workers: int | None = None,
    device: str = "auto",
    timeout_s: float | None = None,
    ranks: int | None = None,
) -> Summary | State[Any]:
    """Continue a run from its folder alone; what is finished is not computed again.

    Args:
        run_folder: folder that holds run.json, or `s3://bucket/prefix`.
        retry_failed: attempt candidates again that failed for a reason that may pass.
        requeue: reasons of failures; candidates that failed for one of them are attempted again.
        workers: worker processes; one per processor or GPU when not given.
        device: where engines compute that can use a GPU: auto, cpu, cuda, ...
        timeout_s: time limit of a candidate's first relaxation, s; generous when not given.
        ranks: MPI ranks that make random packings; worker processes do when not given.

    Returns:
        As the flow `csp`.

    Raises:
        UserInputError: no run folder, one that another process works in, or a reason that no
            other attempt can cure.
        RunFailedError: the run broke; what was finished is kept.
    """
    with at_hand(run_folder, write=True) as folder:
        run = RunStore(folder)
        for reason in requeue or []:
            queue_again(run, reason, missing_ok=True)
        spec = run.spec_to_resume()
        return carry_out(spec, folder, How(workers, device, timeout_s, retry_failed, ranks=ranks))
