"""One process per run in an object store: a lock made of conditional writes, with a heartbeat.

Nobody tells an object store that a process died, so the holder rewrites the lock now and then, and
a lock that was not rewritten for long enough may be taken over. Taking, renewing and taking over
are conditional on what the object was: of two that try at once, one fails.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import time
from typing import Any

from packflow_core.errors import RunFailedError, UserInputError
from packflow_core.store.object_store import ConditionError, ObjectFolder

LOCK_OBJECT = ".packflow/lock.json"
#: Variable with the time without a sign of life after which a lock is free, s.
STALE_VARIABLE = "PACKFLOW_OBJECT_LOCK_STALE_S"
_STALE_S = 300.0


class ObjectLockLostError(RunFailedError):
    """Another process has taken the run over."""


class ObjectLock:
    """Lock on a prefix of an object store.

    Args:
        folder: the prefix.

    Attributes:
        session: random name of this holder.
    """

    def __init__(self, folder: ObjectFolder) -> None:
        self._folder = folder
        self.session = secrets.token_hex(8)
        self._etag: str | None = None
        self._renewed = time.monotonic()
        self._stale_s = float(os.environ.get(STALE_VARIABLE) or _STALE_S)

    @property
    def renew_every_s(self) -> float:
        """How often it should be renewed, s."""
        return self._stale_s / 5.0

    def is_held(self) -> bool:
        """Whether a process works on the prefix, as far as one can tell from outside."""
        found = self._folder.get(LOCK_OBJECT)
        if found is None:
            return False
        return found[1].age_s < self._stale_s and not _died_here(_read(found[0]))

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            UserInputError: another process runs this prefix.
        """
        self._renewed = time.monotonic()
        found = self._folder.get(LOCK_OBJECT)
        try:
            if found is None:
                self._etag = self._folder.put(LOCK_OBJECT, self._note(), new=True)
                return
            data, stored = found
            holder = _read(data)
            if stored.age_s < self._stale_s and not _died_here(holder):
                raise UserInputError(
                    f"{self._folder.uri} is in use by {_name(holder)}, last seen "
                    f"{stored.age_s:.0f} s ago; wait for it to end, or, if it was killed, until "
                    f"{self._stale_s:.0f} s have passed since then."
                )
            self._etag = self._folder.put(LOCK_OBJECT, self._note(), etag=stored.etag)
        except ConditionError:
            if self._is_mine():
                return
            raise UserInputError(
                f"{self._folder.uri} was taken by another process just now; wait for it to end."
            ) from None

    def renew(self) -> None:
        """Show that this process lives.

        Raises:
            ObjectLockLostError: another process has taken the lock over.
            ObjectStoreError: the store does not answer.
        """
        if self._etag is None:
            return
        self._renewed = time.monotonic()
        try:
            self._etag = self._folder.put(LOCK_OBJECT, self._note(), etag=self._etag)
        except ConditionError:
            if self._is_mine():
                return
            self._etag = None
            raise ObjectLockLostError(
                f"Another process has taken {self._folder.uri} over, because this one gave no sign "
                "of life; it ends, and the other one goes on from what was uploaded."
            ) from None

    def keep(self) -> None:
        """Renew where it is time to; for between the steps of a long transfer.

        Raises:
            ObjectLockLostError: another process has taken the lock over.
            ObjectStoreError: the store does not answer.
        """
        if time.monotonic() - self._renewed >= self.renew_every_s:
            self.renew()

    def _is_mine(self) -> bool:
        """Whether a refused write was ours after all, repeated because its answer was lost."""
        found = self._folder.get(LOCK_OBJECT)
        if found is None or _read(found[0]).get("session") != self.session:
            return False
        self._etag = found[1].etag
        return True

    def release(self) -> None:
        """Give the lock back."""
        if self._etag is not None:
            self._etag = None
            self._folder.remove(LOCK_OBJECT)

    def _note(self) -> bytes:
        return json.dumps(
            {
                "session": self.session,
                "host": socket.gethostname(),
                "pid": os.getpid(),
                # Two notes of one session differ, and so do their etags.
                "beat": secrets.token_hex(4),
            }
        ).encode()


def _read(data: bytes) -> dict[str, Any]:
    try:
        content = json.loads(data)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _name(holder: dict[str, Any]) -> str:
    return f"process {holder.get('pid', '?')} on {holder.get('host', '?')}"


def _died_here(holder: dict[str, Any]) -> bool:
    """Whether the holder was a process of this machine that is not there any more."""
    if holder.get("host") != socket.gethostname() or not isinstance(holder.get("pid"), int):
        return False
    try:
        os.kill(holder["pid"], 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False
