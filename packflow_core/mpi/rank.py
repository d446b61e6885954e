"""The work of a rank: take blocks, make their rows, journal them, until nothing is left."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

from packflow_core.errors import PackflowError
from packflow_core.mpi.dispatch import (
    ALIVE,
    DONE,
    ERROR,
    LATE,
    STOP,
    TOLD,
    Claims,
    Job,
    Pair,
    RankLog,
)
from packflow_core.stages.generators import completed, unmade
from packflow_core.stages.recording import record
from packflow_core.stages.run_store import RunStore
from packflow_core.store.atomic import storage_errors
from packflow_core.store.rows import Row
from packflow_core.store.schema import Reason
from packflow_core.store.stage_store import StageJournal, StageStore

logger = logging.getLogger(__name__)

#: Makes the complete rows of a block.
MakeRows = Callable[[RunStore, Sequence[Pair]], list[Row]]

#: Seconds between two looks at whether the rank is still wanted.
_POLL_S = 1.0
#: Silence after which the process that started the ranks is taken for dead. Where it is on
#: another host this alone ends them; network file systems show a change after up to a minute.
_PATIENCE_S = 180.0

#: A journal becomes a Parquet part after so many rows, or so many seconds.
_JOURNAL_ROWS = 4096
_JOURNAL_S = 600.0


def serve(folder: Path, log: RankLog, told: dict[str, Any]) -> int:
    """Do the job of a folder together with the other ranks.

    Args:
        folder: of the job.
        log: this rank's.
        told: rank, size and library, as MPI told.

    Returns:
        The exit code of the rank: 0 when nothing is left to take.
    """
    job = Job.read(folder)
    log.write(**told, pid=os.getpid(), host=socket.gethostname())
    if told["size"] != job.ranks:
        log.end(ERROR)
        return 1
    signal.signal(signal.SIGTERM, lambda *_: leave(log))
    watch = Watch(folder, log, job.timeout_s)
    threading.Thread(target=watch.run, daemon=True).start()
    try:
        _work(job, folder, log, told["rank"], watch)
    except PackflowError as error:
        log.end(ERROR, str(error), error.exit_code)
        return 1
    except BaseException as error:
        logger.exception("the rank cannot go on")
        log.end(ERROR, f"{type(error).__name__}: {error}")
        return 1
    log.end(DONE)
    return 0


def _work(job: Job, folder: Path, log: RankLog, rank: int, watch: Watch) -> None:
    run = RunStore(job.run_folder)
    module, _, name = job.function.partition(":")
    make: MakeRows = getattr(importlib.import_module(module), name)
    claims = Claims(folder, len(job.blocks))
    with RollingJournal(run.stage(job.stage), f"{job.label}-{rank:05d}") as journal:
        while True:
            with storage_errors(job.run_folder):
                number = claims.take(log.name)
            if number is None:
                break
            counts: Counter[str] = Counter()
            block = job.blocks[number]
            with watch.block(block[0][1]):
                rows = _rows(run, make, block)
            for row in rows:
                record(journal.current(), row, counts)
            with storage_errors(job.run_folder):
                log.write(block=number, counts=counts)


def _rows(run: RunStore, make: MakeRows, block: list[Pair]) -> list[Row]:
    """Rows of a block, those of a block that does not fit into memory included."""
    began = time.perf_counter()
    try:
        return make(run, block)
    except MemoryError:
        logger.exception("candidates %d to %d do not fit into memory", block[0][0], block[-1][0])
    each = (time.perf_counter() - began) / len(block)
    detail = f"{len(block)} candidates together did not fit into memory"
    return [
        completed(run, unmade(run, index, Reason.OUT_OF_MEMORY, detail), attempt, each)
        for index, attempt in block
    ]


class RollingJournal:
    """Journals of a rank, one after the other; a context manager.

    Args:
        store: of the stage.
        label: begins their names.
        rows: of a journal at most.
        seconds: that a journal is open, about.
    """

    def __init__(
        self, store: StageStore, label: str, rows: int = _JOURNAL_ROWS, seconds: float = _JOURNAL_S
    ) -> None:
        self._store = store
        self._label = label
        self._most = rows
        self._seconds = seconds
        self._stack = contextlib.ExitStack()
        self._journal: StageJournal | None = None
        self._rows = 0
        self._opened = 0.0

    def current(self) -> StageJournal:
        """The journal for the next row; one that is full, or old, becomes a part before."""
        old = time.monotonic() - self._opened > self._seconds
        if self._journal is not None and (self._rows >= self._most or old):
            self._journal = None
            self._stack.close()
        if self._journal is None:
            self._journal = self._stack.enter_context(self._store.open_journal(self._label))
            self._rows, self._opened = 0, time.monotonic()
        self._rows += 1
        return self._journal

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()


class Watch:
    """Ends this process, busy or not: told to, late, or when nobody wants its rows any more.

    Args:
        folder: of the job.
        log: of the rank.
        timeout_s: time limit of a block of first attempts, s; doubles with each attempt.
    """

    def __init__(self, folder: Path, log: RankLog, timeout_s: float) -> None:
        self._folder = folder
        self._log = log
        self._timeout_s = timeout_s
        self._late: tuple[float, float] | None = None

    @contextlib.contextmanager
    def block(self, attempt: int) -> Iterator[None]:
        """While a block is in hand, its time runs."""
        limit = self._timeout_s * 2 ** (attempt - 1)
        self._late = (time.monotonic() + limit, limit)
        try:
            yield
        finally:
            self._late = None

    def run(self) -> None:
        """Look again and again."""
        last, since = b"", time.monotonic()
        while True:
            with contextlib.suppress(OSError):  # a network file system that is away for a while
                if (self._folder / STOP).exists() or not self._folder.exists():
                    leave(self._log)
                beat = (self._folder / ALIVE).read_bytes()
                if beat != last:
                    last, since = beat, time.monotonic()
            if time.monotonic() - since > _PATIENCE_S:
                leave(self._log)
            late = self._late
            if late is not None and time.monotonic() > late[0]:
                leave(self._log, LATE, f"no result within {late[1]:g} s")
            time.sleep(_POLL_S)


def leave(log: RankLog, how: str = TOLD, text: str = "") -> None:
    """End at once; what is in the journal is safe."""
    with contextlib.suppress(OSError):
        log.end(how, text)
    os._exit(0)
