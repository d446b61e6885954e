"""What can be told of each conformer in a line."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from rdkit import Chem

from packflow_core.chem.conformer_ensemble import ConformerEnsemble
from packflow_core.chem.conformers import hydrogen_parents
from packflow_core.chem.elements import MASSES
from packflow_core.chem.molecule import Molecule

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

#: A hydrogen bond is shorter than this (H...acceptor, Å) and straighter than this (degrees), the
#: usual geometric criterion (Steiner, Angew. Chem. Int. Ed. 2002, 41, 48).
_H_BOND_LENGTH = 2.5
_H_BOND_ANGLE = 110.0
#: Bonds from the donor atom to the acceptor at least: with three, hydrogen, donor and acceptor are
#: in a ring of five, which is strained.
_H_BOND_APART = 3


class ConformerFacts(NamedTuple):
    """Facts about the K conformers of an ensemble.

    Attributes:
        rmsd: [K] RMSD in Å of the heavy atoms from the lowest conformer.
        gyration: [K] radius of gyration in Å, weighted by mass.
        h_bonds: [K] hydrogen bonds inside the molecule.
    """

    rmsd: FloatArray
    gyration: FloatArray
    h_bonds: IntArray


def conformer_facts(ensemble: ConformerEnsemble) -> ConformerFacts:
    """Facts about every conformer."""
    energies = ensemble.energies
    lowest = 0 if np.isnan(energies).all() else int(np.nanargmin(energies))
    each = np.arange(len(ensemble))
    shapes = ensemble.shapes
    rmsd = ensemble.comparer.rmsd_of(shapes, shapes, each, np.full(len(each), lowest))
    rmsd[lowest] = 0.0
    mass = MASSES[ensemble.molecule.numbers_h]
    x = ensemble.positions
    centre = np.einsum("kai,a->ki", x, mass) / mass.sum()
    square = np.square(x - centre[:, None]).sum(axis=-1) @ mass / mass.sum()
    return ConformerFacts(rmsd, np.sqrt(square), internal_h_bonds(ensemble.molecule, x))


def internal_h_bonds(molecule: Molecule, positions: FloatArray) -> IntArray:
    """[K] hydrogens on N or O that have an acceptor within the molecule.

    Acceptors are N and O, but for nitrogens whose lone pair is part of a resonance (amides,
    anilines, pyrrole); a hydrogen counts once.

    Args:
        molecule: the molecule.
        positions: [K, n_atoms, 3] Å in the order of `Molecule`.
    """
    n = molecule.n_heavy
    parents = hydrogen_parents(molecule)
    donors = np.flatnonzero(np.isin(molecule.numbers[parents], (7, 8)))
    acceptors = np.array(
        [a.GetIdx() for a in molecule.rdmol.GetAtoms() if _accepts(a)], dtype=np.int64
    )
    if not len(donors) or not len(acceptors):
        return np.zeros(len(positions), dtype=np.int64)
    parent = parents[donors]
    hydrogen = positions[:, n + donors]
    to_acceptor = positions[:, None, acceptors] - hydrogen[:, :, None]
    to_donor = (positions[:, parent] - hydrogen)[:, :, None]
    length = np.linalg.norm(to_acceptor, axis=-1)
    cosine = (to_acceptor * to_donor).sum(axis=-1) / (length * np.linalg.norm(to_donor, axis=-1))
    far = molecule.graph_distance[np.ix_(parent, acceptors)] >= _H_BOND_APART
    bonded = (length < _H_BOND_LENGTH) & (cosine < np.cos(np.radians(_H_BOND_ANGLE))) & far
    return np.asarray(bonded.any(axis=2).sum(axis=1), dtype=np.int64)


def _accepts(atom: Chem.Atom) -> bool:
    """Whether an atom has a lone pair to give."""
    if atom.GetAtomicNum() == 8:
        return True
    if atom.GetAtomicNum() != 7 or atom.GetFormalCharge() > 0:
        return False
    planar = atom.GetHybridization() == Chem.HybridizationType.SP2
    # A planar nitrogen with three neighbours has given its lone pair to a double bond or ring.
    return not (planar and atom.GetTotalDegree() == 3)
