"""A run in an object store: worked on in a local folder, mirrored while it works.

The store of a run needs appends, renames and locks that an object store does not have, so a run
works in a scratch folder, and what is in it is copied to the store every half minute and at the
end: whole files, checked by SHA-256. Parts never change once they are there; journals and the few
small files that do are written anew. An object is removed only after what took its place is
uploaded, so whenever the machine is lost, what is in the store is a run that can be resumed: it
lacks what was computed since the last upload, and nothing else.

The scratch folder remembers which session wrote it last. Where the store was last written by the
same one, the folder is the newest state and is kept, so a kill on a machine that lives loses
nothing; else it is brought to what the store holds.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from packflow_core.errors import PackflowError
from packflow_core.store.atomic import TEMPORARY_PREFIX, make_folder, write_bytes, write_json
from packflow_core.store.lock import LOCK_NAME
from packflow_core.store.object_lock import ObjectLock, ObjectLockLostError
from packflow_core.store.object_store import ObjectFolder, ObjectStoreError

logger = logging.getLogger(__name__)

#: Folder for the scratch folders of runs in object stores.
SCRATCH_VARIABLE = "PACKFLOW_SCRATCH"
#: What the scratch folder knows about its copy in the store; not copied itself.
RECORD = ".mirror.json"
#: Objects that belong to the store, not to the run.
_OWN = ".packflow/"
_SESSION = f"{_OWN}session.json"
#: Time between two uploads, s.
_EVERY_S = 30.0
_TRIES = 3


def scratch_folder(uri: str, kind: str = "runs") -> Path:
    """Local folder for the run at `uri`, always the same one on a machine."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    root = os.environ.get(SCRATCH_VARIABLE) or str(Path(cache) / "packflow-csp" / "object-store")
    short = hashlib.sha256(uri.encode()).hexdigest()[:12]
    return Path(root) / kind / f"{uri.rsplit('/', 1)[-1]}-{short}"


class Mirror:
    """The copies of one run: a local folder and a prefix of an object store.

    Args:
        remote: the prefix.
        local: the folder; made when missing.
        keep: called before each file is copied, so that a long transfer shows that it lives.
    """

    def __init__(
        self, remote: ObjectFolder, local: Path, keep: Callable[[], None] = lambda: None
    ) -> None:
        self.remote = remote
        self._keep = keep
        self.local = local
        make_folder(local)
        self._record = self._read_record()

    # -- whose state is newer ----------------------------------------------------------------------
    def begin(self, session: str) -> None:
        """Bring the local folder to the newest state and claim the store; hold the lock.

        Args:
            session: name of the coming session.

        Raises:
            PackflowError: the store does not answer, or the local disk is full.
        """
        found = self.remote.get(_SESSION)
        last = json.loads(found[0])["session"] if found is not None else None
        if last is None or last not in (self._record["session"], self._record["next"]):
            self.pull()
        # Both names count until the claim is known to have succeeded.
        self._record["session"], self._record["next"] = last, session
        self._save()
        self.remote.put(_SESSION, json.dumps({"session": session}).encode())
        self._record["session"] = session
        self._save()

    # -- copying -----------------------------------------------------------------------------------
    def pull(self) -> None:
        """Make the local folder what the store holds.

        Raises:
            ObjectStoreError: the store does not answer, or changed all the time.
        """
        for _ in range(_TRIES):
            names = self._pull_once()
            if names is not None:
                break
        else:
            raise ObjectStoreError(f"{self.remote.uri} changes too fast to be read; try again.")
        for name in self._local_files().keys() - names:
            (self.local / name).unlink(missing_ok=True)
            self._record["files"].pop(name, None)
        self._save()

    def _pull_once(self) -> set[str] | None:
        """Names of the files that are here now; None when one went while we looked."""
        here = self._local_files()
        names = set()
        for stored in self.remote.list():
            if stored.name.startswith(_OWN):
                continue
            known = self._record["files"].get(stored.name)
            names.add(stored.name)
            if known and known[0] == stored.etag and here.get(stored.name) == tuple(known[1:]):
                continue
            self._keep()
            found = self.remote.get(stored.name)
            if found is None:  # a journal that became a part, which the next listing shows
                return None
            path = self.local / stored.name
            path.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(path, found[0])
            self._remember(stored.name, found[1].etag, _state(path))
        return names

    def push(self) -> None:
        """Copy what changed to the store, then remove there what is gone here.

        Raises:
            ObjectStoreError: the store does not answer; it holds a whole, older state.
        """
        before = self._push_files()
        # What went away during the first look has its successor in the second one.
        kept = before | self._push_files()
        for name in set(self._record["files"]) - kept:
            self.remote.remove(name)
            del self._record["files"][name]
        self._save()

    def _push_files(self) -> set[str]:
        files = self._local_files()
        for name, state in sorted(files.items(), key=lambda item: _order(item[0])):
            known = self._record["files"].get(name)
            if known and tuple(known[1:]) == state:
                continue
            self._keep()
            with contextlib.suppress(FileNotFoundError):
                data = (self.local / name).read_bytes()
                self._remember(name, self.remote.put(name, data), state)
        return set(files)

    # -- what is known -----------------------------------------------------------------------------
    def _local_files(self) -> dict[str, tuple[int, int]]:
        """Files of the run with size and time of change."""
        found = {}
        for path in self.local.rglob("*"):
            name = path.relative_to(self.local).as_posix()
            if path.name.startswith(TEMPORARY_PREFIX) or name in (LOCK_NAME, RECORD):
                continue
            with contextlib.suppress(FileNotFoundError):
                if path.is_file():
                    found[name] = _state(path)
        return found

    def _remember(self, name: str, etag: str, state: tuple[int, int]) -> None:
        self._record["files"][name] = [etag, *state]

    def _read_record(self) -> dict[str, Any]:
        empty: dict[str, Any] = {
            "uri": self.remote.uri, "session": None, "next": None, "files": {},
        }  # fmt: skip
        try:
            content = json.loads((self.local / RECORD).read_bytes())
        except (OSError, ValueError):
            return empty
        same = isinstance(content, dict) and content.get("uri") == self.remote.uri
        return {**empty, **content} if same else empty

    def _save(self) -> None:
        write_json(self.local / RECORD, self._record)


