"""A data folder: prepared `.npz` splits, or the two tables from which they are made."""

from __future__ import annotations

import logging
from pathlib import Path

from packflow_core.errors import UserInputError
from packflow_core.training.data import TrainingSet, prepare

log = logging.getLogger(__name__)

CRYSTALS, MOLECULES = "crystals.parquet", "molecules.parquet"


def has_split(folder: Path, split: str, cache: Path) -> bool:
    """Whether `open_split` would find a prepared split, or tables that may hold it."""
    prepared = any((where / f"{split}.npz").is_file() for where in (folder, cache))
    return prepared or all((folder / name).is_file() for name in (CRYSTALS, MOLECULES))


def open_split(folder: Path, split: str, cache: Path, *, max_heavy: int = 96) -> TrainingSet:
    """One split of a data folder.

    Args:
        folder: holds `<split>.npz`, or `crystals.parquet` and `molecules.parquet`.
        split: train, val or test.
        cache: where a split made from tables is kept, so that it is made once.
        max_heavy: largest number of heavy atoms in a cell, when made from tables.

    Raises:
        UserInputError: the folder holds neither, or a file is broken.
    """
    for path in (folder / f"{split}.npz", cache / f"{split}.npz"):
        if path.is_file():
            return TrainingSet.load(path)
    crystals, molecules = folder / CRYSTALS, folder / MOLECULES
    if not (crystals.is_file() and molecules.is_file()):
        raise UserInputError(
            f"{folder} holds neither {split}.npz nor {CRYSTALS} and {MOLECULES}; "
            "docs/training.md describes the tables."
        )
    data = prepare(crystals, molecules, split, max_heavy=max_heavy)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        data.save(cache / f"{split}.npz")
    except OSError as error:
        raise UserInputError(
            f"{cache} cannot be written ({error.strerror}); choose another --out."
        ) from error
    return data
