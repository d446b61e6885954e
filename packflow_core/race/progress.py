"""Progress of a leg: that of a run, with the name of the leg before the stage."""

from __future__ import annotations

from collections.abc import Mapping

from packflow_core.progress import Progress


class LegProgress:
    """Passes everything on to another sink, which it never closes.

    Args:
        sink: the sink of the race.
        leg: name of the leg.
    """

    def __init__(self, sink: Progress, leg: str) -> None:
        self._sink = sink
        self._leg = leg

    def start(self, stage: str, total: int, done: Mapping[str, int]) -> None:
        """A stage of the leg begins."""
        self._sink.start(self._name(stage), total, done)

    def advance(self, stage: str, status: str, count: int = 1) -> None:
        """More candidates of the stage are recorded."""
        self._sink.advance(self._name(stage), status, count)

    def finish(self, stage: str) -> None:
        """The stage ended."""
        self._sink.finish(self._name(stage))

    def warn(self, sentence: str) -> None:
        """Something about the leg that should be known now."""
        self._sink.warn(f"{self._leg}: {sentence}")

    def note(self, stage: str, text: str) -> None:
        """What the stage does now."""
        self._sink.note(self._name(stage), text)

    def close(self) -> None:
        """Nothing: the race goes on."""

    def _name(self, stage: str) -> str:
        return f"{self._leg} {stage}"
