"""Groups of members that one worker treats together, and how the guilty one among them is found.

A group that ends badly (its process dies or falls silent, its generator raises or leaves members
out) says little about whom to blame: the memory was everybody's, and a poisoned GPU context
fails the next call, whoever makes it. So nobody is blamed who had company. The members without a
result are split into two halves, each a group of its own in another process, until the guilty one
stands alone; the others have their results.
"""

from __future__ import annotations

import logging
import pickle
import time
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from packflow_core import worker_main
from packflow_core.worker_crew import Crew
from packflow_core.worker_maps import ErrorKind, Map, Outcome, Work
from packflow_core.worker_process import WorkerProcess

logger = logging.getLogger(__name__)

Member = tuple[Hashable, Any]
Renew = Callable[[Hashable, Any], Any]


@dataclass(eq=False)
class Group(Work):
    """Members that are sent to one worker together.

    Attributes:
        open: key and payload of the members without an outcome, by their place in the group.
        extra: the function's further arguments.
        size: members at the start of this attempt.
        again: whether they were attempted before.
    """

    open: dict[int, Member] = field(default_factory=dict)
    extra: tuple[Any, ...] = ()
    size: int = 0
    again: bool = False


def _group(members: Sequence[Member], extra: tuple[Any, ...], again: bool) -> Group:
    return Group(open=dict(enumerate(members)), extra=extra, size=len(members), again=again)


class GroupMap(Map[Group]):
    """`WorkerPool.map_groups`: the function is a generator over many members."""

    kind = worker_main.GROUP

    def __init__(
        self,
        crew: Crew,
        function: bytes,
        groups: Iterable[tuple[Sequence[Member], tuple[Any, ...]]],
        timeout_s: float,
        renew: Renew | None,
    ) -> None:
        super().__init__(crew, function, timeout_s)
        self.groups = iter(groups)
        self.renew = renew

    def draw(self) -> Group | None:
        """See `Map`.

        Raises:
            ValueError: a key is twice in a group.
        """
        for members, extra in self.groups:
            if len({key for key, _ in members}) < len(members):
                raise ValueError("a group has a key twice")
            if members:
                return _group(members, tuple(extra), again=False)
        return None

    def arguments(self, work: Group) -> bytes:
        """See `Map`."""
        if work.again and self.renew is not None:
            for place, (key, payload) in work.open.items():
                work.open[place] = (key, self.renew(key, payload))
        sent = (list(work.open.values()), work.extra)
        return pickle.dumps(sent, protocol=pickle.HIGHEST_PROTOCOL)

    def overdue(self) -> str:
        """See `Map`."""
        return f"no sign of life for {self.timeout_s:g} s"

    def answer(self, worker: WorkerProcess, kind: str, content: list[Any]) -> list[Outcome]:
        """See `Map`."""
        if kind == worker_main.PULSE:
            return []
        group = self.running[worker]
        if kind == worker_main.DONE and not group.open:
            self.drop(worker, reusable=True)
            return []
        if kind != worker_main.VALUE:
            # A group that came to its end with a value that could not be read was doomed for it.
            error, detail, _ = group.doom or ("exception", str(content[0]), 0.0)
            return self.fault(worker, error, detail)
        place, pickled, wall_s = content
        try:
            value = pickle.loads(pickled)
        except Exception as error:
            if group.doom is None:
                what = f"result cannot be read: {type(error).__name__}: {error}"
                self.doom(worker, "exception", what)
            return []
        key, _ = group.open.pop(place)
        return [Outcome(key, value, None, "", float(wall_s), worker.seat.device)]

    def fault(self, worker: WorkerProcess, error: ErrorKind, detail: str) -> list[Outcome]:
        """See `Map`."""
        group = self.running[worker]
        left = list(group.open.values())
        done = group.size - len(left)
        assert group.started is not None
        wall_s = time.monotonic() - group.started
        self.drop(worker, reusable=False)
        if group.size == 1 and left:
            key, _ = left[0]
            logger.warning("item %s: %s", key, detail)
            return [Outcome(key, None, error, detail, wall_s, worker.seat.device)]
        middle = (len(left) + 1) // 2
        halves = [half for half in (left[:middle], left[middle:]) if half]
        self.again.extend(_group(half, group.extra, again=True) for half in halves)
        sizes = " + ".join(str(len(half)) for half in halves) or "none"
        logger.warning(
            "group of %d: %s; %d finished, to attempt again: %s", group.size, detail, done, sizes
        )
        return []
