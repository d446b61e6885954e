"""The molecule as Genarris sees it: its bonds by distance, and whose atom is whose.

Genarris takes a molecule as a list of atoms in space. What we write has the order of `Molecule`;
a file of the user, or a folder that somebody ran by hand, may have any.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
from ase.data import covalent_radii
from numpy.typing import NDArray

from packflow_core.chem.conformer_atoms import (
    is_bonded_as,
    sorted_bonds,
)
from packflow_core.chem.conformer_files import read_conformers
from packflow_core.chem.molecule import Molecule
from packflow_core.errors import UserInputError

logger = logging.getLogger(__name__)

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

#: Multipliers of the covalent radii that are tried, the wanted one first.
_MULTIPLIERS = (1.1, 1.15, 1.2, 1.25, 1.3)


def check_conformer(molecule: Molecule, positions: FloatArray) -> FloatArray:
    """The conformer [n_atoms, 3] Å itself, where it can be one of the molecule.

    Raises:
        UserInputError: it has another number of atoms, NaN, or other bonds than the molecule.
    """
    if positions.shape != (molecule.n_atoms, 3) or not np.isfinite(positions).all():
        raise UserInputError(
            f"The conformer must give three finite coordinates for each of the {molecule.n_atoms} "
            f"atoms of '{molecule.smiles}', hydrogens included; its array has the shape "
            f"{positions.shape}."
        )
    if not is_bonded_as(molecule, positions):
        raise UserInputError(
            f"The conformer has other bonds than '{molecule.smiles}'; give the geometry of this "
            "molecule, its atoms in the order of the canonical SMILES, hydrogens last."
        )
    return positions


def read_conformer(path: str | Path, molecule: Molecule) -> FloatArray:
    """The first conformer [n_atoms, 3] Å of a file, in the order of `molecule`.

    Args:
        path: for example .xyz, .mol or .sdf; its atoms may come in any order.
        molecule: the molecule; all its hydrogens must be in the file.

    Raises:
        UserInputError: the file is missing or unreadable, or holds another molecule.
    """
    return np.asarray(read_conformers(path, molecule).positions[0], dtype=np.float64)


def bond_cutoff(molecule: Molecule, positions: FloatArray, wanted: float) -> float:
    """Multiplier of ASE's covalent radii, nearest to `wanted`, that finds the molecule's bonds.

    Genarris tells donors and acceptors of hydrogen bonds from the bonds that it finds so, and
    crashes on an atom that has none.

    Args:
        molecule: the molecule.
        positions: [n_atoms, 3] Å.
        wanted: first choice; returned, with a warning, where no multiplier does.
    """
    radii = covalent_radii[molecule.numbers_h]
    distance = np.linalg.norm(positions[:, None] - positions, axis=-1)
    expected = sorted_bonds(molecule.bonds_h)
    for multiplier in sorted({wanted, *_MULTIPLIERS}, key=lambda m: (abs(m - wanted), m)):
        close = np.triu(distance < multiplier * (radii[:, None] + radii), 1)
        if np.array_equal(np.argwhere(close), expected):
            return multiplier
    logger.warning(
        "%s: no cutoff by which Genarris would find its bonds exactly; %g is used",
        molecule.smiles,
        wanted,
    )
    return wanted
