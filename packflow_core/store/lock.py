"""One process per run folder: a lock that dies with its holder, however that dies."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from packflow_core.errors import UserInputError
from packflow_core.store.atomic import storage_errors

LOCK_NAME = ".lock"

#: A reader that asks `is_locked` holds a shared lock for microseconds; wait it out.
_PATIENCE_S = 0.5


class RunLock:
    """Exclusive advisory lock (flock) on a run folder, as a context manager.

    The kernel releases it when the process ends, also after ``kill -9``. Child processes do not
    inherit it.

    Args:
        folder: the run folder; must exist.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._fd: int | None = None

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            UserInputError: another process runs this folder.
        """
        with storage_errors(self._folder):
            fd = os.open(self._folder / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    holder = _holder(fd)
                    os.close(fd)
                    raise UserInputError(
                        f"{self._folder} is in use by another csp process{holder}; wait for it "
                        "to end or choose another folder with --out."
                    ) from None
                time.sleep(0.02)
        note = json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode()
        with contextlib.suppress(OSError):  # a full disk must not cost the lock itself
            os.ftruncate(fd, 0)
            os.pwrite(fd, note, 0)
        self._fd = fd

    def release(self) -> None:
        """Give the lock back; the file stays, because removing it would race with a taker."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


def is_locked(folder: Path) -> bool:
    """Whether a process runs this folder right now."""
    try:
        fd = os.open(folder / LOCK_NAME, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(fd)
    return False


def _holder(fd: int) -> str:
    try:
        note = json.loads(os.pread(fd, 4096, 0))
        return f" (process {note['pid']} on {note['host']})"
    except (OSError, ValueError, KeyError, TypeError):
        return ""
