"""Files that are either whole or not there, and one sentence when the disk says no."""

from __future__ import annotations

import errno
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from packflow_core.errors import RunFailedError, UserInputError

#: Prefix of files being written; one that is left behind belongs to a killed process.
TEMPORARY_PREFIX = ".tmp-"

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_REFUSED = {
    errno.EACCES: "permission denied",
    errno.EPERM: "not permitted",
    errno.EROFS: "the file system is read-only",
    errno.ENOTDIR: "a part of the path is a file, not a folder",
    errno.EEXIST: "a file of that name is in the way",
    errno.EISDIR: "a folder of that name is in the way",
    errno.ENAMETOOLONG: "the name is too long",
    errno.ENOENT: "it does not exist and cannot be made",
    errno.EINVAL: "the file system does not allow that name",
    errno.ELOOP: "too many symbolic links",
}


class StorageFullError(RunFailedError):
    """The disk is full; what is stored so far is whole and the run can be resumed."""


@contextmanager
def storage_errors(folder: Path) -> Iterator[None]:
    """Turn the operating system's refusals about `folder` into one sentence.

    Raises:
        StorageFullError: no space or quota left.
        UserInputError: the folder cannot be written.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise StorageFullError(
                f"The disk that holds {folder} is full; free some space and continue with "
                f"'csp resume {folder}' (everything recorded so far is kept)."
            ) from error
        if error.errno in _REFUSED:
            raise UserInputError(
                f"The folder {folder} cannot be written ({_REFUSED[error.errno]}); "
                "choose another with --out."
            ) from error
        raise


def fsync_folder(folder: Path) -> None:
    """Make renames inside `folder` survive a power cut."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    except OSError:  # some network file systems cannot sync a folder; the rename is still atomic
        pass
    finally:
        os.close(fd)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path in the folder of `path`; it becomes `path` when the block succeeds.

    The content is synced to disk before the rename and the folder after it, so `path` is at
    any moment the old file or the whole new one.
    """
    temporary = path.with_name(
        f"{TEMPORARY_PREFIX}{os.getpid()}-{secrets.token_hex(4)}{path.suffix}"
    )
    try:
        yield temporary
        fd = os.open(temporary, os.O_RDWR)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
        os.replace(temporary, path)
        fsync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON to `path` atomically."""
    text = json.dumps(value, indent=2, ensure_ascii=False, sort_keys=False) + "\n"
    write_bytes(path, text.encode())


def make_folder(folder: Path) -> None:
    """Create `folder` and prove that files can be written in it.

    Raises:
        UserInputError: it cannot be made or written.
        StorageFullError: no space left.
    """
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f"{TEMPORARY_PREFIX}probe-{os.getpid()}-{secrets.token_hex(4)}"
        try:
            probe.write_bytes(b"x")
        finally:
            if folder.is_dir():
                probe.unlink(missing_ok=True)


def refresh_listing(folder: Path) -> None:
    """Make a network file system list what other machines put into a folder.

    Its client may answer from a listing that is up to a minute old; a change of our own makes it
    ask the server again.
    """
    with storage_errors(folder):
        probe = folder / f"{TEMPORARY_PREFIX}look-{os.getpid()}-{secrets.token_hex(4)}"
        try:
            probe.touch()
        finally:
            if folder.is_dir():
                probe.unlink(missing_ok=True)


def remove_temporaries(folder: Path) -> None:
    """Delete temporary files that a killed process left; call it with the run's lock held."""
    for path in folder.glob(f"{TEMPORARY_PREFIX}*"):
        path.unlink(missing_ok=True)
