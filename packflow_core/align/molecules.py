"""The molecules that an alignment learns on: a list of SMILES, or those of training data."""

from __future__ import annotations

from pathlib import Path

from packflow_core.chem.molecule import Molecule
from packflow_core.errors import UserInputError
from packflow_core.training.data import TrainingSet
from packflow_core.training.folder import open_split


def read_molecules(path: Path, split: str = "train") -> TrainingSet:
    """Molecules of a text file with one SMILES a line, or of a folder with training data.

    What follows a SMILES on its line is a name and not used; empty lines and lines that begin with
    # are passed over; a molecule that is named twice counts once.

    Args:
        path: the file or folder.
        split: of a folder.

    Raises:
        UserInputError: it cannot be read, holds no molecule, or a line is none that can be used.
    """
    if path.is_dir():
        return TrainingSet.of_molecules(open_split(path, split, path).smiles)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise UserInputError(
            f"The molecules {path} cannot be read ({reason}); give a text file with one SMILES a "
            "line, or a folder with training data."
        ) from error
    smiles: dict[str, None] = {}
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        try:
            smiles[Molecule.from_smiles(text.split()[0]).smiles] = None
        except UserInputError as error:
            raise UserInputError(f"Line {number} of {path}: {error}") from error
    if not smiles:
        raise UserInputError(f"{path} names no molecule; write one SMILES a line.")
    return TrainingSet.of_molecules(list(smiles))
