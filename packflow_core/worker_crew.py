"""The workers of a pool: one process at most on each seat, lent to the maps in turn."""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from packflow_core.errors import RunFailedError
from packflow_core.worker_process import Seat, WorkerProcess

#: Workers that in a row may die, hang or fail to import before their first work counts as begun.
_MAX_FAILED_STARTS = 3


@dataclass(eq=False)
class _Turn:
    """A map that waits for a worker, and the seat it is given."""

    event: threading.Event = field(default_factory=threading.Event)
    place: int | None = None


class Crew:
    """Worker processes, started when needed and replaced when lost; safe to use from any thread.

    Args:
        seats: places of the workers; earlier ones are taken first.
        log: file to which the workers' standard output and error are appended; discarded when
            None.
    """

    def __init__(self, seats: Sequence[Seat], log: Path | None) -> None:
        self._seats = tuple(seats)
        self._log = log
        self._lock = threading.Lock()
        self._free = set(range(len(self._seats)))  # seats without work
        self._idle: dict[int, WorkerProcess] = {}  # living workers of free seats
        self._all: dict[WorkerProcess, int] = {}
        self._waiting: deque[_Turn] = deque()  # maps without any worker, in turn
        self._maps = 0
        self._failed_starts = 0
        self._closed = False
        self._owner = os.getpid()

    def close(self) -> None:
        """Kill all workers; maps that still run end with a RunFailedError."""
        if os.getpid() != self._owner:
            return  # a fork of the owner: the workers are not ours to kill
        with self._lock:
            self._closed = True
            idle = list(self._idle.values())
            self._idle.clear()
            for worker in idle:
                del self._all[worker]
            busy = list(self._all)
            for turn in self._waiting:
                turn.event.set()
        for worker in idle:
            worker.kill()
        for worker in busy:
            worker.process.kill()  # its map reaps it

    def __del__(self) -> None:
        with contextlib.suppress(Exception):  # half-built, or the interpreter is shutting down
            self.close()

    @property
    def size(self) -> int:
        """Number of seats."""
        return len(self._seats)

    @property
    def pids(self) -> list[int]:
        """Process ids of the living workers."""
        with self._lock:
            return sorted(w.process.pid for w in self._all if w.process.poll() is None)

    def enter(self) -> None:
        """A map begins."""
        with self._lock:
            self._maps += 1

    def leave(self) -> None:
        """A map ends."""
        with self._lock:
            self._maps -= 1

    def share(self) -> int:
        """Workers that a map may hold while others are running too."""
        with self._lock:
            return -(-len(self._seats) // max(1, self._maps))

    def acquire(self, block: bool) -> WorkerProcess | None:
        """A worker, or None when all are at work and `block` is false.

        Raises:
            RunFailedError: the pool is closed, or the process cannot be started.
        """
        with self._lock:
            self._check_open()
            if self._free and not self._waiting:
                return self._take(self._choose())
            if not block:
                return None
            turn = _Turn()
            self._waiting.append(turn)
        try:
            turn.event.wait()
        except BaseException:
            with self._lock:
                if turn.place is not None:
                    self._free_seat(turn.place)
                elif turn in self._waiting:
                    self._waiting.remove(turn)
            raise
        with self._lock:
            self._check_open()
            assert turn.place is not None
            return self._take(turn.place)

    def release(self, worker: WorkerProcess, reusable: bool) -> None:
        """Give a worker back; one that is not reusable is killed."""
        if not reusable:
            worker.kill()
        with self._lock:
            place = self._all[worker]
            if reusable and not self._closed:
                self._idle[place] = worker
            else:
                del self._all[worker]
            self._free_seat(place)

    def started(self, well: bool, why: str = "") -> None:
        """Count workers that never began their first work.

        Raises:
            RunFailedError: several in a row.
        """
        with self._lock:
            self._failed_starts = 0 if well else self._failed_starts + 1
            if self._failed_starts < _MAX_FAILED_STARTS:
                return
            self._failed_starts = 0
        where = f"; see {self._log}" if self._log else ""
        raise RunFailedError(f"Worker processes cannot start: {why}{where}.")

    def check_open(self) -> None:
        """Raise a RunFailedError when the pool was closed."""
        with self._lock:
            self._check_open()

    # -- the lock is held ----------------------------------------------------------------------
    def _choose(self) -> int:
        """Free seat to take: of the first kind that is free, one whose worker runs already."""
        place = min(
            self._free, key=lambda p: (self._seats.index(self._seats[p]), p not in self._idle, p)
        )
        self._free.remove(place)
        return place

    def _free_seat(self, place: int) -> None:
        """Hand a seat to the map that waits longest."""
        if self._waiting:
            turn = self._waiting.popleft()
            turn.place = place
            turn.event.set()
        else:
            self._free.add(place)

    def _take(self, place: int) -> WorkerProcess:
        """The living idle worker of a seat that is ours, or a new one."""
        worker = self._idle.pop(place, None)
        if worker is not None:
            if worker.process.poll() is None:
                return worker
            worker.kill()
            del self._all[worker]
        try:
            worker = WorkerProcess(self._seats[place], self._log)
        except BaseException as error:
            self._free_seat(place)
            if not isinstance(error, OSError):
                raise
            raise RunFailedError(f"A worker process cannot be started: {error}.") from error
        self._all[worker] = place
        return worker

    def _check_open(self) -> None:
        if self._closed:
            raise RunFailedError("The worker pool was closed while work was left.")
