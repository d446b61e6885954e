"""The flow `csp`: a SMILES becomes ranked crystals."""

from pathlib import Path
from typing import Any

from prefect import State, flow

from flows.body import carry_out, task_runner
from flows.how import How
from packflow_core.spec import RunSpec
from packflow_core.stages.finish import Summary


@flow(
    name="csp",
    flow_run_name="csp {spec.name} {spec.method}",
    task_runner=task_runner(),
    persist_result=False,
)
def csp(
    spec: RunSpec,
    out: str | None = None,
    workers: int | None = None,
    retry_failed: bool = False,
    timeout_s: float | None = None,
    rerank: bool = False,
    device: str = "auto",
    ranks: int | None = None,
) -> Summary | State[Any]:
    """Predict the crystal structures of one molecule.

    Args:
        spec: what to predict and how.
        out: run folder; `runs/<campaign>/<target>/<method>` when not given. A folder that holds
            the same run is continued.
        workers: worker processes; one per processor or GPU when not given.
        retry_failed: attempt candidates again that failed for a reason that may pass.
        timeout_s: time limit of a candidate's first relaxation, s; generous when not given.
        rerank: only analyse and rank the relaxed candidates of a folder, whose earlier ranking
            may have had other parameters or another reference.
        device: where engines compute that can use a GPU: auto, cpu, cuda, ...
        ranks: MPI ranks that make the candidates of the baselines random and random+press; worker
            processes do when not given.

    Returns:
        Counts, the best structures and the paths of the result files. The flow run ends as failed
        when more candidates failed than the spec allows; the results are written all the same.

    Raises:
        UserInputError: an input is wrong; nothing was started.
        RunFailedError: the run broke; what was finished is kept.
    """
    folder = Path(out) if out else spec.default_folder()
    return carry_out(spec, folder, How(workers, device, timeout_s, retry_failed, rerank, ranks))
