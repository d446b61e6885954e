"""Maps over a pool's workers: work is handed out, watched over, and becomes outcomes."""

from __future__ import annotations

import logging
import pickle
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import Any, Generic, Literal, TypeVar

from packflow_core import worker_main
from packflow_core.worker_crew import Crew
from packflow_core.worker_process import WorkerProcess

logger = logging.getLogger(__name__)

ErrorKind = Literal["timeout", "worker_lost", "exception"]

#: Seconds that a worker may take to start and to import the function.
START_TIMEOUT_S = 300.0

#: Longest sleep of a map that could use more workers, which other maps may have freed, or that
#: waits for a killed one, s.
_POLL_S = 0.1
#: Longest sleep of any map, s.
_LONG_POLL_S = 5.0
#: Seconds that a killed worker may take to die; one that sits in a driver's call may not.
_DEATH_S = 5.0


@dataclass(frozen=True)
class Outcome:
    """What became of one item, or of one member of a group.

    Attributes:
        key: the item's key.
        value: what the function returned or yielded; None where it failed.
        error: None, or what went wrong: "timeout" (it ran, or was silent, longer than allowed and
            was killed), "worker_lost" (its process died) or "exception" (the function raised).
        detail: the error in words.
        wall_s: seconds between the start of the item in its worker and its end; for a member, from
            the start of the last group that it was in.
        device: where it was computed: the device of the worker's seat.
    """

    key: Hashable
    value: Any
    error: ErrorKind | None
    detail: str
    wall_s: float
    device: str = "cpu"


@dataclass(eq=False)
class Work:
    """What one worker is given at a time.

    Attributes:
        sent: when a worker was found for it, s.
        started: when the worker began, s; None before.
        heard: last sign of life since, s.
        doom: why the worker was killed, and when that was, s; None while it may go on.
    """

    sent: float = 0.0
    started: float | None = None
    heard: float = 0.0
    doom: tuple[ErrorKind, str, float] | None = None


W = TypeVar("W", bound=Work)


