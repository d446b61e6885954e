"""Disposable worker processes: what may crash, hang or leak happens there, a little at a time.

A native library that corrupts its heap, a relaxation that never ends, a poisoned GPU or a killed
process costs exactly the item it worked on. Workers are fresh interpreters (never forks: forking
after native threads ran deadlocks), silent on the terminal, deaf to Ctrl-C, and they end when the
parent does, however it ended. Each sits on a seat: a device and a number of threads.

    with WorkerPool(4) as pool:
        for outcome in pool.map(function, ((key, (row, params)) for key, row in rows), 600.0):
            ...

They are started as `python worker_main.py` rather than through `multiprocessing`, which would
import the parent's main module, and with it the whole command line, into every worker, and could
set the environment only by changing the parent's.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from packflow_core.worker_crew import Crew
from packflow_core.worker_groups import GroupMap
from packflow_core.worker_maps import START_TIMEOUT_S, ErrorKind, ItemMap, Outcome
from packflow_core.worker_process import Seat

__all__ = ["START_TIMEOUT_S", "ErrorKind", "Outcome", "Seat", "WorkerPool"]


class WorkerPool:
    """Worker processes on fixed seats, started when needed and replaced, on their seat, when lost.

    May be used for many maps, of items and of groups, also from several threads at once: the maps
    share the workers, and each gets at least one in turn.

    Args:
        seats: the places of the workers, earlier ones are taken first; or the number of CPU seats
            with one thread each.
        log: file to which the workers' standard output and error are appended; discarded when
            None.

    Attributes:
        seats: the places of the workers.
        workers: their number.

    Raises:
        ValueError: no seat, or a seat on a GPU that this process does not see.
    """

    def __init__(self, seats: int | Sequence[Seat], *, log: str | Path | None = None) -> None:
        self.seats = (Seat(),) * seats if isinstance(seats, int) else tuple(seats)
        self.workers = len(self.seats)
        if not self.seats:
            raise ValueError(f"a pool needs at least one worker, not {seats}")
        for seat in self.seats:
            seat.environment()  # raises before there is any work to lose
        self._crew = Crew(self.seats, Path(log) if log is not None else None)

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
        return ItemMap(self._crew, _pickled(function), items, timeout_s).run()

    def map_groups(
        self,
        function: Callable[..., Iterable[tuple[Hashable, Any] | None]],
        groups: Iterable[tuple[Sequence[tuple[Hashable, Any]], tuple[Any, ...]]],
        timeout_s: float,
        renew: Callable[[Hashable, Any], Any] | None = None,
    ) -> Iterator[Outcome]:
        """Call the generator `function(members, *arguments)` for every group of members.

        The generator yields (key, value) when a member is finished, each exactly once, in any
        order; that value reaches this process at once, and nothing that happens later takes it
        back. In between it yields None, as often as it likes, to say that it is alive.

        A group ends badly when its process dies, says nothing for `timeout_s`, or when the
        generator raises, ends too early, or yields a foreign key, a key twice or a value that
        cannot be pickled. Its process is thrown away. A member that was alone in its group from
        the start of that attempt is to blame and its outcome says why; otherwise nobody is: the
        members without an outcome are split, in order, into two halves, which are attempted again
        as groups of their own. So a guilty member among n costs about log2(n) attempts, and the
        others always have their results.

        Args:
            function: defined at the top level of an importable module. Its first argument is the
                list of (key, payload) of the members.
            groups: pairs (members, arguments), drawn only as workers become free; members are
                pairs (key, payload). A group without members is passed over.
            timeout_s: longest silence of a worker, its own start not counted; infinity for none.
                Signs of life are passed on at most every 0.5 s, so it should be well above that.
            renew: gives the payload with which a member is attempted again, from its key and its
                payload so far; called in this process right before. What it raises ends the map.

        Yields:
            One outcome per member, in order of completion, while its group still runs. The
            iterator takes values from the workers only as it is advanced; a worker whose values
            are not taken waits in the end. Closing the iterator early kills the groups in the air.

        Raises:
            ValueError: `function` is not importable in another process, or a group has a key
                twice.
            RunFailedError: workers cannot start, or cannot import the function.
        """
        return GroupMap(self._crew, _pickled(function), groups, timeout_s, renew).run()

    def close(self) -> None:
        """Kill all workers; maps that still run end with a RunFailedError."""
        self._crew.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def pids(self) -> list[int]:
        """Process ids of the living workers."""
        return self._crew.pids


def _pickled(function: Callable[..., Any]) -> bytes:
    if getattr(function, "__module__", None) == "__main__":
        raise ValueError(f"{function!r} must live in an importable module, not in __main__")
    try:
        return pickle.dumps(function)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ValueError(f"{function!r} is not importable by a worker: {error}") from error
