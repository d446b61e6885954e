"""Checkpoints of UMA: which there are, where they come from, and which file one is.

Imports neither torch nor fairchem, so a run can be planned, and weights can be downloaded, where
nothing is evaluated.
"""

from __future__ import annotations

import hashlib
import os
from functools import lru_cache
from pathlib import Path

from packflow_core.errors import UserInputError

#: Models of the gated repository on Hugging Face that have the task for molecular crystals.
NAMES = ("uma-s-1p2p1", "uma-s-1p2", "uma-s-1p1", "uma-m-1p1")
REPOSITORY = "facebook/UMA"
FOLDER = "checkpoints"

PREFIX = "uma:"
FORM = "uma:/path/to/checkpoint.pt"

#: How to come by the weights.
ACCESS = (
    f"accept the licence at https://huggingface.co/{REPOSITORY} and log in with "
    f"'hf auth login' or HF_TOKEN, or give a file that you have as {FORM}"
)
_TIMEOUT_S = 10.0
_SHA_DIGITS = 16
_MAX_TEXT = 200


def local_path(name: str) -> Path:
    """File of a name `uma:/path/to/checkpoint.pt`, `~` resolved, whether it exists or not.

    Raises:
        UserInputError: no path is given.
    """
    text = name.removeprefix(PREFIX)
    if not text.strip():
        raise UserInputError(f"The engine name '{name}' gives no file; write {FORM}.")
    return Path(text).expanduser()


def checkpoint(name: str) -> Path:
    """File with the weights of an engine; downloaded where it is not on this machine yet.

    Args:
        name: one of `NAMES`, or `uma:` and a path.

    Raises:
        UserInputError: there is no such file, no network, or no access.
    """
    if not name.startswith(PREFIX):
        return cached(name) or _download(name)
    path = local_path(name)
    if not path.is_file():
        raise UserInputError(f"There is no checkpoint '{path}' for the engine '{name}'.")
    return path


def cached(name: str) -> Path | None:
    """File of a model that was downloaded before, by us or by fairchem."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(REPOSITORY, f"{FOLDER}/{name}.pt", cache_dir=_cache())
    return Path(found) if isinstance(found, str) else None


def _cache() -> Path:
    """Where fairchem keeps its downloads."""
    default = Path("~/.cache/fairchem").expanduser()
    return Path(os.environ.get("FAIRCHEM_CACHE_DIR") or default)


def _download(name: str) -> Path:
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import (
        GatedRepoError,
        OfflineModeIsEnabled,
        RemoteEntryNotFoundError,
        RepositoryNotFoundError,
    )

    try:
        # One quick look first: the download itself tries for half a minute before it gives up.
        url = hf_hub_url(REPOSITORY, f"{name}.pt", subfolder=FOLDER)
        get_hf_file_metadata(url, timeout=_TIMEOUT_S)
        found = hf_hub_download(REPOSITORY, f"{name}.pt", subfolder=FOLDER, cache_dir=_cache())
        return Path(found)
    except Exception as error:
        # Network libraries raise what they like; none of it is worth a traceback.
        if isinstance(error, OfflineModeIsEnabled):
            problem = "is not on this machine, and HF_HUB_OFFLINE forbids to download it"
        elif isinstance(error, GatedRepoError | RepositoryNotFoundError):
            problem = "is gated, and Hugging Face refused access"
        elif isinstance(error, RemoteEntryNotFoundError):
            problem = f"is not in the repository {REPOSITORY} any more"
        else:
            text = " ".join(str(error).split())
            problem = (
                "is not on this machine and cannot be downloaded "
                f"({type(error).__name__}: {text[:_MAX_TEXT]})"
            )
        raise UserInputError(f"The model '{name}' {problem}: {ACCESS}.") from error


def fingerprint(path: Path) -> str:
    """First 16 hexadecimal digits of the sha256 of a file; read once per version of the file."""
    status = path.stat()
    return _sha256(path.resolve(), status.st_mtime_ns, status.st_size)[:_SHA_DIGITS]


@lru_cache(maxsize=16)
def _sha256(path: Path, mtime_ns: int, size: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
