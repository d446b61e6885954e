"""Molecules made whole: canonical unwrapping, and molecules found from a list of atoms.

A crystallographic file folds every atom into one cell, which cuts molecules at its faces. The
generator, the hydrogens and the contacts of this project need whole molecules.
Source: PackFlow, appendix B.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from packflow_core.chem.elements import COVALENT_RADII
from packflow_core.crystal.contacts import neighbour_pairs

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

#: Atoms closer than the sum of covalent radii plus this many Å are bonded.
BOND_SLACK = 0.4


@dataclass(frozen=True, eq=False)
class Connectivity:
    """The molecules found in a cell.

    Attributes:
        bonds: [nb, 2] bonded atoms, first index smaller.
        molecule: [N] molecule of each atom, numbered by the first atom of the molecule.
        frac: [N, 3] fractional coordinates with every molecule whole, placed canonically.
        infinite: some bonds lead back to an image of the same molecule (a chain or a network).
    """

    bonds: IntArray
    molecule: IntArray
    frac: FloatArray
    infinite: bool

    @property
    def n_molecules(self) -> int:
        """Number of molecules in the cell."""
        return int(self.molecule.max()) + 1 if len(self.molecule) else 0


def wrap(frac: ArrayLike) -> FloatArray:
    """Fractional coordinates [..., 3] folded into [0, 1)."""
    f = np.asarray(frac, dtype=np.float64)
    folded = f - np.floor(f)
    # A tiny negative number folds to exactly 1.0.
    return np.asarray(np.where(folded >= 1.0, 0.0, folded), dtype=np.float64)


def mean_centred(positions: ArrayLike) -> FloatArray:
    """Positions [..., N, 3] minus their mean over the N atoms (PackFlow, appendix C)."""
    x = np.asarray(positions, dtype=np.float64)
    return np.asarray(x - x.mean(axis=-2, keepdims=True), dtype=np.float64)


def unwrap_molecules(frac: ArrayLike, bonds: ArrayLike) -> FloatArray:
    """Whole molecules from fractional coordinates, by the canonical two-pass walk.

    Each molecule is first made whole from its first atom, which gives its centroid; the atom
    nearest to the centroid (in fractional units) then stays at its place in [0, 1)^3 and the
    molecule is made whole again around it. Each step takes the nearest image of the next atom.

    Args:
        frac: [N, 3] fractional coordinates; they are folded into [0, 1) first.
        bonds: [nb, 2] bonded atoms of the whole cell, in any direction.

    Returns:
        [N, 3] fractional coordinates, not wrapped.

    Source:
        PackFlow, appendix B, with the published code's distance to the centroid.
    """
    folded = wrap(frac)
    pairs = np.asarray(bonds, dtype=np.int64).reshape(-1, 2)
    shifts = -np.rint(folded[pairs[:, 1]] - folded[pairs[:, 0]]).astype(np.int64)
    return _two_passes(folded, _adjacency(len(folded), pairs, shifts))[1]


def place_whole_molecules(frac: ArrayLike, z: int) -> FloatArray:
    """Canonical place of molecules that are whole already, as `unwrap_molecules` would give.

    Args:
        frac: [N, 3] fractional coordinates, molecule by molecule, each whole.
        z: molecules in the cell.

    Returns:
        [N, 3] fractional coordinates; each molecule moved by a lattice vector so that its atom
        nearest to its centroid lies in [0, 1)^3.
    """
    molecules = np.asarray(frac, dtype=np.float64).reshape(z, -1, 3)
    offset = molecules - molecules.mean(axis=1, keepdims=True)
    central = np.argmin(np.einsum("mai,mai->ma", offset, offset), axis=1)
    anchor = molecules[np.arange(z), central]
    shift = np.rint(wrap(anchor) - anchor)
    return np.asarray(molecules + shift[:, None], dtype=np.float64).reshape(-1, 3)


def find_bonds(
    numbers: ArrayLike, frac: ArrayLike, cell: ArrayLike, slack: float = BOND_SLACK
) -> tuple[IntArray, IntArray]:
    """Bonds of a cell from distances, images included.

    Two atoms are bonded within the sum of covalent radii plus `slack` Å. A hydrogen keeps only
    its best bond, so a short hydrogen bond joins no molecules, and hydrogens never bond to each
    other.

    Args:
        numbers: [N] atomic numbers.
        frac: [N, 3] fractional coordinates.
        cell: [3, 3] Å.
        slack: Å.

    Returns:
        (bonds [nb, 2] with i <= j, shifts [nb, 3]): atom j translated by the shift is the one
        that is bonded to atom i. A bond of an atom to its own image appears with i = j.

    Raises:
        ValueError: the cell is too flat for a neighbour search.
    """
    species = np.asarray(numbers, dtype=np.int64)
    matrix = np.asarray(cell, dtype=np.float64)
    radii = COVALENT_RADII[species]
    if not len(species):
        return np.empty((0, 2), dtype=np.int64), np.empty((0, 3), dtype=np.int64)
    positions = np.asarray(frac, dtype=np.float64) @ matrix
    pairs = neighbour_pairs(positions, matrix, 2.0 * float(radii.max()) + slack)
    # One direction of each: i < j, and for an atom and its image the first non-zero shift positive.
    leading = np.take_along_axis(pairs.shift, np.argmax(pairs.shift != 0, axis=1)[:, None], axis=1)[
        :, 0
    ]
    pairs = pairs.take((pairs.i < pairs.j) | ((pairs.i == pairs.j) & (leading > 0)))
    excess = pairs.distance - (radii[pairs.i] + radii[pairs.j])
    hydrogen = species == 1
    keep = (excess <= slack) & ~(hydrogen[pairs.i] & hydrogen[pairs.j])
    kept, excess = pairs.take(keep), excess[keep]
    # The best bond of every hydrogen: sort by hydrogen, then by excess; the first of each counts.
    which = np.flatnonzero(hydrogen[kept.i] | hydrogen[kept.j])
    owner = np.where(hydrogen[kept.i[which]], kept.i[which], kept.j[which])
    order = np.lexsort((excess[which], owner))
    again = order[1:][owner[order][1:] == owner[order][:-1]]
    single = np.ones(len(excess), dtype=np.bool_)
    single[which[again]] = False
    kept = kept.take(single)
    order = np.lexsort((*kept.shift.T[::-1], kept.j, kept.i))
    return np.stack([kept.i, kept.j], axis=1)[order], kept.shift[order]


def connect_molecules(
    numbers: ArrayLike, frac: ArrayLike, cell: ArrayLike, slack: float = BOND_SLACK
) -> Connectivity:
    """Find the molecules of a cell and make them whole.

    Works with and without hydrogens. Arguments as in `find_bonds`.

    Raises:
        ValueError: the cell is too flat for a neighbour search.
    """
    folded = wrap(frac)
    bonds, shifts = find_bonds(numbers, folded, cell, slack)
    label, whole = _two_passes(folded, _adjacency(len(folded), bonds, shifts))
    moved = np.rint(whole - folded).astype(np.int64)
    strain = moved[bonds[:, 1]] - moved[bonds[:, 0]] - shifts
    return Connectivity(bonds=bonds, molecule=label, frac=whole, infinite=bool(strain.any()))


_Adjacency = list[list[tuple[int, IntArray]]]


def _adjacency(n: int, bonds: IntArray, shifts: IntArray) -> _Adjacency:
    """Neighbours of each atom with the lattice shift that a step to them takes."""
    neighbours: _Adjacency = [[] for _ in range(n)]
    for (i, j), shift in zip(bonds.tolist(), shifts, strict=True):
        neighbours[i].append((j, shift))
        neighbours[j].append((i, -shift))
    return neighbours


def _walk(root: int, neighbours: _Adjacency, shift: IntArray) -> list[int]:
    """Breadth-first walk from `root`; fills `shift` [N, 3] of the atoms met and returns them."""
    shift[root] = 0
    met, seen, queue = [root], {root}, deque([root])
    while queue:
        i = queue.popleft()
        for j, step in neighbours[i]:
            if j not in seen:
                seen.add(j)
                shift[j] = shift[i] + step
                met.append(j)
                queue.append(j)
    return met


def _two_passes(folded: FloatArray, neighbours: _Adjacency) -> tuple[IntArray, FloatArray]:
    """Molecule of each atom [N] and whole fractional coordinates [N, 3]."""
    n = len(folded)
    label = np.full(n, -1, dtype=np.int64)
    shift = np.zeros((n, 3), dtype=np.int64)
    count = 0
    for start in range(n):
        if label[start] >= 0:
            continue
        members = np.sort(np.array(_walk(start, neighbours, shift)))
        label[members] = count
        count += 1
        whole = folded[members] + shift[members]
        away = whole - whole.mean(axis=0)
        central = members[int(np.argmin(np.einsum("ai,ai->a", away, away)))]
        _walk(int(central), neighbours, shift)
    return label, folded + shift
