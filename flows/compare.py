"""The flow `compare`: several generators race on one target."""

import logging
import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from prefect import State, flow
from prefect.artifacts import create_markdown_artifact
from prefect.states import Failed

from flows.compare_legs import RaceLeg, check_legs, default_folder, race_legs
from flows.csp import csp
from flows.how import How
from packflow_core import progress
from packflow_core.errors import PackflowError, TooManyFailuresError
from packflow_core.race.comparison import compare_runs
from packflow_core.race.growth import PILOT_PER_Z, next_size
from packflow_core.race.page import markdown
from packflow_core.race.progress import LegProgress
from packflow_core.race.report import write_comparison
from packflow_core.race.settings import CompareSettings
from packflow_core.race.tables import Document
from packflow_core.spec import N_MAX, RunSpec
from packflow_core.stages.generators import block_size
from packflow_core.stages.pipeline import NothingRankedError

logger = logging.getLogger(__name__)


@flow(
    name="compare",
    flow_run_name="compare {spec.name}",
    persist_result=False,
)
def compare(
    spec: RunSpec,
    generators: list[str],
    seconds: float | None = None,
    pilot: int | None = None,
    out: str | None = None,
    settings: CompareSettings = CompareSettings(),  # noqa: B008  frozen; draws the form
    workers: int | None = None,
    device: str = "auto",
    timeout_s: float | None = None,
    retry_failed: bool = False,
    ranks: int | None = None,
) -> Document | State[Any]:
    """Run each generator on one target, all else equal, and compare what they found.

    Args:
        spec: what to predict and how; its generator does not matter, its n is the number of
            candidates of each leg unless seconds are given.
        generators: two or more, names or paths of checkpoints as for a run.
        seconds: working time of each leg, from the generation to the last relaxation, s; legs
            grow until they fill it.
        pilot: candidates of a leg's first step towards that time; four for each Z when not given.
        out: folder of the race; `runs/<campaign>/<target>/race` when not given. The legs are run
            folders in it, named after their methods; what is finished is not computed again.
        settings: how the legs are compared; the budget in it is ignored.
        workers: worker processes; one per processor or GPU when not given.
        device: where engines compute that can use a GPU: auto, cpu, cuda, ...
        timeout_s: time limit of a candidate's first relaxation, s; generous when not given.
        retry_failed: attempt candidates again that failed for a reason that may pass.
        ranks: MPI ranks that make random packings; worker processes do when not given.

    Returns:
        The comparison in plain types. The flow run ends as failed when a leg lost more candidates
        than the spec allows, or all of them; the comparison is written all the same.

    Raises:
        UserInputError: an input is wrong; nothing was started.
        RunFailedError: a leg broke; what was finished is kept.
    """
    folder = Path(out) if out else default_folder(spec)
    how = How(workers, device, timeout_s, retry_failed, ranks=ranks)
    legs = race_legs(spec, generators, folder)
    check_legs(legs, seconds, how)
    problems = [problem for leg in legs if (problem := _run_leg(leg, seconds, pilot, how))]
    budget = {"n": spec.n if seconds is None else None, "compute_s": seconds}
    race = compare_runs(
        [leg.folder for leg in legs],
        CompareSettings.model_validate({**settings.model_dump(), **budget}),
        folder,
    )
    document = write_comparison(race, folder)
    _artifact(document, folder)
    if problems:
        return Failed(message=str(problems[0]), data=problems[0])
    return document


def grow(
    run: Callable[[int], None],
    leg: RaceLeg,
    seconds: float,
    pilot: int | None,
) -> None:
    """Run a leg with more and more candidates until its cost reaches the budget.

    Args:
        run: runs the leg with so many candidates.
        leg: it says what it has and what that cost.
        seconds: the budget.
        pilot: candidates of the first step; four for each Z when None.
    """
    n = max(leg.size(), pilot or PILOT_PER_Z * len(leg.spec.z))
    while True:
        run(n)
        cost = leg.costs()
        wanted = next_size(cost, seconds, block=block_size(leg.spec), largest=N_MAX)
        if wanted is None or wanted <= n:
            return
        logger.info(
            "%s: %d candidates took %.4g of %g s; growing to %d",
            leg.spec.method, n, cost.sum(), seconds, wanted,
        )  # fmt: skip
        n = wanted


def _run_leg(
    leg: RaceLeg, seconds: float | None, pilot: int | None, how: How
) -> PackflowError | None:
    """Run a leg as a flow of its own; what is wrong with it when it is done, or None."""
    problem: PackflowError | None = None
    means = asdict(leg.means(how))

    def run(n: int) -> None:
        nonlocal problem
        problem = None
        try:
            csp(leg.of_size(n), out=str(leg.folder), **means)
        except (TooManyFailuresError, NothingRankedError) as error:
            problem = error  # the results are there, and a race is told as it went
        means["retry_failed"] = False  # once is enough

    with progress.use(LegProgress(progress.current(), leg.spec.method)):
        if seconds is None:
            run(leg.spec.n)
        else:
            grow(run, leg, seconds, pilot)
    return problem


def _artifact(document: Document, folder: Path) -> None:
    """Show the page of the comparison in the Prefect UI; never a reason to fail."""
    key = re.sub(r"[^a-z0-9]+", "-", f"race-{document['target']}".lower()).strip("-")
    try:
        text = f"Figures are in `{folder.resolve()}`.\n\n{markdown(document, {})}"
        create_markdown_artifact(text, key=key)
    except Exception:
        logger.warning("an artifact could not be written", exc_info=True)
