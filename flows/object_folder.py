"""Run folders in an object store, for commands and flows that know local folders alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from flows.console import Terminal
from packflow_core.errors import UserInputError
from packflow_core.store.lock import RunLock
from packflow_core.store.object_store import object_uri


@contextmanager
def at_hand(folder: str | Path, *, write: bool, terminal: Terminal | None = None) -> Iterator[Path]:
    """The folder itself, or a local copy of a run that is at `s3://bucket/prefix`.

    Args:
        folder: a local folder or an S3 URI, also one that went through `Path`.
        write: hold the run, and upload what changes; else only look at it.
        terminal: shows the URI where it would show the local copy.

    Raises:
        UserInputError: the store cannot be used, holds no such run, or another process works on it.
        RunFailedError: the store does not answer, or another process took the run over.
    """
    uri = object_uri(folder)
    if uri is None:
        yield Path(folder)
        return
    from packflow_core.stages.pools import stop
    from packflow_core.store.object_lock import ObjectLock
    from packflow_core.store.object_mirror import Mirror, MirroredRun, scratch_folder
    from packflow_core.store.object_store import ObjectFolder

    if write:
        held = MirroredRun(uri, on_lost=stop)
        if terminal is not None:
            terminal.aliases[str(held.local)] = uri
        with held:
            yield held.local
        return
    remote = ObjectFolder(uri)
    local = scratch_folder(uri, "views")
    if terminal is not None:
        terminal.aliases[str(local)] = uri
    Mirror(remote, local).pull()
    if not (local / "run.json").is_file():
        raise UserInputError(f"{uri} holds no run; give the prefix that 'csp run --out' was given.")
    # A run that somebody works on shows as running here, too.
    with RunLock(local) if ObjectLock(remote).is_held() else nullcontext():
        yield local
