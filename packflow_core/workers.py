"""Disposable worker processes: what may crash, hang or leak happens there, one item at a time.

A native library that corrupts its heap, a relaxation that never ends or a killed process costs
exactly the item it worked on. Workers are fresh interpreters (never forks: forking after native
threads ran deadlocks), single-threaded, silent on the terminal, deaf to Ctrl-C, and they end when
the parent does, however it ended.

    with WorkerPool(4) as pool:
        for outcome in pool.map(function, ((key, (row, params)) for key, row in rows), 600.0):
            ...

They are started as `python worker_main.py` rather than through `multiprocessing`, which would
import the parent's main module, and with it the whole command line, into every worker, and could
set the environment only by changing the parent's.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from packflow_core import worker_main
from packflow_core.errors import RunFailedError
from packflow_core.worker_process import WorkerProcess

logger = logging.getLogger(__name__)

ErrorKind = Literal["timeout", "worker_lost", "exception"]

#: Seconds that a worker may take to start and to import the function.
START_TIMEOUT_S = 300.0

#: Workers that in a row may die, hang or fail to import before their first item counts as begun.
_MAX_FAILED_STARTS = 3

#: Longest sleep of a map that could use more workers, s: other maps may have freed some.
_POLL_S = 0.1
#: Longest sleep of any map, s.
_LONG_POLL_S = 5.0


@dataclass(frozen=True)
class Outcome:
    """What became of one item.

    Attributes:
        key: the item's key.
        value: what the function returned; None where it failed.
        error: None, or what went wrong: "timeout" (it ran longer than allowed and was killed),
            "worker_lost" (its process died) or "exception" (the function raised).
        detail: the error in words.
        wall_s: seconds between the start of the item in its worker and its end.
    """

    key: Hashable
    value: Any
    error: ErrorKind | None
    detail: str
    wall_s: float


class WorkerPool:
    """A fixed number of worker processes, started when needed and replaced when lost.

    May be used for many maps, also from several threads at once: the maps share the workers, and
    each gets at least one in turn.

    Args:
        workers: number of processes.
        log: file to which the workers' standard output and error are appended; discarded when
            None.

    Raises:
        ValueError: fewer than one worker.
    """

    def __init__(self, workers: int, *, log: str | Path | None = None) -> None:
        if workers < 1:
            raise ValueError(f"a pool needs at least one worker, not {workers}")
        self.workers = workers
        self._log = Path(log) if log is not None else None
        self._lock = threading.Lock()
        self._free = workers  # slots without an item
        self._idle: list[WorkerProcess] = []  # living workers of free slots
        self._all: set[WorkerProcess] = set()
        self._waiting: deque[threading.Event] = deque()  # maps without any worker, in turn
        self._maps = 0
        self._failed_starts = 0
        self._closed = False
        self._owner = os.getpid()

    def map(
        self,
        function: Callable[..., Any],
        items: Iterable[tuple[Hashable, tuple[Any, ...]]],
        timeout_s: float,
    ) -> Iterator[Outcome]:
        """Call `function(*arguments)` for every item; outcomes come in order of completion.

        Args:
            function: defined at the top level of an importable module.
            items: pairs (key, arguments), drawn only as workers become free.
            timeout_s: time limit of an item from its start, the worker's own start not counted;
                infinity for none.

        Yields:
            One outcome per item. Closing the iterator early kills the items in the air.

        Raises:
            ValueError: `function` is not importable in another process.
            RunFailedError: workers cannot start, or cannot import the function.
        """
        if getattr(function, "__module__", None) == "__main__":
            raise ValueError(f"{function!r} must live in an importable module, not in __main__")
        try:
            pickled = pickle.dumps(function)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise ValueError(f"{function!r} is not importable by a worker: {error}") from error
        return _Map(self, pickled, items, timeout_s).run()

    def close(self) -> None:
        """Kill all workers; maps that still run end with a RunFailedError."""
        if os.getpid() != self._owner:
            return  # a fork of the owner: the workers are not ours to kill
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
            self._all.difference_update(idle)
            busy = list(self._all)
            for event in self._waiting:
                event.set()
        for worker in idle:
            worker.kill()
        for worker in busy:
            worker.process.kill()  # its map reaps it

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        with contextlib.suppress(Exception):  # half-built, or the interpreter is shutting down
            self.close()

    @property
    def pids(self) -> list[int]:
        """Process ids of the living workers."""
        with self._lock:
            return sorted(w.process.pid for w in self._all if w.process.poll() is None)

    # -- for the maps ------------------------------------------------------------------------
    def _enter(self) -> None:
        with self._lock:
            self._maps += 1

    def _leave(self) -> None:
        with self._lock:
            self._maps -= 1

    def _share(self) -> int:
        """Workers that a map may hold while others are running too."""
        with self._lock:
            return -(-self.workers // max(1, self._maps))

    def _acquire(self, block: bool) -> WorkerProcess | None:
        """A worker, or None when all are at work and `block` is false."""
        with self._lock:
            self._check_open()
            if self._free and not self._waiting:
                self._free -= 1
                return self._take()
            if not block:
                return None
            turn = threading.Event()
            self._waiting.append(turn)
        try:
            turn.wait()
        except BaseException:
            with self._lock:
                if turn in self._waiting:
                    self._waiting.remove(turn)
                else:
                    self._free_slot()
            raise
        with self._lock:
            self._check_open()
            return self._take()

    def _release(self, worker: WorkerProcess, reusable: bool) -> None:
        """Give a worker back; one that is not reusable is killed."""
        if not reusable:
            worker.kill()
        with self._lock:
            if reusable and not self._closed:
                self._idle.append(worker)
            else:
                self._all.discard(worker)
            self._free_slot()

    def _started(self, well: bool, why: str = "") -> None:
        """Count workers that never began their first item.

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

    def _free_slot(self) -> None:
        """Hand a slot to the map that waits longest. The lock is held."""
        if self._waiting:
            self._waiting.popleft().set()
        else:
            self._free += 1

    def _take(self) -> WorkerProcess:
        """A living idle worker, or a new one, for a slot that is ours. The lock is held."""
        while self._idle:
            worker = self._idle.pop()
            if worker.process.poll() is None:
                return worker
            worker.kill()
            self._all.discard(worker)
        try:
            worker = WorkerProcess(self._log)
        except OSError as error:
            self._free_slot()
            raise RunFailedError(f"A worker process cannot be started: {error}.") from error
        self._all.add(worker)
        return worker

    def _check_open(self) -> None:
        if self._closed:
            raise RunFailedError("The worker pool was closed while work was left.")


