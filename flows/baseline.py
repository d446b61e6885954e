"""The flow `baseline`: the same run with another generator, to compare PackFlow with."""

from pathlib import Path
from typing import Any, Literal

from prefect import State, flow

from flows.body import carry_out, task_runner
from flows.how import How
from packflow_core.spec import RunSpec
from packflow_core.stages.finish import Summary


@flow(
    name="baseline",
    flow_run_name="baseline {spec.name} {generator}",
    task_runner=task_runner(),
    persist_result=False,
)
def baseline(
    spec: RunSpec,
    generator: Literal["random", "random+press", "genarris-plain", "genarris-press"] = (
        "genarris-press"
    ),
    out: str | None = None,
    workers: int | None = None,
    retry_failed: bool = False,
    timeout_s: float | None = None,
    device: str = "auto",
    ranks: int | None = None,
) -> Summary | State[Any]:
    """Predict crystal structures from the candidates of a baseline instead of PackFlow's.

    Later stages are those of the flow `csp`, so the results compare.

    Args:
        spec: what to predict and how; its generator does not matter here.
        generator: the baseline. Genarris is a program of its own, to be installed beside.
        out: run folder; `runs/<campaign>/<target>/<generator>` when not given. A folder that
            holds the same run is continued.
        workers: worker processes; one per processor or GPU when not given.
        retry_failed: attempt candidates again that failed for a reason that may pass.
        timeout_s: time limit of a candidate's first relaxation, s; generous when not given.
        device: where engines compute that can use a GPU: auto, cpu, cuda, ...
        ranks: MPI ranks that make random packings; worker processes do when not given. Those of
            Genarris are `spec.genarris.mpi_ranks`.

    Returns:
        As the flow `csp`.

    Raises:
        UserInputError: an input is wrong, or the baseline is not installed; nothing was started.
        RunFailedError: the run broke; what was finished is kept.
    """
    spec = spec.model_copy(update={"generator": generator})
    folder = Path(out) if out else spec.default_folder()
    return carry_out(spec, folder, How(workers, device, timeout_s, retry_failed, ranks=ranks))
