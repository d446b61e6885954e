"""Hydrogens on generated heavy atoms.

The paper calls RDKit's ``AddHs(addCoords=True)`` on one molecule object of the whole cell (section
4.5.1). RDKit places a hydrogen from its parent's bonded neighbours alone, so molecules do not see
each other and the same coordinates come out of one call with one conformer per molecule, which
also gives the atom order of this project.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from rdkit import Chem

from packflow_core.chem.conformers import hydrogen_parents
from packflow_core.chem.elements import COVALENT_RADII
from packflow_core.chem.molecule import Molecule

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

#: An X-H bond may differ this much (Å) from the sum of covalent radii: 0.8 to 1.3 Å for C, N, O.
_BOND_RANGE = 0.28
#: Atoms of one molecule that are not bonded keep this much (Å) more than a bond from a hydrogen.
_CROWDED = 0.15


def add_hydrogens(heavy: FloatArray, molecule: Molecule) -> FloatArray:
    """Complete the molecules of a cell with hydrogens at RDKit's local geometry.

    Args:
        heavy: [z, n, 3] Å, heavy atoms in the order of `Molecule`.
        molecule: the molecule.

    Returns:
        [z, n_atoms, 3] Å, heavy atoms as given, then the hydrogens in the order of
        `Molecule.rdmol_h`.

    Source:
        PackFlow, section 4.5.1.
    """
    mol = Chem.Mol(molecule.rdmol)
    mol.RemoveAllConformers()
    for k, positions in enumerate(heavy):
        conformer = Chem.Conformer(len(positions))
        conformer.SetPositions(np.ascontiguousarray(positions, dtype=np.float64))
        conformer.SetId(k)
        mol.AddConformer(conformer)
    full = Chem.AddHs(mol, addCoords=True)
    out = np.stack([full.GetConformer(k).GetPositions() for k in range(len(heavy))])
    # RDKit keeps coordinates in double precision; heavy atoms stay bit for bit all the same.
    out[:, : heavy.shape[1]] = heavy
    return np.asarray(out, dtype=np.float64)


def misplaced_hydrogens(molecules: FloatArray, molecule: Molecule) -> BoolArray:
    """[z] molecules in which a hydrogen is missing its place.

    That is an X-H bond far from the sum of covalent radii (outside about 0.8 to 1.3 Å for C, N
    and O; longer for S, Si, P), a hydrogen on top of another atom of its molecule, or NaN.

    Args:
        molecules: [z, n_atoms, 3] Å, from `add_hydrogens`.
        molecule: the molecule.
    """
    n = molecule.n_heavy
    if molecules.shape[1] == n:
        return np.asarray(~np.isfinite(molecules).all(axis=(1, 2)), dtype=np.bool_)
    parents = hydrogen_parents(molecule)
    hydrogens = molecules[:, n:]
    distance = np.linalg.norm(hydrogens[:, :, None] - molecules[:, None], axis=-1)  # [z, H, N]
    radii = COVALENT_RADII[molecule.numbers_h]
    bonded = radii[n:, None] + radii[None]
    rows = np.arange(len(parents))
    length = distance[:, rows, parents]
    good = (np.abs(length - bonded[rows, parents]) <= _BOND_RANGE).all(axis=1)
    apart = distance.copy()
    apart[:, rows, parents] = np.inf
    apart[:, rows, n + rows] = np.inf
    good &= (apart >= bonded + _CROWDED).all(axis=(1, 2))
    return np.asarray(~good, dtype=np.bool_)
