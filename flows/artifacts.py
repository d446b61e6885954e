"""What a run shows on its page in the Prefect UI; never a reason for a run to fail."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Any

from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)

from packflow_core.stages.finish import Summary
from packflow_core.stages.run_store import RunStore

logger = logging.getLogger(__name__)


class FlowArtifacts:
    """Progress, funnel and result of one flow run.

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

    def stage_done(self, number: int, total: int) -> None:
        """A stage ended: move the progress, renew the funnel."""
        if self._progress is not None:
            _try(update_progress_artifact, self._progress, 100.0 * number / total)
        if number == total:
            _try(self._funnel)

    def finished(self, summary: Summary) -> None:
        """The result files are written."""
        lines = [
            f"# {summary.target}",
            f"`{summary.smiles}`",
            "",
            f"{summary.n_ranked} candidates ranked, {summary.n_distinct} distinct structures.",
            "",
            *(f"- {name}: `{path}`" for name, path in summary.files.items()),
        ]
        _try(create_markdown_artifact, "\n".join(lines), key=f"result-{self._key}")

    def _funnel(self) -> None:
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
        create_table_artifact(table, key=f"funnel-{self._key}", description="Candidates by stage")


def _try(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    try:
        return function(*args, **kwargs)
    except Exception:
        logger.warning("an artifact could not be written", exc_info=True)
        return None
