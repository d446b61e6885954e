"""Resident memory of this process and of its children, watched while something works."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

_PROC = Path("/proc")
_EVERY_S = 0.1


class MemoryWatch:
    """Largest resident sizes seen while the watch was open; a context manager.

    Attributes:
        own_mb: of this process, MB; 0 where the system has no /proc.
        child_mb: of its largest child, MB.
    """

    def __init__(self) -> None:
        self.own_mb = 0.0
        self.child_mb = 0.0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> MemoryWatch:
        self._look()
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._end.set()
        self._thread.join()
        self._look()

    def _watch(self) -> None:
        while not self._end.wait(_EVERY_S):
            self._look()

    def _look(self) -> None:
        me = os.getpid()
        self.own_mb = max(self.own_mb, resident_mb(me))
        self.child_mb = max([self.child_mb, *map(resident_mb, children(me))])


def resident_mb(pid: int) -> float:
    """Resident memory of a process, MB; 0 where it cannot be read."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        pages = int((_PROC / str(pid) / "statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
    return 0.0


def children(pid: int) -> Iterator[int]:
    """Processes that a process started itself."""
    for entry in _PROC.glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            # The name, in brackets, may hold anything; the parent is the second field after it.
            if int(entry.read_text(errors="replace").rpartition(")")[2].split()[1]) == pid:
                yield int(entry.parent.name)
