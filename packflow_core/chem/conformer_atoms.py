"""Whose atom is whose: a list of atoms in space, in any order, matched onto a molecule."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from rdkit import Chem

from packflow_core.chem.conformers import hydrogen_parents
from packflow_core.chem.elements import COVALENT_RADII
from packflow_core.chem.molecule import Molecule
from packflow_core.chem.stereo import stereo_of
from packflow_core.crystal.unwrap import BOND_SLACK

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_MAX_MATCHES = 1000

#: Å beyond the covalent radii up to which atoms are bonded. The smaller ones are for cages, whose
#: opposite corners are close: 1.87 Å across bicyclo[1.1.1]pentane.
_SLACKS = (BOND_SLACK, 0.3, 0.2)


def match_atoms(molecule: Molecule, numbers: IntArray, positions: FloatArray) -> IntArray | None:
    """Where each atom of the molecule is found in a list of atoms.

    Args:
        molecule: the molecule.
        numbers: [n_atoms] atomic numbers, in any order.
        positions: [n_atoms, 3] Å.

    Returns:
        [n_atoms] indices that put the list into the order of `molecule`, or None where the
        list is another molecule. Where several orders fit, one whose stereochemistry is that of
        the SMILES is preferred, and of those the first.
    """
    if len(numbers) != molecule.n_atoms or positions.shape != (len(numbers), 3):
        return None
    found = (_orders(molecule, numbers, positions, slack) for slack in _SLACKS)
    orders = next((some for some in found if some), None)
    if orders is None:
        return None
    stereo = stereo_of(molecule)
    if not len(stereo):
        return orders[0]
    return min(orders, key=lambda order: stereo.count_flipped(positions[order]))


def is_bonded_as(molecule: Molecule, positions: FloatArray) -> bool:
    """Whether the bonds by distance of a geometry [n_atoms, 3] Å are those of the molecule."""
    wanted = sorted_bonds(molecule.bonds_h)
    return any(
        np.array_equal(bonds_by_distance(molecule.numbers_h, positions, slack), wanted)
        for slack in _SLACKS
    )


def _orders(
    molecule: Molecule, numbers: IntArray, positions: FloatArray, slack: float
) -> list[IntArray]:
    """Orders [n_atoms] that turn the list into the molecule, if bonds are those up to a slack."""
    bonds = bonds_by_distance(numbers, positions, slack)
    if np.array_equal(numbers, molecule.numbers_h) and np.array_equal(
        bonds, sorted_bonds(molecule.bonds_h)
    ):
        return [np.arange(len(numbers))]
    heavy = np.flatnonzero(numbers > 1)
    on_heavy: dict[int, list[int]] = {int(a): [] for a in heavy}
    for a, b in bonds.tolist():
        for atom, other in ((a, b), (b, a)):
            if numbers[atom] > 1 and numbers[other] == 1:
                on_heavy[atom].append(other)
    place = {int(a): k for k, a in enumerate(heavy)}
    inside = [(place[a], place[b]) for a, b in bonds.tolist() if a in place and b in place]
    counts = [len(on_heavy[int(a)]) for a in heavy]
    if sum(counts) != int((numbers == 1).sum()):
        return []
    found = _graph(numbers[heavy].tolist(), counts, inside)
    wanted = _graph(
        molecule.numbers.tolist(),
        molecule.hydrogen_counts.tolist(),
        [(int(a), int(b)) for a, b in molecule.bonds],
    )
    if found.GetNumBonds() != wanted.GetNumBonds():
        return []
    matches = found.GetSubstructMatches(wanted, uniquify=False, maxMatches=_MAX_MATCHES)
    return [_with_hydrogens(molecule, heavy[list(m)], on_heavy) for m in matches]


def bonds_by_distance(
    numbers: IntArray, positions: FloatArray, slack: float = BOND_SLACK
) -> IntArray:
    """[nb, 2] bonds by distance, sorted; a hydrogen keeps its best one.

    Args:
        numbers: [N] atomic numbers.
        positions: [N, 3] Å.
        slack: Å beyond the sum of covalent radii up to which atoms are bonded.
    """
    radii = COVALENT_RADII[numbers]
    excess = np.linalg.norm(positions[:, None] - positions, axis=-1)
    excess -= radii[:, None] + radii
    hydrogen = numbers == 1
    excess[np.ix_(hydrogen, hydrogen)] = np.inf
    np.fill_diagonal(excess, np.inf)
    bonded = excess <= slack
    for h in np.flatnonzero(hydrogen):
        best = int(np.argmin(excess[h]))
        keep = bonded[h, best]
        bonded[h] = bonded[:, h] = False
        bonded[h, best] = bonded[best, h] = keep
    return np.asarray(np.argwhere(np.triu(bonded, 1)), dtype=np.int64)


def sorted_bonds(bonds: IntArray) -> IntArray:
    """Bonds [nb, 2] with the smaller index first, in lexical order."""
    pairs = np.sort(bonds, axis=1)
    return pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]


def _graph(numbers: list[int], hydrogens: list[int], bonds: list[tuple[int, int]]) -> Chem.Mol:
    """Heavy atoms and which are bonded; hydrogen counts as isotopes, which RDKit compares."""
    mol = Chem.RWMol()
    for number, count in zip(numbers, hydrogens, strict=True):
        atom = Chem.Atom(number)
        atom.SetIsotope(count + 1)
        atom.SetNoImplicit(True)
        mol.AddAtom(atom)
    for a, b in bonds:
        mol.AddBond(a, b, Chem.BondType.SINGLE)
    mol.UpdatePropertyCache(strict=False)
    return mol.GetMol()


def _with_hydrogens(
    molecule: Molecule, heavy: IntArray, on_heavy: dict[int, list[int]]
) -> IntArray:
    """Order [n_atoms] from that of the heavy atoms [n]: hydrogens follow their parents."""
    left = {atom: list(hydrogens) for atom, hydrogens in on_heavy.items()}
    parents = hydrogen_parents(molecule)
    hydrogens = [left[int(heavy[parent])].pop(0) for parent in parents]
    return np.array([*heavy.tolist(), *hydrogens], dtype=np.int64)
