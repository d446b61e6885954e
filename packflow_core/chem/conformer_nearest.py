"""Which conformers the molecules of a crystal have."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from packflow_core.chem.conformer_ensemble import ConformerEnsemble
from packflow_core.crystal.crystal import Crystal

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

#: Conformers whose heavy atoms fit a molecule equally well, within this RMSD in Å: rotamers of a
#: hydroxyl group, among which the hydrogens decide.
_EQUAL_FIT = 0.1
#: Å by which rounding may make equal fits differ.
_ROUNDING = 1e-6


def nearest_conformer(crystal: Crystal, ensemble: ConformerEnsemble) -> tuple[IntArray, FloatArray]:
    """The conformer that each molecule of a crystal is closest to.

    Closest is the conformer with the smallest RMSD of the heavy atoms, whatever the names of
    equivalent atoms, and in either hand where the SMILES fixes none. Among conformers that fit
    equally well (within 0.1 Å), that one is taken whose hydrogens on N, O and S agree best; of
    those that agree likewise, the first.

    Args:
        crystal: molecules whole, each with the atoms of `Molecule` in their order, with or
            without hydrogens.
        ensemble: conformers of the molecule.

    Returns:
        Places in the pool [z], and the RMSDs [z] in Å of the heavy atoms.

    Raises:
        ValueError: the crystal is made of other molecules.
    """
    molecule = ensemble.molecule
    numbers = crystal.numbers.reshape(crystal.z, -1)
    wanted = molecule.numbers_h if numbers.shape[1] == molecule.n_atoms else molecule.numbers
    if numbers.shape[1] != len(wanted) or (numbers != wanted).any():
        raise ValueError(f"the crystal is not made of molecules {molecule.smiles}")
    return nearest_of(crystal.positions.reshape(crystal.z, -1, 3), ensemble)


def nearest_of(molecules: FloatArray, ensemble: ConformerEnsemble) -> tuple[IntArray, FloatArray]:
    """`nearest_conformer` for molecules [z, n or n_atoms, 3] Å."""
    comparer, pool = ensemble.comparer, ensemble.shapes
    found = comparer.shapes(molecules)
    bound = comparer.at_least(pool, found)
    each = np.arange(len(molecules))
    first = np.argmin(bound, axis=0)
    rmsd = np.full(bound.shape, np.inf)
    rmsd[first, each] = comparer.rmsd_of(pool, found, first, each)
    # What cannot come near the first guess needs no superposition.
    i, j = np.nonzero((bound <= rmsd[first, each] + _EQUAL_FIT) & np.isinf(rmsd))
    rmsd[i, j] = comparer.rmsd_of(pool, found, i, j)
    best = rmsd.min(axis=0)
    near = rmsd <= best + _EQUAL_FIT
    index = np.argmax(rmsd <= best + _ROUNDING, axis=0)
    contested = np.flatnonzero(near.sum(axis=0) > 1)
    if len(contested) and found.polar.shape[1]:
        i, j = np.nonzero(near)
        off = np.full(rmsd.shape, np.inf)
        off[i, j] = comparer.polar_rmsd(pool, found, i, j)
        least = off.min(axis=0)
        index[contested] = np.argmax(off <= least + _ROUNDING, axis=0)[contested]
    return index.astype(np.int64), rmsd[index, each]
