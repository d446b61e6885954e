"""One process per run folder: a lock that dies with its holder, however that dies."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import socket
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from packflow_core.errors import RunFailedError, UserInputError
from packflow_core.store.atomic import storage_errors

LOCK_NAME = ".lock"

#: Time between two looks at the lock of a run that this process works for, s.
_LEASE_LOOK_S = 10.0
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
            except OSError as error:
                os.close(fd)
                raise UserInputError(
                    f"The file system of {self._folder} cannot lock files ({error.strerror}), so "
                    "two processes could spoil the run; mount it with locks (NFS 4, Lustre with "
                    "-o flock) or choose another with --out."
                ) from error
        note = json.dumps(
            {"pid": os.getpid(), "host": socket.gethostname(), "session": secrets.token_hex(8)}
        ).encode()
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


class LeaseLostError(RunFailedError):
    """The run that a chunk belongs to is held by nobody any more, or by somebody else."""


class Lease:
    """The right of a chunk to write for whoever holds the run folder, from any process or machine.

    A chunk on another machine outlives a flow that was killed. Once the lock of that flow is gone
    it must end: the next one may have folded its journal already.

    Args:
        folder: the run folder; where nobody holds its lock, nothing is ever lost.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._session = _session(folder) if is_locked(folder) else None
        self._looked = time.monotonic()

    def check(self, every_s: float = _LEASE_LOOK_S) -> None:
        """Do nothing, unless the run is in other hands; looks at the lock now and then.

        Raises:
            LeaseLostError: it is.
        """
        if self._session is None or time.monotonic() - self._looked < every_s:
            return
        self._looked = time.monotonic()
        if not is_locked(self._folder) or _session(self._folder) != self._session:
            raise LeaseLostError(
                f"The process that ran {self._folder} has ended, so this chunk ends, too; "
                f"'csp resume {self._folder}' attempts its candidates again."
            )


def _session(folder: Path) -> str | None:
    try:
        return str(json.loads((folder / LOCK_NAME).read_bytes())["session"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _holder(fd: int) -> str:
    try:
        note = json.loads(os.pread(fd, 4096, 0))
        return f" (process {note['pid']} on {note['host']})"
    except (OSError, ValueError, KeyError, TypeError):
        return ""