class Map(ABC, Generic[W]):
    """One call of a pool's method: gives work to workers, watches over them, collects outcomes.

    Args:
        crew: the workers, shared with other maps.
        function: pickle of the function.
        timeout_s: longest time without a sign of life before a worker is killed.
    """

    #: What the worker is told that it gets.
    kind: bytes

    def __init__(self, crew: Crew, function: bytes, timeout_s: float) -> None:
        self.crew = crew
        self.function = function
        self.timeout_s = timeout_s
        self.again: deque[W] = deque()  # handed out before anything new
        self.running: dict[WorkerProcess, W] = {}
        self.outcomes: deque[Outcome] = deque()  # not given to the caller yet
        self.exhausted = False

    @abstractmethod
    def draw(self) -> W | None:
        """The next new work; None when there is no more."""

    @abstractmethod
    def arguments(self, work: W) -> bytes:
        """Pickle of what the worker is to be sent."""

    @abstractmethod
    def answer(self, worker: WorkerProcess, kind: str, content: list[Any]) -> list[Outcome]:
        """Act on a message of a worker about its work."""

    @abstractmethod
    def fault(self, worker: WorkerProcess, error: ErrorKind, detail: str) -> list[Outcome]:
        """Act on a worker that did not finish its work."""

    def run(self) -> Iterator[Outcome]:
        """Outcomes as they come; closing the iterator kills the work in the air."""
        self.crew.enter()
        try:
            while True:
                self._hand_out()
                if not self.running:
                    return
                failure = None
                try:
                    self._collect()
                    self._hand_out(block=False)  # workers are busy while the caller has outcomes
                except Exception as error:  # what is finished must not be lost with it
                    failure = error
                while self.outcomes:
                    yield self.outcomes.popleft()
                if failure is not None:
                    raise failure
        finally:
            for worker in list(self.running):
                self.drop(worker, reusable=False)
            self.crew.leave()

    def drop(self, worker: WorkerProcess, reusable: bool) -> None:
        """Part with a worker."""
        work = self.running.pop(worker)
        self.crew.release(worker, reusable and work.doom is None)

    def doom(self, worker: WorkerProcess, error: ErrorKind, detail: str) -> None:
        """Kill a worker; what it has sent counts, then comes its `fault`."""
        worker.process.kill()
        self.running[worker].doom = (error, detail, time.monotonic())

    def _hand_out(self, block: bool = True) -> None:
        """Give work to workers up to this map's share of them."""
        while len(self.running) < self.crew.share():
            work = self._next()
            if work is None:
                return
            worker = None
            try:
                worker = self.crew.acquire(block=block and not self.running)
            finally:
                if worker is None:
                    self.again.appendleft(work)
            if worker is None:
                return
            work.sent, work.started = time.monotonic(), None
            self.running[worker] = work
            if worker.up:
                self._send(worker)

    def _next(self) -> W | None:
        if self.again:
            return self.again.popleft()
        work = None if self.exhausted else self.draw()
        self.exhausted = work is None
        return work

    def _send(self, worker: WorkerProcess) -> None:
        """Give a worker its work; it is listening, so this does not block."""
        worker.send(self.kind, self.function, self.arguments(self.running[worker]))

    def _collect(self) -> None:
        """Take the outcomes that are there; waits a moment when none is."""
        ready = wait([w.connection for w in self.running], self._patience())
        for worker in list(self.running):
            # Looking at the process, too, finds a death that a grandchild hides by keeping the
            # connection open.
            if worker.connection in ready or worker.process.poll() is not None:
                self.outcomes += self._hear(worker)
        now = time.monotonic()
        for worker, work in list(self.running.items()):
            if work.doom is not None:
                if now - work.doom[2] > _DEATH_S:
                    self.outcomes += self.fault(worker, *work.doom[:2])
            elif work.started is not None and now - work.heard > self.timeout_s:
                if not worker.connection.poll():  # else it spoke while nobody listened
                    self.doom(worker, "timeout", self.overdue())
            elif work.started is None and now - work.sent > START_TIMEOUT_S:
                self._failed_start(worker, f"no sign of life within {START_TIMEOUT_S:g} s")

    def overdue(self) -> str:
        """The timeout in words."""
        return f"no result after {self.timeout_s:g} s"

    def _patience(self) -> float:
        """Seconds until something may have to be done unasked."""
        ends = []
        for work in self.running.values():
            if work.doom is not None:
                ends.append(work.doom[2] + _DEATH_S)
            elif work.started is None:
                ends.append(work.sent + START_TIMEOUT_S)
            else:
                ends.append(work.heard + self.timeout_s)
        hungry = not self.exhausted or bool(self.again)
        doomed = any(work.doom is not None for work in self.running.values())
        busy = doomed or (hungry and len(self.running) < self.crew.size)
        longest = _POLL_S if busy else _LONG_POLL_S
        return min(longest, max(0.0, min(ends) - time.monotonic() + 0.01))

    def _hear(self, worker: WorkerProcess) -> list[Outcome]:
        """Act on a message of a worker, or on its death."""
        work = self.running[worker]
        try:
            if worker.process.poll() is not None and not worker.connection.poll():
                raise EOFError
            kind, *content = worker.connection.recv()
        except (EOFError, OSError):
            self.crew.check_open()
            if work.doom is not None:
                return self.fault(worker, *work.doom[:2])
            why = worker.death()
            if work.started is None:
                self._failed_start(worker, why)
                return []
            return self.fault(worker, "worker_lost", why)
        work.heard = time.monotonic()
        if kind == worker_main.UP:
            worker.up = True
            self._send(worker)
            return []
        if kind == worker_main.BROKEN:
            self._failed_start(worker, content[0])
            return []
        if kind == worker_main.STARTED:
            work.started = work.heard
            self.crew.started(True)
            return []
        return self.answer(worker, kind, content)

    def _failed_start(self, worker: WorkerProcess, why: str) -> None:
        """The work never began, so it is not to blame: it is given to another worker."""
        self.again.append(self.running[worker])
        self.drop(worker, reusable=False)
        self.crew.started(False, why)


@dataclass(eq=False)
class Item(Work):
    """One call of the function."""

    key: Hashable = None
    pickled: bytes = b""


class ItemMap(Map[Item]):
    """`WorkerPool.map`: the function is called once for each item."""

    kind = worker_main.ITEM

    def __init__(
        self,
        crew: Crew,
        function: bytes,
        items: Iterable[tuple[Hashable, tuple[Any, ...]]],
        timeout_s: float,
    ) -> None:
        super().__init__(crew, function, timeout_s)
        self.items = iter(items)

    def draw(self) -> Item | None:
        """See `Map`."""
        for key, arguments in self.items:
            pickled = pickle.dumps(arguments, protocol=pickle.HIGHEST_PROTOCOL)
            return Item(key=key, pickled=pickled)
        return None

    def arguments(self, work: Item) -> bytes:
        """See `Map`."""
        return work.pickled

    def answer(self, worker: WorkerProcess, kind: str, content: list[Any]) -> list[Outcome]:
        """See `Map`."""
        key, device, wall_s = self.running[worker].key, worker.seat.device, float(content[1])
        self.drop(worker, reusable=True)
        if kind == worker_main.RAISED:
            return [Outcome(key, None, "exception", content[0], wall_s, device)]
        try:
            value = pickle.loads(content[0])
        except Exception as error:
            detail = f"result cannot be read: {type(error).__name__}: {error}"
            return [Outcome(key, None, "exception", detail, wall_s, device)]
        return [Outcome(key, value, None, "", wall_s, device)]

    def fault(self, worker: WorkerProcess, error: ErrorKind, detail: str) -> list[Outcome]:
        """See `Map`."""
        item = self.running[worker]
        assert item.started is not None
        wall_s = time.monotonic() - item.started
        logger.warning("item %s: %s", item.key, detail)
        self.drop(worker, reusable=False)
        return [Outcome(item.key, None, error, detail, wall_s, worker.seat.device)]
