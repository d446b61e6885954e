"""Everything below the roots, read when it changed: the one object that the pages ask."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar, cast

from dashboard.discovery import COMPARISON_JSON, RUN_JSON, Found, find
from dashboard.runs import RANKED, BrokenRun, RunView, read_run
from dashboard.settings import Settings
from dashboard.tables import Stamp, TableCache, stage_files
from packflow_core.stages.requeue import REQUEUE_JSON
from packflow_core.store.lock import is_locked

#: Files of a run folder, besides its stages, on which a view depends.
_FILES = (RUN_JSON, RANKED, REQUEUE_JSON)

T = TypeVar("T")

#: What changes when a run changes: run, stamps of its files, whether a process holds it.
_Fingerprint = tuple[str, tuple[Stamp, ...], bool]


class Store:
    """Runs and comparisons below the roots, as they were at the last look.

    Reads only. Views are kept until a file of theirs changes; safe to use from several threads.

    Args:
        settings: names the roots.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._cache = TableCache()
        self._views: dict[str, tuple[_Fingerprint, int, RunView | BrokenRun]] = {}
        self._found = Found({}, {})
        self._lock = threading.RLock()
        self._version = 0
        self._seen: object = None
        self._at_work = False
        self._looks = 0
        self._next_search = 0.0
        self._prints: dict[str, _Fingerprint] = {}
        self._kept: dict[str, tuple[list[_Fingerprint | None], object]] = {}

    def refresh(self) -> int:
        """Look at the folders again; a number that grows whenever something changed."""
        with self._lock:
            self._find()
            self._looks += 1
            self._prints = {
                run_id: _fingerprint(folder) for run_id, folder in self._found.runs.items()
            }
            seen = (
                self._prints,
                {
                    name: _stamp(folder / COMPARISON_JSON)
                    for name, folder in self._found.comparisons.items()
                },
            )
            self._at_work = any(locked for _, _, locked in seen[0].values())
            if seen != self._seen:
                self._seen, self._version = seen, self._version + 1
                for gone in set(self._views) - set(seen[0]):
                    del self._views[gone]
            return self._version

    def _find(self) -> None:
        """Look for folders, at most a twentieth of the time: a root may be a whole file system."""
        began = time.monotonic()
        if began < self._next_search:
            return
        self._found = find(self.settings.roots)
        ended = time.monotonic()
        self._next_search = ended + 19.0 * (ended - began)

    @property
    def at_work(self) -> bool:
        """Whether a process works in one of the runs: then rates and times change by themselves."""
        return self._at_work

    def views(self) -> list[RunView | BrokenRun]:
        """All runs, ordered by folder."""
        with self._lock:
            runs = sorted(self._found.runs.items(), key=lambda item: str(item[1]))
        return [self._view(run_id, folder) for run_id, folder in runs]

    def runs(self) -> list[RunView]:
        """The runs that can be read."""
        return [view for view in self.views() if isinstance(view, RunView)]

    def run(self, run_id: str | None) -> RunView | None:
        """A run by its identity; None where there is none that can be read."""
        with self._lock:
            folder = self._found.runs.get(run_id or "")
        view = self._view(run_id, folder) if folder is not None and run_id else None
        return view if isinstance(view, RunView) else None

    def comparisons(self) -> dict[str, Path]:
        """Folders of comparisons by identity."""
        with self._lock:
            return dict(self._found.comparisons)

    def kept(self, name: str, runs: Sequence[RunView], make: Callable[[], T]) -> T:
        """What `make` gives for these runs; made again only when one of them changed."""
        with self._lock:
            key = [self._prints.get(run.id) for run in runs]
            found = self._kept.get(name)
            if found is not None and found[0] == key:
                return cast(T, found[1])
            value = make()
            # Another look may have come between the views and the key.
            if all(self._is_current(run) for run in runs):
                self._kept[name] = (key, value)
            return value

    def _is_current(self, run: RunView) -> bool:
        """Whether a view is the one of the last look."""
        known = self._views.get(run.id)
        return known is not None and known[2] is run and known[0] == self._prints.get(run.id)

    def _view(self, run_id: str, folder: Path) -> RunView | BrokenRun:
        with self._lock:
            print_ = self._prints.get(run_id) or _fingerprint(folder)
            # The clock counts for a run at work: its view is made anew at every look, its tables
            # are not.
            look = self._looks if print_[2] else 0
            known = self._views.get(run_id)
            if known is not None and known[:2] == (print_, look):
                return known[2]
            view = read_run(run_id, folder, self._cache)
            self._views[run_id] = (print_, look, view)
            return view


def _fingerprint(folder: Path) -> _Fingerprint:
    """What changes when a run changes: its files, and whether a process holds it."""
    stamps = [stamp for name in _FILES if (stamp := _stamp(folder / name)) is not None]
    try:
        stages = sorted(path for path in folder.iterdir() if _is_stage(path))
    except OSError:
        stages = []
    for stage in stages:
        stamps += stage_files(stage)
    return str(folder), tuple(stamps), is_locked(folder)


def _is_stage(path: Path) -> bool:
    stem, dash, key = path.name.rpartition("-")
    return bool(stem and dash) and len(key) == 8 and path.is_dir()


def _stamp(path: Path) -> Stamp | None:
    try:
        facts = path.stat()
    except OSError:
        return None
    return str(path), facts.st_mtime_ns, facts.st_size
