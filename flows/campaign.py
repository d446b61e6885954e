"""The flow `campaign`: many targets searched alike, the failure of one notwithstanding."""

import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prefect import State, flow
from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    update_progress_artifact,
)
from prefect.runtime import flow_run
from prefect.states import Failed

from flows.campaign_runs import CampaignRun, Search, open_campaign
from flows.csp import csp
from flows.how import How
from packflow_core import progress
from packflow_core.campaign_report import campaign_markdown, write_campaign
from packflow_core.errors import PackflowError
from packflow_core.race.progress import LegProgress
from packflow_core.stages.pools import StoppedError, close_pools
from packflow_core.store.atomic import make_folder, write_json
from packflow_core.store.lock import RunLock

logger = logging.getLogger(__name__)

#: What is known of a campaign while it runs, for programs.
STATE_JSON = "campaign.json"


@flow(
    name="campaign",
    flow_run_name="campaign {campaign}",
    persist_result=False,
)
def campaign(
    campaign: str = "blind_test",
    only: list[str] | None = None,
    search: Search = Search(),  # noqa: B008  frozen; draws the form
    out: str | None = None,
    dated: bool = False,
    workers: int | None = None,
    device: str = "auto",
    timeout_s: float | None = None,
    retry_failed: bool = False,
    through: str | None = None,
) -> dict[str, Any] | State[Any]:
    """Search every target of a campaign, and write a table and a report of all of them.

    Targets are runs of their own. One that fails costs itself alone. Called again on the same
    folder, the campaign goes on: targets that are finished are not computed again.

    Args:
        campaign: path of a campaign file, or the name of one that comes with packflow-csp.
        only: names or labels of targets, for example OBEQOD or XVII; all when empty.
        search: what all runs share, where the file says otherwise or nothing.
        out: folder of the campaign; `runs/<campaign>` when not given. Each target has its run
            folder in it, `<target>/<method>`.
        dated: put everything into a folder of the day for which the run was scheduled, below `out`,
            so that a schedule makes a new search every time.
        workers: worker processes of a run; one per processor or GPU when not given.
        device: where engines compute that can use a GPU: auto, cpu, cuda, ...
        timeout_s: time limit of a candidate's first relaxation, s; generous when not given.
        retry_failed: attempt candidates again that failed for a reason that may pass.
        through: deployment that runs the targets, for example csp/single: several workers share
            them then, on any machine that sees the folder. They run here, one after the other,
            when not given.

    Returns:
        The rows of the table and the paths of the files. The flow run ends as failed when a target
        did; the table is written all the same.

    Raises:
        UserInputError: an input is wrong; nothing was started.
        RunFailedError: not one target could be run.
    """
    runs = open_campaign(campaign, only or [], search, Path(out) if out else None)
    if dated:
        runs = runs.in_subfolder(flow_run.scheduled_start_time.strftime("%Y-%m-%d"))
    how = How(workers, device, timeout_s, retry_failed)
    make_folder(runs.folder)
    with RunLock(runs.folder):
        bar = _quietly(create_progress_artifact, 0.0, description=f"Targets of {runs.name}")

        def done(count: int, total: int) -> None:
            _write(runs)
            if bar is not None:
                _quietly(update_progress_artifact, bar, 100.0 * count / total)

        _write(runs)
        if through is None:
            run_here(runs, how, done)
        else:
            from flows.campaign_remote import run_through

            run_through(runs, through, how, done)
        document = _write(runs)
        _quietly(
            create_markdown_artifact,
            campaign_markdown(runs.campaign, *runs.tables()),
            key=re.sub(r"[^a-z0-9]+", "-", f"campaign-{runs.name}".lower()).strip("-"),
        )
    if problem := runs.verdict():
        return Failed(message=str(problem), data=problem)
    return document


def run_here(runs: CampaignRun, how: How, done: Callable[[int, int], None]) -> None:
    """Run the targets one after the other as flows of their own.

    Args:
        runs: the targets; what goes wrong with one is noted there.
        how: how to work.
        done: told after each target how many are done, and of how many.
    """
    for count, item in enumerate(runs.items, start=1):
        if item.spec is None or item.is_finished(how.retry_failed):
            done(count, len(runs.items))
            continue
        logger.info("target %s, %d of %d", item.target.name, count, len(runs.items))
        try:
            with progress.use(LegProgress(progress.current(), item.target.name)):
                csp(
                    item.spec, out=str(item.folder), workers=how.workers, device=how.device,
                    timeout_s=how.timeout_s, retry_failed=how.retry_failed,
                )  # fmt: skip
        except StoppedError:
            raise
        except PackflowError as error:
            item.problem = str(error)
        except Exception as error:
            logger.exception("target %s broke", item.target.name)
            item.problem = f"The run broke unexpectedly ({type(error).__name__}: {error})."
        finally:
            close_pools()  # each run has workers of its own; none are left behind for the next
        done(count, len(runs.items))


def read_state(folder: Path) -> dict[str, Any]:
    """What the campaign's JSON file holds."""
    content: dict[str, Any] = json.loads((folder / STATE_JSON).read_text(encoding="utf-8"))
    return content


def _write(runs: CampaignRun) -> dict[str, Any]:
    """Write the tables and pages as things stand; returns what a program wants to know."""
    targets, forms = runs.tables()
    files = write_campaign(runs.campaign, targets, forms, runs.folder)
    document = {"campaign": runs.name, "file": str(runs.file), "targets": targets, "files": files}
    write_json(runs.folder / STATE_JSON, document)
    return document


def _quietly(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """An artifact is never a reason for a campaign to fail."""
    try:
        return function(*args, **kwargs)
    except Exception:
        logger.warning("an artifact could not be written", exc_info=True)
        return None
