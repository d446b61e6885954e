"""The flow `csp` for a target of the blind tests, by its name."""

from pathlib import Path
from typing import Annotated, Any

from prefect import State, flow
from pydantic import Field

from flows.body import carry_out, task_runner
from flows.campaign_runs import blind_test_names, target_by_name
from flows.how import How
from packflow_core.spec import N_MAX, Refinement
from packflow_core.stages.finish import Summary

#: Candidates of a run that nobody gave a size: some minutes on two cores.
DEFAULT_N = 16

#: The list in the schema makes the form of the Prefect UI offer the targets.
Target = Annotated[str, Field(json_schema_extra={"enum": list(blind_test_names())})]


@flow(
    name="csp",
    flow_run_name="csp {target} {generator}",
    task_runner=task_runner(),
    persist_result=False,
)
def blind_test(
    target: Target = "OBEQOD",
    n: Annotated[int, Field(ge=1, le=N_MAX)] = DEFAULT_N,
    generator: Annotated[str, Field(min_length=1)] = "packflow-open",
    engine: Annotated[str, Field(min_length=1)] = "gfnff",
    seed: Annotated[int, Field(ge=0)] = 0,
    z: list[int] | None = None,
    refine: list[Refinement] | None = None,
    reference: str | None = None,
    out: str | None = None,
    workers: Annotated[int | None, Field(ge=1, le=1024)] = None,
    device: str = "auto",
    timeout_s: Annotated[float | None, Field(ge=1)] = None,
    retry_failed: bool = False,
) -> Summary | State[Any]:
    """Predict the crystals of a target of the blind tests of crystal structure prediction.

    Molecule and Z come from `deployments/campaigns/blind_test.yaml`.

    Args:
        target: refcode of the target, for example OBEQOD, which is target XVII.
        n: candidates in all. A demonstration takes 16, a search hundreds to thousands; it may grow
            later.
        generator: name or path of a PackFlow model, or a baseline: random, random+press,
            genarris-plain, genarris-press.
        engine: energy engine of the relaxations.
        seed: same seed, same candidates.
        z: molecules per cell to sample; those of the known forms when not given.
        refine: further relaxations of the best candidates with other engines.
        reference: path of a CIF of the known crystal, to find it in the ranking.
        out: run folder; `runs/blind-test/<target>/<method>` when not given. A folder that holds
            the same run is continued.
        workers: worker processes; one per processor or GPU when not given.
        device: where engines compute that can use a GPU: auto, cpu, cuda, ...
        timeout_s: time limit of a candidate's first relaxation, s; generous when not given.
        retry_failed: attempt candidates again that failed for a reason that may pass.

    Returns:
        As the flow `csp`.

    Raises:
        UserInputError: an input is wrong; nothing was started.
        RunFailedError: the run broke; what was finished is kept.
    """
    campaign, found = target_by_name(target)
    if reference is not None:
        found = found.model_copy(update={"reference": reference})
    given: dict[str, Any] = {"n": n, "generator": generator, "engine": engine, "seed": seed}
    if z:
        given["z"] = z
    if refine:
        given["refine"] = [step.model_dump(mode="json") for step in refine]
    spec = campaign.spec_of(found, given)
    folder = Path(out) if out else spec.default_folder()
    return carry_out(spec, folder, How(workers, device, timeout_s, retry_failed))
