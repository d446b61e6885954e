"""The progress of a flow run, for those who are not at its terminal.

Every stage has a progress artifact on the flow run's page. Where no terminal shows bars or lines,
as in a worker of the orchestrator, the run's log has a line now and then.
"""

from __future__ import annotations

import contextvars
import logging
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from prefect import get_run_logger
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.context import FlowRunContext

from packflow_core import progress
from packflow_core.progress import LogProgress, Progress, SilentProgress, StageCounts

logger = logging.getLogger(__name__)

#: Time between two looks at what the artifacts should say, s.
EVERY_S = 5.0
#: Time between two lines of a stage in the log of a worker, s; a tenth of the way counts, too.
LOG_EVERY_S = 60.0


class StageProgress:
    """Passes progress on, and keeps an artifact per stage up to date from a thread of its own.

    Args:
        inner: the sink that hears everything; it is not closed here.
        key: ends the key of every artifact: lower-case letters, digits and dashes.
        every_s: least time between two updates, s.
    """

    def __init__(self, inner: Progress, key: str, every_s: float = EVERY_S) -> None:
        self._inner = inner
        self._key = key
        self._every_s = every_s
        self._lock = threading.Lock()
        self._stages: dict[str, StageCounts] = {}
        self._ended: dict[str, float] = {}
        self._artifacts: dict[str, Any] = {}
        self._said: dict[str, tuple[int, int]] = {}
        self._failed = False
        self._end = threading.Event()
        # The artifacts belong to the flow run that this thread is in.
        inside = contextvars.copy_context()
        self._thread = threading.Thread(target=inside.run, args=(self._publish,), daemon=True)
        self._thread.start()

    def start(self, stage: str, total: int, done: Mapping[str, int]) -> None:
        """A stage begins."""
        self._inner.start(stage, total, done)
        with self._lock:
            self._stages[stage] = StageCounts.starting(total, done)
            self._ended.pop(stage, None)

    def advance(self, stage: str, status: str, count: int = 1) -> None:
        """More candidates are recorded."""
        self._inner.advance(stage, status, count)
        with self._lock:
            if stage in self._stages:
                self._stages[stage].counts[status] += count

    def finish(self, stage: str) -> None:
        """The stage ended; its pace stays as it was."""
        self._inner.finish(stage)
        with self._lock:
            self._ended[stage] = time.monotonic()

    def note(self, stage: str, text: str) -> None:
        """For the inner sink."""
        self._inner.note(stage, text)

    def warn(self, sentence: str) -> None:
        """For the inner sink."""
        self._inner.warn(sentence)

    def close(self) -> None:
        """Bring the artifacts up to date for the last time."""
        self._end.set()
        self._thread.join()

    def _publish(self) -> None:
        while True:
            last = self._end.wait(self._every_s)
            now = time.monotonic()
            with self._lock:
                news = {
                    stage: (
                        counts.done,
                        counts.total,
                        counts.describe(self._ended.get(stage, now)),
                    )
                    for stage, counts in self._stages.items()
                    if self._said.get(stage) != (counts.done, counts.total)
                }
            for stage, (done, total, text) in news.items():
                self._tell(stage, 100.0 * done / total if total else 100.0, f"{stage}: {text}")
                self._said[stage] = (done, total)
            if last:
                return

    def _tell(self, stage: str, percent: float, text: str) -> None:
        try:
            if stage in self._artifacts:
                update_progress_artifact(self._artifacts[stage], percent, description=text)
            else:
                key = f"{stage.replace('_', '-')}-{self._key}"
                self._artifacts[stage] = create_progress_artifact(
                    percent, key=key, description=text
                )
        except Exception:
            # A server that does not answer is no reason to stop, nor to say so every time.
            logger.log(
                logging.DEBUG if self._failed else logging.WARNING,
                "the progress of %s could not be shown in Prefect", stage, exc_info=True,
            )  # fmt: skip
            self._failed = True


@contextmanager
def shown_in_prefect(key: str, every_s: float = EVERY_S) -> Iterator[None]:
    """Show the progress inside the block on the page of the flow run that this thread is in.

    Args:
        key: see `StageProgress`.
        every_s: see `StageProgress`.
    """
    inner = progress.current()
    if isinstance(inner, SilentProgress) and FlowRunContext.get() is not None:
        inner = LogProgress(LOG_EVERY_S, get_run_logger())
    with progress.use(StageProgress(inner, key, every_s)):
        yield
