"""How far a run of Genarris is, from what it has written so far."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from packflow_core.baselines.genarris_settings import PRESS

STDOUT_FILE = "stdout.log"
STDERR_FILE = "stderr.log"
FINAL_LINE = "All tasks completed successfully."

Phase = Literal["starting", "generation", "press", "finished"]

_END_OF_STRUCTURE = b"END  STRUCTURE"
_PRESSED = f'{PRESS}\\": \\"'.encode()

_RANKS = re.compile(r"Using (\d+) parallel tasks")
_GROUPS = re.compile(r"Total compatible space groups = (\d+)")
_ATTEMPT = re.compile(r"Attempting to generate (\d+) structures in spacegroup number (\d+)")
_GENERATED = re.compile(r"Total number of generated structures = (\d+)")
_PRESS_START = re.compile(rf"Starting {PRESS} task with (\d+) Structures")


@dataclass(frozen=True)
class GenarrisProgress:
    """How far a run is.

    Attributes:
        phase: starting, generation, press or finished.
        ranks: processes that Genarris found itself to have, 0 while it has not said.
        groups_total: space groups that suit the molecule and Z, 0 while unknown. Groups of which
            no structure is asked for are passed over, so fewer may be tried.
        groups_tried: space groups begun.
        space_group: the one that is being tried, 0 while none is.
        generated: structures placed.
        wanted: structures asked for in the groups begun.
        pressed: structures that went through the press; counted as far as checkpoints tell.
        to_press: structures that the press was given.
    """

    phase: Phase = "starting"
    ranks: int = 0
    groups_total: int = 0
    groups_tried: int = 0
    space_group: int = 0
    generated: int = 0
    wanted: int = 0
    pressed: int = 0
    to_press: int = 0

    @property
    def fraction(self) -> float | None:
        """Part of the present phase that is done, 0 to 1, None where it cannot be told."""
        if self.phase == "press":
            return self.pressed / self.to_press if self.to_press else None
        if self.phase == "generation" and self.groups_total:
            return max(self.groups_tried - 1, 0) / self.groups_total
        return 1.0 if self.phase == "finished" else None


class ProgressReader:
    """Follows the files of a run; `read` may be called as often as wanted.

    Args:
        folder: the working directory of the run; its files may not exist yet.
    """

    def __init__(self, folder: str | Path) -> None:
        self._folder = Path(folder)
        self._progress = GenarrisProgress()
        self._stdout_at = 0
        self._partial = ""
        self._geometry_at = 0
        self._tail = b""
        self._ends = 0
        self._seen: dict[Path, tuple[int, int, int]] = {}

    def read(self) -> GenarrisProgress:
        """The progress by now."""
        for line in self._new_lines():
            self._progress = _after(self._progress, line)
        now = self._progress
        if now.phase in ("starting", "generation"):
            now = replace(now, generated=max(now.generated, self._generated()))
        elif now.phase == "press":
            now = replace(now, pressed=min(self._pressed(), now.to_press))
        self._progress = now
        return now

    def _new_lines(self) -> list[str]:
        """Complete lines of the standard output that came since the last call."""
        try:
            with open(self._folder / STDOUT_FILE, "rb") as file:
                file.seek(self._stdout_at)
                new = file.read()
        except OSError:
            return []
        self._stdout_at += len(new)
        *lines, self._partial = (self._partial + new.decode("ascii", "replace")).split("\n")
        return lines

    def _generated(self) -> int:
        """Structures in `geometry.out`, which is flushed after each."""
        try:
            with open(self._folder / "tmp" / "generation" / "geometry.out", "rb") as file:
                file.seek(self._geometry_at)
                new = file.read()
        except OSError:
            return self._ends
        self._geometry_at += len(new)
        text = self._tail + new
        self._ends += text.count(_END_OF_STRUCTURE)
        # A marker may be cut at the end of what was read; less than one marker never counts twice.
        self._tail = text[-(len(_END_OF_STRUCTURE) - 1) :]
        return self._ends

    def _pressed(self) -> int:
        """Structures marked as pressed in the checkpoints, one file for each rank."""
        for path in (self._folder / "tmp" / PRESS).glob("rank_*/*.save"):
            try:
                stat = path.stat()
                known = self._seen.get(path)
                if known is None or known[:2] != (stat.st_mtime_ns, stat.st_size):
                    count = path.read_bytes().count(_PRESSED)
                    # A file that is being written anew is short: what is pressed stays pressed.
                    count = max(count, known[2] if known else 0)
                    self._seen[path] = (stat.st_mtime_ns, stat.st_size, count)
            except OSError:
                continue
        return sum(count for _, _, count in self._seen.values())


def parse_progress(text: str) -> GenarrisProgress:
    """The progress that a standard output tells."""
    progress = GenarrisProgress()
    for line in text.split("\n"):
        progress = _after(progress, line)
    return progress


def _after(progress: GenarrisProgress, line: str) -> GenarrisProgress:
    """Progress after one more line of standard output."""
    if found := _RANKS.search(line):
        return replace(progress, ranks=int(found[1]))
    if found := _GROUPS.search(line):
        return replace(progress, phase="generation", groups_total=int(found[1]))
    if found := _ATTEMPT.search(line):
        return replace(
            progress,
            phase="generation",
            groups_tried=progress.groups_tried + 1,
            space_group=int(found[2]),
            wanted=progress.wanted + int(found[1]),
        )
    if found := _GENERATED.search(line):
        return replace(progress, generated=int(found[1]), space_group=0)
    if found := _PRESS_START.search(line):
        return replace(progress, phase="press", to_press=int(found[1]), space_group=0)
    if f"Completed {PRESS} task" in line:
        return replace(progress, pressed=progress.to_press)
    if FINAL_LINE in line:
        return replace(progress, phase="finished", space_group=0)
    return progress
