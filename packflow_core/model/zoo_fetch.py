"""Bring a published model onto this machine, and check one that is there."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from packflow_core.errors import UserInputError
from packflow_core.model import zoo
from packflow_core.model.zoo import ZooModel
from packflow_core.model.zoo_download import DownloadError, OnBytes, download, token
from packflow_core.model.zoo_records import Record, record_path, today, write_record


class Checked(NamedTuple):
    """A model's file whose hash was looked at.

    Attributes:
        path: the file.
        sha256: its hash.
        who: who vouches for the hash, in words.
    """

    path: Path
    sha256: str
    who: str


def fetch(model: ZooModel, *, force: bool = False, on_bytes: OnBytes | None = None) -> Path:
    """File of a model, downloaded where it is not on this machine yet.

    Args:
        model: entry of the zoo.
        force: download although it is there.
        on_bytes: see `packflow_core.model.zoo_download.OnBytes`.

    Raises:
        UserInputError: it cannot be downloaded; the sentence says how to get it by hand.
    """
    there = zoo.find(model)
    if there is not None and (model.shipped or not force):
        return there
    if model.shipped:
        return zoo.require(model)
    target, address = zoo.kept_file(model), zoo.address(model)
    if zoo.hub_offline():
        raise _not_to_be_had(model, "HF_HUB_OFFLINE forbids to download it")
    try:
        done = download(
            address,
            target,
            sha256=model.sha256,
            secret=token() if model.hub_file else "",
            on_bytes=on_bytes,
        )
        record = Record(
            sha256=done.sha256,
            size=done.size,
            how="at the first download",
            date=today(),
            source=address,
            revision=done.revision,
            stated=done.stated,
        )
        write_record(target, record)
    except DownloadError as error:
        raise _not_to_be_had(model, f"it cannot be downloaded ({error})") from error
    except OSError as error:
        raise UserInputError(
            f"{target.parent} cannot be written ({error.strerror}); name another cache with "
            "XDG_CACHE_HOME."
        ) from error
    return target


def forget(model: ZooModel) -> None:
    """Delete the downloaded file of a model, and what was recorded of it."""
    path = zoo.kept_file(model)
    path.unlink(missing_ok=True)
    record_path(path).unlink(missing_ok=True)


def check(model: ZooModel, *, accept: bool = False) -> Checked:
    """Compare the hash of a model's file with the one that is known.

    A file that was put into the folder by hand is recorded when it is first looked at.

    Args:
        model: entry of the zoo.
        accept: take the file that is there for the right one from now on.

    Raises:
        UserInputError: there is no file, or it is not the one that is known.
    """
    path = zoo.require(model)
    found = zoo.sha256_of(path)
    own = path == zoo.kept_file(model)
    if accept and not own:
        raise UserInputError(
            f"{path} is not a file of yours to accept; --accept is for files in "
            f"{zoo.models_folder()}."
        )
    if not accept:
        zoo.check_known(model, path, found)
    known, who = zoo.known_sha256(model, path)
    if known == found:
        return Checked(path, found, who)
    if model.sha256:  # what the authors publish cannot be overruled
        zoo.check_known(model, path, found)
    if not own:
        return Checked(path, found, "nobody")
    try:
        write_record(path, Record(found, path.stat().st_size, "when it was verified", today()))
    except OSError as error:
        raise UserInputError(f"{path.parent} cannot be written ({error.strerror}).") from error
    return Checked(path, found, "nobody before; recorded now, and compared from now on")


def _not_to_be_had(model: ZooModel, why: str) -> UserInputError:
    if there := zoo.find(model):
        return UserInputError(
            f"The model {model.name} cannot be had again: {why}; the file {there} stays as it is."
        )
    return UserInputError(
        f"The model {model.name} is not on this machine and {why}: fetch {zoo.address(model)} on a "
        f"machine with a network and put it at {zoo.kept_file(model)}, or name its path with "
        "--generator."
    )
