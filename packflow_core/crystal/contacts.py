"""Periodic contacts between molecules: shortest contact, clashes, bond lengths.

Everything is vectorised and exact for any cell shape: atoms are wrapped, copied to the images
that can matter, and searched with a k-d tree. A crystal of 100 atoms takes under a millisecond.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from packflow_core.chem.elements import COVALENT_RADII, VDW_RADII
from packflow_core.crystal.crystal import Crystal
from packflow_core.crystal.lattice import heights

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

#: Two atoms closer than this fraction of the sum of their covalent radii clash (PackFlow, eq. 25).
CLASH_FACTOR = 0.75

#: A bond is well drawn within this distance of the sum of covalent radii, in Å (PackFlow, fig. 5).
BOND_TOLERANCE = 0.4

#: Image points of one neighbour search; a cell that needs more is no crystal of molecules.
_MAX_IMAGE_POINTS = 5_000_000

#: Å added to a cutoff, so that rounding never finds a pair in one direction only.
_ROUNDING = 1e-9

#: Distance in Å beyond which `min_contact_ratio` stops looking.
_FARTHEST = 60.0


class Pairs(NamedTuple):
    """Directed pairs of atoms: `positions[j] + shift @ cell - positions[i]` has length `distance`.

    Attributes:
        i: [P] first atom.
        j: [P] second atom.
        shift: [P, 3] integer lattice translation of the second atom.
        distance: [P] Å.
    """

    i: IntArray
    j: IntArray
    shift: IntArray
    distance: FloatArray

    def take(self, keep: BoolArray) -> Pairs:
        """The pairs where `keep` [P] is true."""
        return Pairs(self.i[keep], self.j[keep], self.shift[keep], self.distance[keep])


class Contact(NamedTuple):
    """The closest contact of a crystal.

    Attributes:
        ratio: distance over the sum of van der Waals radii; infinity where there is no contact.
        i: first atom, -1 where there is no contact.
        j: second atom, -1 where there is no contact.
        distance: Å.
    """

    ratio: float
    i: int
    j: int
    distance: float


def neighbour_pairs(positions: FloatArray, cell: FloatArray, cutoff: float) -> Pairs:
    """All directed pairs of atoms, images included, at most `cutoff` apart.

    Args:
        positions: [N, 3] Å, wrapped or not.
        cell: [3, 3] Å.
        cutoff: Å.

    Returns:
        Every pair twice, as (i, j, S) and (j, i, -S), distances up to 1e-9 Å above the cutoff
        included; an atom and its own images count, an atom and itself does not. Shifts refer to
        the positions as given.

    Raises:
        ValueError: the cell is so flat that the search would need millions of images.
    """
    cell = np.asarray(cell, dtype=np.float64)
    frac = np.asarray(positions, dtype=np.float64) @ np.linalg.inv(cell)
    base = np.floor(frac)
    wrapped = frac - base
    cutoff += _ROUNDING
    margin = cutoff / heights(cell) + 1e-9
    reach = np.ceil(margin)
    if not np.isfinite(reach).all() or len(frac) * np.prod(2 * reach + 1) > _MAX_IMAGE_POINTS:
        raise ValueError(f"cell too flat for a neighbour search: {cell.tolist()}")
    ranges = [np.arange(-r, r + 1) for r in reach]
    grid = np.stack(np.meshgrid(*ranges, indexing="ij"), axis=-1).reshape(-1, 3)
    images = (wrapped[None] + grid[:, None]).reshape(-1, 3)
    near = np.flatnonzero(((images > -margin) & (images < 1 + margin)).all(axis=1))
    inside = cKDTree(wrapped @ cell)
    around = cKDTree(images[near] @ cell)
    found = inside.sparse_distance_matrix(around, cutoff, output_type="ndarray")
    i = found["i"].astype(np.int64)
    k, j = np.divmod(near[found["j"]], len(frac))
    shift = (grid[k] + base[i] - base[j]).astype(np.int64)
    pairs = Pairs(i, j, shift, found["v"].astype(np.float64))
    return pairs.take((i != j) | shift.any(axis=1))


def intermolecular_pairs(crystal: Crystal, cutoff: float, heavy_only: bool = False) -> Pairs:
    """Directed pairs of different molecules at most `cutoff` Å apart.

    A molecule and its own image are different molecules; images are told apart by the shift, so
    molecules must be whole. Indices refer to the atoms of `crystal`, also with `heavy_only`.

    Raises:
        ValueError: the cell is too flat (see `neighbour_pairs`).
    """
    index = np.flatnonzero(crystal.heavy) if heavy_only else np.arange(len(crystal))
    pairs = neighbour_pairs(crystal.positions[index], crystal.cell, cutoff)
    pairs = pairs._replace(i=index[pairs.i], j=index[pairs.j])
    molecule = crystal.molecule_index
    return pairs.take((molecule[pairs.i] != molecule[pairs.j]) | pairs.shift.any(axis=1))


def min_contact_ratio(crystal: Crystal, heavy_only: bool = False) -> Contact:
    """Shortest contact between molecules, as a fraction of the sum of van der Waals radii.

    Args:
        crystal: molecules whole.
        heavy_only: leave the hydrogens out.

    Returns:
        The closest contact with i <= j; the first such pair where several are equally close.

    Raises:
        ValueError: the cell is too flat (see `neighbour_pairs`).
    """
    numbers = crystal.numbers[crystal.heavy] if heavy_only else crystal.numbers
    if not len(numbers):
        return Contact(np.inf, -1, -1, np.inf)
    radii = VDW_RADII[crystal.numbers]
    largest = 2.0 * VDW_RADII[numbers].max()
    scale = 1.0
    while True:
        pairs = intermolecular_pairs(crystal, scale * largest, heavy_only)
        pairs = pairs.take(pairs.i <= pairs.j)
        ratio = pairs.distance / (radii[pairs.i] + radii[pairs.j])
        # Every contact with a ratio up to `scale` lies inside the cutoff, so this one is exact.
        if len(ratio) and ratio.min() <= scale:
            best = np.lexsort((pairs.j, pairs.i, ratio))[0]
            return Contact(
                float(ratio[best]),
                int(pairs.i[best]),
                int(pairs.j[best]),
                float(pairs.distance[best]),
            )
        if scale * largest > _FARTHEST:
            return Contact(np.inf, -1, -1, np.inf)
        scale *= 1.5


def clashing_atoms(
    crystal: Crystal, factor: float = CLASH_FACTOR, heavy_only: bool = False
) -> BoolArray:
    """[N] mask of atoms closer than factor * (r_i + r_j) to an atom of another molecule.

    Covalent radii, strict inequality (PackFlow, eq. 25, between molecules only: inside a molecule
    bond lengths are judged by `bond_errors`).

    Raises:
        ValueError: the cell is too flat (see `neighbour_pairs`).
    """
    radii = COVALENT_RADII[crystal.numbers]
    mask = np.zeros(len(crystal), dtype=np.bool_)
    if not len(crystal):
        return mask
    pairs = intermolecular_pairs(crystal, 2.0 * factor * float(radii.max()), heavy_only)
    mask[pairs.i[pairs.distance < factor * (radii[pairs.i] + radii[pairs.j])]] = True
    return mask


def bond_lengths(crystal: Crystal, bonds: IntArray) -> FloatArray:
    """[z, nb] lengths in Å of the bonds [nb, 2] of one molecule, in every molecule of the cell."""
    molecules = crystal.positions.reshape(crystal.z, -1, 3)
    vectors = molecules[:, bonds[:, 1]] - molecules[:, bonds[:, 0]]
    return np.asarray(np.linalg.norm(vectors, axis=-1), dtype=np.float64)


def bond_errors(crystal: Crystal, bonds: IntArray) -> FloatArray:
    """[z, nb] bond length minus the sum of covalent radii, in Å, signed.

    Args:
        crystal: heavy atoms alone, or with hydrogens after the heavy atoms of each molecule.
        bonds: [nb, 2] atom pairs of one molecule (`Molecule.bonds` or `Molecule.bonds_h`).
    """
    numbers = crystal.numbers[: len(crystal) // crystal.z]
    expected = COVALENT_RADII[numbers[bonds]].sum(axis=1)
    return np.asarray(bond_lengths(crystal, bonds) - expected, dtype=np.float64)


def bond_statistics(errors: FloatArray, tolerance: float = BOND_TOLERANCE) -> tuple[float, float]:
    """Fraction of bonds within `tolerance` Å and the largest deviation in Å.

    These are the columns `bonds_ok` and `max_bond_error_A`; a molecule without bonds has (1, 0).
    """
    if not errors.size:
        return 1.0, 0.0
    deviation = np.abs(errors)
    return float((deviation <= tolerance).mean()), float(deviation.max())
