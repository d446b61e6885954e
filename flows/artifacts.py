"""What a run shows on its page in the Prefect UI; never a reason for a run to fail.

A progress bar for the whole and for every stage, the funnel, the landscape, and the report in its
Markdown form with links to the page and the dashboard.
"""

from __future__ import annotations

import base64
import json
import logging
import os
import re
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect.artifacts import (
    create_image_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactUpdate

from flows.stage_progress import shown_in_prefect
from packflow_core.analysis.report_markdown import Code, escape_markdown
from packflow_core.stages.finish import Summary
from packflow_core.stages.run_store import RunStore

logger = logging.getLogger(__name__)

#: Environment variable with the address of a dashboard over the runs, where one is served.
DASHBOARD_URL = "PACKFLOW_DASHBOARD_URL"
#: A picture beyond this size stays in the run folder; the server keeps artifacts in its database.
_MAX_IMAGE_BYTES = 500_000
_IMAGE_LINE = re.compile(r"^!\[.*?\]\(.*?\)\n", re.MULTILINE)


class FlowArtifacts:
    """Progress, funnel, landscape and report of one flow run.

    Args:
        run: gives the numbers.
    """

    def __init__(self, run: RunStore) -> None:
        self._run = run
        name = f"{run.plan.spec.name}-{run.plan.spec.method}".lower()
        self._key = re.sub(r"[^a-z0-9]+", "-", name).strip("-")
        self._progress: Any = _try(
            create_progress_artifact, 0.0, description=f"Stages of {run.plan.spec.name}"
        )
        self._funnel_id: UUID | None = None

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Show the progress of every stage inside the block."""
        with shown_in_prefect(self._key):
            yield

    def stage_done(self, number: int, total: int) -> None:
        """A stage ended: move the progress, renew the funnel."""
        if self._progress is not None:
            _try(update_progress_artifact, self._progress, 100.0 * number / total)
        _try(self._show_funnel)

    def finished(self, summary: Summary) -> None:
        """The result files are written."""
        if summary.n_ranked:
            _try(self._show_landscape, Path(summary.files["landscape"]))
        _try(
            create_markdown_artifact,
            result_page(summary),
            key=f"result-{self._key}",
            description=f"Report of {summary.target}",
        )

    def _show_landscape(self, path: Path) -> None:
        content = path.read_bytes()
        if len(content) > _MAX_IMAGE_BYTES:
            logger.info("%s is too large for an artifact", path)
            return
        create_image_artifact(
            f"data:image/png;base64,{base64.b64encode(content).decode('ascii')}",
            key=f"landscape-{self._key}",
            description="Density against relative lattice energy",
        )

    def _show_funnel(self) -> None:
        table = [
            {
                "stage": stage.stage,
                "eligible": stage.eligible,
                "ok": stage.ok,
                "unconverged": stage.unconverged,
                "rejected": stage.rejected,
                "failed": stage.failed,
                "median s": stage.as_dict()["median_wall_s"],
            }
            for stage in self._run.ledger()
        ]
        if self._funnel_id is None:
            made: Any = create_table_artifact(
                table, key=f"funnel-{self._key}", description="Candidates by stage"
            )
            self._funnel_id = made
            return
        with get_client(sync_client=True) as client:
            client.update_artifact(self._funnel_id, ArtifactUpdate(data=json.dumps(table)))


def result_page(summary: Summary) -> str:
    """The Markdown of a finished run: where its files are, then its report."""
    report = Path(summary.files["report"])
    lines = [
        f"**{summary.n_ranked} candidates ranked, {summary.n_distinct} distinct structures.**",
        "",
        # Browsers do not follow a link from a page of the web to a file, hence the path as well.
        f"- [Report]({report.as_uri()}): {escape_markdown(Code(report))}",
        f"- {dashboard_hint(Path(summary.folder))}",
        *(
            f"- {name}: {escape_markdown(Code(path))}"
            for name, path in summary.files.items()
            if name != "report"
        ),
        "",
    ]
    twin = Path(summary.files["markdown"])
    text = twin.read_text(encoding="utf-8") if twin.is_file() else ""
    return "\n".join(lines) + "\n" + _IMAGE_LINE.sub("", text)


def dashboard_hint(folder: Path) -> str:
    """Where the dashboard is, or the command that starts it, as Markdown."""
    url = os.environ.get(DASHBOARD_URL, "")
    if re.fullmatch(r"https?://[^\s()<>]+", url):
        return f"[Dashboard]({url})"
    return "Dashboard: " + escape_markdown(Code(f"csp dashboard {shlex.quote(str(folder))}"))


def _try(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    try:
        return function(*args, **kwargs)
    except Exception:
        logger.warning("an artifact could not be written", exc_info=True)
        return None