class MirroredRun:
    """A run in an object store, held by this process: lock, local folder, uploads. As a context.

    Args:
        uri: `s3://bucket/prefix`.
        on_lost: called, from another thread, when another process took the run over.
        every_s: time between two uploads, s.

    Attributes:
        local: where the run is worked on.
    """

    def __init__(
        self, uri: str, on_lost: Callable[[], None] | None = None, every_s: float = _EVERY_S
    ) -> None:
        self._remote = ObjectFolder(uri)
        self._lock = ObjectLock(self._remote)
        self.local = scratch_folder(self._remote.uri)
        self._on_lost = on_lost
        self._every_s = min(every_s, self._lock.renew_every_s)
        self._end = threading.Event()
        self._lost: ObjectLockLostError | None = None
        self._thread = threading.Thread(target=self._keep_up, daemon=True)

    def __enter__(self) -> Self:
        self._lock.acquire()
        try:
            self._mirror = Mirror(self._remote, self.local, self._lock.keep)
            self._mirror.begin(self._lock.session)
        except BaseException:
            self._release()
            raise
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._end.set()
        self._thread.join()
        if self._lost is not None:
            raise self._lost
        try:
            self._lock.renew()
            self._mirror.push()
        except ObjectStoreError as error:
            raise ObjectStoreError(
                f"{error} What was computed is in {self.local}; 'csp resume {self._remote.uri}' on "
                "this machine uploads it."
            ) from error
        finally:
            self._release()

    def _release(self) -> None:
        with contextlib.suppress(PackflowError):
            self._lock.release()

    def _keep_up(self) -> None:
        while not self._end.wait(self._every_s):
            try:
                self._lock.renew()
                self._mirror.push()
            except ObjectLockLostError as error:
                logger.error("%s", error)
                self._lost = error
                if self._on_lost is not None:
                    self._on_lost()
                return
            except (PackflowError, OSError) as error:
                logger.warning("nothing was uploaded this time: %s", error)


def _state(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns


def _order(name: str) -> tuple[bool, bool, str]:
    """run.json first, then parts and all else before the journals that they replace."""
    return name.rsplit("/", 1)[-1].startswith("journal-"), name != "run.json", name