@dataclass
class _Task:
    key: Hashable
    arguments: bytes
    sent: float
    started: float | None = None


class _Map:
    """One call of `WorkerPool.map`: hands out items, watches over them, collects outcomes."""

    def __init__(
        self,
        pool: WorkerPool,
        function: bytes,
        items: Iterable[tuple[Hashable, tuple[Any, ...]]],
        timeout_s: float,
    ) -> None:
        self.pool = pool
        self.function = function
        self.items = iter(items)
        self.timeout_s = timeout_s
        self.again: deque[_Task] = deque()  # items whose worker failed before they began
        self.running: dict[WorkerProcess, _Task] = {}
        self.exhausted = False

    def run(self) -> Iterator[Outcome]:
        self.pool._enter()
        try:
            while True:
                self._hand_out()
                if not self.running:
                    return
                done = self._collect()
                self._hand_out(block=False)  # workers stay busy while the caller has the outcomes
                yield from done
        finally:
            for worker in list(self.running):
                self._drop(worker, reusable=False)
            self.pool._leave()

    def _hand_out(self, block: bool = True) -> None:
        """Give items to workers up to this map's share of them."""
        while len(self.running) < self.pool._share():
            task = self._next()
            if task is None:
                return
            worker = None
            try:
                worker = self.pool._acquire(block=block and not self.running)
            finally:
                if worker is None:
                    self.again.appendleft(task)
            if worker is None:
                return
            task.sent, task.started = time.monotonic(), None
            self.running[worker] = task
            if worker.up:
                self._send(worker)

    def _send(self, worker: WorkerProcess) -> None:
        """Give a worker its item; it is listening, so this does not block."""
        with contextlib.suppress(OSError):  # a dead worker shows when it is waited for
            worker.connection.send_bytes(self.function)
            worker.connection.send_bytes(self.running[worker].arguments)

    def _next(self) -> _Task | None:
        if self.again:
            return self.again.popleft()
        if self.exhausted:
            return None
        for key, arguments in self.items:
            return _Task(key, pickle.dumps(arguments, protocol=pickle.HIGHEST_PROTOCOL), 0.0)
        self.exhausted = True
        return None

    def _collect(self) -> list[Outcome]:
        """Outcomes of the items that ended; waits a moment when none has."""
        ready = wait([w.connection for w in self.running], self._patience())
        outcomes: list[Outcome] = []
        for worker in list(self.running):
            # Looking at the process, too, finds a death that a grandchild hides by keeping the
            # connection open.
            if worker.connection in ready or worker.process.poll() is not None:
                outcomes += self._hear(worker)
        now = time.monotonic()
        for worker, task in list(self.running.items()):
            if task.started is not None and now - task.started > self.timeout_s:
                if worker.connection.poll():  # it finished just now, or while nobody listened
                    continue
                detail = f"no result after {self.timeout_s:g} s"
                outcomes.append(self._lost(worker, "timeout", detail))
            elif task.started is None and now - task.sent > START_TIMEOUT_S:
                self._failed_start(worker, f"no sign of life within {START_TIMEOUT_S:g} s")
        return outcomes

    def _patience(self) -> float:
        """Seconds until something may have to be done unasked."""
        now = time.monotonic()
        ends = [
            task.sent + START_TIMEOUT_S if task.started is None else task.started + self.timeout_s
            for task in self.running.values()
        ]
        hungry = not self.exhausted or bool(self.again)
        longest = _POLL_S if hungry and len(self.running) < self.pool.workers else _LONG_POLL_S
        return min(longest, max(0.0, min(ends) - now + 0.01))

    def _hear(self, worker: WorkerProcess) -> list[Outcome]:
        """Act on a message of a worker, or on its death."""
        task = self.running[worker]
        try:
            if worker.process.poll() is not None and not worker.connection.poll():
                raise EOFError
            kind, *content = worker.connection.recv()
        except (EOFError, OSError):
            self.pool._check_open()
            why = worker.death()
            if task.started is None:
                self._failed_start(worker, why)
                return []
            return [self._lost(worker, "worker_lost", why)]
        if kind == worker_main.UP:
            worker.up = True
            self._send(worker)
            return []
        if kind == worker_main.BROKEN:
            self._failed_start(worker, content[0])
            return []
        if kind == worker_main.STARTED:
            task.started = time.monotonic()
            self.pool._started(True)
            return []
        wall_s = float(content[1])
        self._drop(worker, reusable=True)
        if kind == worker_main.RAISED:
            return [Outcome(task.key, None, "exception", content[0], wall_s)]
        try:
            value = pickle.loads(content[0])
        except Exception as error:
            detail = f"result cannot be read: {type(error).__name__}: {error}"
            return [Outcome(task.key, None, "exception", detail, wall_s)]
        return [Outcome(task.key, value, None, "", wall_s)]

    def _lost(self, worker: WorkerProcess, error: ErrorKind, detail: str) -> Outcome:
        task = self.running[worker]
        assert task.started is not None
        wall_s = time.monotonic() - task.started
        logger.warning("item %s: %s", task.key, detail)
        self._drop(worker, reusable=False)
        return Outcome(task.key, None, error, detail, wall_s)

    def _failed_start(self, worker: WorkerProcess, why: str) -> None:
        """The item never began, so it is not to blame: it is given to another worker."""
        self.again.append(self.running[worker])
        self._drop(worker, reusable=False)
        self.pool._started(False, why)

    def _drop(self, worker: WorkerProcess, reusable: bool) -> None:
        del self.running[worker]
        self.pool._release(worker, reusable)
