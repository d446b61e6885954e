"""Which molecules a data folder trains on, and which it keeps for validation and tests."""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from packflow_core.chem.molecule import Molecule
from packflow_core.errors import UserInputError
from packflow_core.training.folder import MOLECULES

log = logging.getLogger(__name__)

_TRAIN, _KEPT_APART = "train", ("val", "test")


@dataclass(frozen=True)
class Sources:
    """Molecules of a data folder, as canonical SMILES, each once.

    Attributes:
        training: of the split train.
        avoid: of the splits val and test.
        unread: how many molecules are not of a kind that the workflow takes, of all splits.
    """

    training: list[str]
    avoid: list[str]
    unread: int


def open_molecules(folder: Path) -> Sources:
    """Molecules of a folder with `crystals.parquet` and `molecules.parquet`, or with `.npz` files.

    Both are read where both are there, so that no molecule kept apart is missed.

    Args:
        folder: see `packflow_core.training.folder.open_split`.

    Raises:
        UserInputError: the folder has no training molecules, or a file is broken.
    """
    by_split = {split: _prepared(folder / f"{split}.npz") for split in (_TRAIN, *_KEPT_APART)}
    table = folder / MOLECULES
    if table.is_file():
        try:
            rows = pd.read_parquet(table, columns=["smiles", "split"])
        except (OSError, ValueError, KeyError) as error:
            raise UserInputError(f"Cannot read the training tables: {error}") from error
        for split, found in by_split.items():
            found += [str(text) for text in rows.loc[rows["split"] == split, "smiles"]]
    training, unread_training = _readable(by_split[_TRAIN])
    avoid, unread_avoid = _readable([text for split in _KEPT_APART for text in by_split[split]])
    if not training:
        raise UserInputError(
            f"{folder} holds no training molecules; give a folder with train.npz or {MOLECULES}."
        )
    if not avoid:
        log.warning("%s names no validation or test molecules; nothing is avoided", folder)
    return Sources(training, avoid, unread_training + unread_avoid)


def _prepared(path: Path) -> list[str]:
    """SMILES of a prepared split; none where there is no file."""
    if not path.is_file():
        return []
    try:
        with np.load(path, allow_pickle=False) as file:
            return [str(text) for text in file["smiles"]]
    except (OSError, KeyError, ValueError) as error:
        raise UserInputError(
            f"{path} is not a training set ({error}); make one with 'csp train --prepare'."
        ) from error


def _readable(texts: Collection[str]) -> tuple[list[str], int]:
    """Canonical SMILES, sorted, and how many texts are not of molecules that can be taken."""
    found: set[str] = set()
    unread = 0
    for text in dict.fromkeys(texts):
        try:
            found.add(Molecule.from_smiles(text).smiles)
        except UserInputError:
            unread += 1
    return sorted(found), unread
