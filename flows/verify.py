"""The flow `verify`: the energies of a run's best structures are looked at a second time."""

from typing import Any

from prefect import flow

from flows.body import task_runner
from flows.object_folder import at_hand
from packflow_core.errors import UserInputError
from packflow_core.store.lock import RunLock
from tasks.verify import verify_best


@flow(
    name="verify",
    flow_run_name="verify {run_folder}",
    task_runner=task_runner(),
    persist_result=False,
)
def verify(
    run_folder: str,
    top: int = 10,
    relax: bool = True,
    workers: int | None = None,
    device: str = "auto",
    timeout_s: float | None = None,
) -> dict[str, Any]:
    """Check the best distinct structures of a run: in other cells, and relaxed tighter.

    What was computed before is not computed again.

    Args:
        run_folder: folder of a run that was ranked, or `s3://bucket/prefix`.
        top: structures to check.
        relax: relax them tighter, too; costs about what relaxing them did.
        workers: worker processes; one per processor or GPU when not given.
        device: where engines compute that can use a GPU: auto, cpu, cuda, ...
        timeout_s: time limit of one energy or relaxation, s; from the run's own when not given.

    Returns:
        The engine, the number of structures, the findings as sentences and the path of the table.

    Raises:
        UserInputError: no run folder, nothing ranked, or the run's engine cannot be used here.
    """
    with at_hand(run_folder, write=True) as folder:
        if not folder.is_dir():
            raise UserInputError(f"There is no folder {folder}; give the folder of a run.")
        with RunLock(folder):
            found: dict[str, Any] = verify_best(str(folder), top, relax, workers, device, timeout_s)
    return found
