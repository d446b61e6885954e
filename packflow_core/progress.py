"""Progress of a run, one line or bar per stage, from the rows as they are recorded.

Stages report to the sink that `use` installed; without one, progress is silent. Sinks are
called from several threads.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from packflow_core.store.schema import Status

if TYPE_CHECKING:
    from rich.console import Console

    AnyLogger = logging.Logger | logging.LoggerAdapter[Any]

logger = logging.getLogger(__name__)


class Progress(Protocol):
    """Receives what happens to the candidates of a run."""

    def start(self, stage: str, total: int, done: Mapping[str, int]) -> None:
        """A stage begins: `total` candidates, of which `done` (status to count) are recorded."""

    def advance(self, stage: str, status: str, count: int = 1) -> None:
        """`count` more candidates of the stage are recorded with this status."""

    def finish(self, stage: str) -> None:
        """The stage ended."""

    def note(self, stage: str, text: str) -> None:
        """What a stage is at in a few words, where it records nothing for a long time."""

    def warn(self, sentence: str) -> None:
        """Something the person at the terminal should know now."""

    def close(self) -> None:
        """No more calls will come; restore the terminal."""


class SilentProgress:
    """Shows nothing."""

    def start(self, stage: str, total: int, done: Mapping[str, int]) -> None:
        """Nothing."""

    def advance(self, stage: str, status: str, count: int = 1) -> None:
        """Nothing."""

    def finish(self, stage: str) -> None:
        """Nothing."""

    def note(self, stage: str, text: str) -> None:
        """Nothing."""

    def warn(self, sentence: str) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


@dataclass
class StageCounts:
    """Counts of one stage since it began.

    Attributes:
        total: candidates of the stage.
        counts: recorded candidates by status.
        before: how many of them were recorded before this process began.
        began: when it began, by the monotonic clock, s.
        last_shown, last_fraction: when and at which share a line was last shown.
    """

    total: int
    counts: Counter[str]
    before: int
    began: float
    last_shown: float = field(default=0.0)
    last_fraction: float = field(default=0.0)

    @classmethod
    def starting(cls, total: int, done: Mapping[str, int]) -> StageCounts:
        """A stage that begins now, with what is recorded already."""
        counts = Counter(dict(done))
        return cls(total, counts, sum(counts.values()), time.monotonic())

    @property
    def done(self) -> int:
        """Recorded candidates."""
        return sum(self.counts.values())

    def rate(self, now: float) -> float:
        """Candidates per second, counting only what this process recorded."""
        elapsed = now - self.began
        return (self.done - self.before) / elapsed if elapsed > 0 else 0.0

    def summary(self) -> str:
        """Counts by status, the good news first."""
        return ", ".join(f"{self.counts[s]} {s}" for s in Status if self.counts[s])

    def describe(self, now: float) -> str:
        """For example ``120/500 (2.3/s, 2 min 45 s left; 118 ok, 2 failed)``."""
        rate = self.rate(now)
        left = f"{duration((self.total - self.done) / rate)} left" if rate > 0 else ""
        pace = ", ".join(filter(None, (speed(rate), left if self.done < self.total else "")))
        inside = "; ".join(filter(None, (pace, self.summary())))
        return f"{self.done}/{self.total}" + (f" ({inside})" if inside else "")


class LogProgress:
    """A log line per stage every `every_s` seconds or tenth of the way; for logs and pipes."""

    def __init__(self, every_s: float = 10.0, log: AnyLogger = logger) -> None:
        self._every_s = every_s
        self._log = log
        self._lock = threading.RLock()
        self._stages: dict[str, StageCounts] = {}

    def start(self, stage: str, total: int, done: Mapping[str, int]) -> None:
        """Log how much is to be done."""
        with self._lock:
            state = self._stages[stage] = StageCounts.starting(total, done)
            state.last_shown = state.began
            state.last_fraction = state.done / total if total else 1.0
            already = f", {state.done} of them done before" if state.done else ""
            self._log.info("%s: %d candidates%s", stage, total, already)

    def advance(self, stage: str, status: str, count: int = 1) -> None:
        """Count, and log when it is time."""
        now = time.monotonic()
        with self._lock:
            state = self._stages.get(stage)
            if state is None:
                return
            state.counts[status] += count
            fraction = state.done / state.total if state.total else 1.0
            tenth = fraction - state.last_fraction >= 0.1 and now - state.last_shown >= 1.0
            if state.done < state.total and (tenth or now - state.last_shown >= self._every_s):
                state.last_shown, state.last_fraction = now, fraction
                self._line(stage, state, now)

    def finish(self, stage: str) -> None:
        """Log the result of the stage."""
        with self._lock:
            state = self._stages.pop(stage, None)
            if state is not None:
                elapsed = time.monotonic() - state.began
                self._log.info(
                    "%s: %d/%d in %s (%s)",
                    stage, state.done, state.total, duration(elapsed), state.summary() or "none",
                )  # fmt: skip

    def note(self, stage: str, text: str) -> None:
        """Log it, when it is time."""
        now = time.monotonic()
        with self._lock:
            state = self._stages.get(stage)
            if state is not None and now - state.last_shown >= self._every_s:
                state.last_shown = now
                self._log.info("%s: %s", stage, text)

    def warn(self, sentence: str) -> None:
        """Log it."""
        self._log.warning("%s", sentence)

    def close(self) -> None:
        """Nothing is open."""

    def _line(self, stage: str, state: StageCounts, now: float) -> None:
        self._log.info("%s: %s", stage, state.describe(now))


class RichProgress:
    """A bar per stage: done and total, rate, time left, counts by status."""

    def __init__(self, console: Console) -> None:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            ProgressColumn,
            Task,
            TextColumn,
            TimeRemainingColumn,
        )
        from rich.progress import Progress as Bars
        from rich.table import Column
        from rich.text import Text

        class Counts(ProgressColumn):
            """Cut where the terminal is narrow, so that the other columns keep their width."""

            def render(self, task: Task) -> Text:
                """The field `counts` of a task on one line."""
                text = str(task.fields["counts"])
                return Text(text, style="dim", no_wrap=True, overflow="ellipsis")

        self._lock = threading.RLock()
        self._stages: dict[str, StageCounts] = {}
        self._tasks: dict[str, Any] = {}
        self._bars = Bars(
            TextColumn("[bold]{task.description:<11}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]:>10}"),
            TimeRemainingColumn(compact=True),
            Counts(Column(no_wrap=False)),
            console=console,
            refresh_per_second=4,
        )
        self._bars.start()

    def start(self, stage: str, total: int, done: Mapping[str, int]) -> None:
        """Add the stage's bar, or reset it when the stage runs again."""
        with self._lock:
            state = self._stages[stage] = StageCounts.starting(total, done)
            if stage in self._tasks:
                self._bars.remove_task(self._tasks[stage])
            self._tasks[stage] = self._bars.add_task(
                stage, total=total, completed=state.done, rate="", counts=state.summary()
            )

    def advance(self, stage: str, status: str, count: int = 1) -> None:
        """Move the bar."""
        with self._lock:
            state = self._stages.get(stage)
            if state is None:
                return
            state.counts[status] += count
            self._bars.update(
                self._tasks[stage],
                completed=state.done,
                rate=speed(state.rate(time.monotonic())),
                counts=state.summary(),
            )

    def finish(self, stage: str) -> None:
        """Leave the bar as it stands."""
        with self._lock:
            if stage in self._tasks:
                self._bars.stop_task(self._tasks[stage])

    def note(self, stage: str, text: str) -> None:
        """Show it in place of the counts, until the next candidate is recorded."""
        with self._lock:
            if stage in self._tasks:
                self._bars.update(self._tasks[stage], counts=text)

    def warn(self, sentence: str) -> None:
        """Print it above the bars."""
        self._bars.console.print(sentence, style="bold yellow", markup=False)

    def close(self) -> None:
        """Stop drawing; the bars stay on the screen."""
        self._bars.stop()


_sink: Progress = SilentProgress()


def current() -> Progress:
    """The sink that stages report to."""
    return _sink


@contextmanager
def use(progress: Progress) -> Iterator[Progress]:
    """Report to `progress` inside the block, in every thread of the process."""
    global _sink  # noqa: PLW0603  one terminal per process
    previous, _sink = _sink, progress
    try:
        yield progress
    finally:
        _sink = previous
        progress.close()


def speed(rate: float) -> str:
    """Candidates per second as a short text; the time for one where that reads better."""
    if rate <= 0:
        return ""
    return f"{rate:.1f}/s" if rate >= 1 else f"{1 / rate:.3g} s each"


def duration(seconds: float) -> str:
    """Seconds as a short text: 42 s, 3 min 20 s, 2 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
