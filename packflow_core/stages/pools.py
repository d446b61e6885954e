"""The worker pools of this process: shared by all chunks, ended together."""

from __future__ import annotations

import atexit
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from packflow_core.devices import make_seats
from packflow_core.errors import RunFailedError

if TYPE_CHECKING:
    from packflow_core.workers import Seat, WorkerPool

_stopping = threading.Event()
_pools: dict[tuple[tuple[Seat, ...], Path | None], WorkerPool] = {}
_pools_lock = threading.Lock()


class StoppedError(RunFailedError):
    """The run was told to stop; what is recorded is kept."""


def pool(workers: int | Sequence[Seat], log: Path | None = None) -> WorkerPool:
    """The process's worker pool of that size; what its workers print is appended to `log`."""
    from packflow_core.workers import WorkerPool

    seats = tuple(make_seats(workers, "cpu", gpu=False) if isinstance(workers, int) else workers)
    with _pools_lock:
        if (seats, log) not in _pools:
            _pools[seats, log] = WorkerPool(seats, log=log)
        return _pools[seats, log]


def close_pools() -> None:
    """End all workers."""
    with _pools_lock:
        while _pools:
            _, old = _pools.popitem()
            old.close()


def stop() -> None:
    """Make every chunk of this process end now, from another thread or a signal handler.

    Candidates that are in the air are not recorded: the next run attempts them again.
    """
    _stopping.set()
    close_pools()


def go_on() -> None:
    """Do nothing, unless the run was told to stop.

    Raises:
        StoppedError: it was.
    """
    if stopping():
        raise StoppedError("The run was stopped; continue it with 'csp resume'.")


def stopping() -> bool:
    """Whether the run was told to stop."""
    return _stopping.is_set()


atexit.register(close_pools)
