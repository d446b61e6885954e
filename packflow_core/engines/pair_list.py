"""Verlet lists: which atoms of different molecules may come close, images included.

A list holds every pair up to a reach beyond the cutoff, so it stays complete until the atoms have
moved by a good part of the difference. Potentials are exactly zero beyond the cutoff and pairs
come in one fixed order, so that sums taken in that order do not depend on the age of a list.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from packflow_core.crystal.lattice import heights

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

#: Image points of one search; a cell that needs more is no crystal of molecules.
_MAX_IMAGE_POINTS = 5_000_000

#: Atoms per Å3; ten times diamond.
_MAX_DENSITY = 1.8

#: Distances that are held in memory at once.
_BLOCK = 2_000_000

#: Å² added to the square of the reach, far above the rounding of a distance.
_ROUNDING = 1e-6

#: Å of a list's margin that are never used up, far above the rounding of a displacement.
_RESERVE = 1e-6


class PairList(NamedTuple):
    """Pairs of atoms with images of atoms ("ghosts"), each pair once.

    Ghosts are ordered by lattice translation and then by atom, pairs by atom and then by ghost;
    translations are zero, with the first molecule before the second, or lexicographically
    positive. All this depends on the pair alone, not on the geometry or the reach.

    Attributes:
        i: [P] the atom.
        ghost: [P] the ghost.
        atom: [G] the atom that a ghost is an image of.
        shift: [G, 3] integer lattice translation of a ghost.
    """

    i: NDArray[np.int32]
    ghost: NDArray[np.int32]
    atom: NDArray[np.int32]
    shift: FloatArray


def build_pairs(
    positions: FloatArray, cell: FloatArray, molecule_atoms: int, reach: float
) -> PairList:
    """All pairs of atoms of different molecules, images included, up to `reach` apart.

    A molecule and its image are different molecules.

    Args:
        positions: [N, 3] Å, molecule by molecule, not wrapped; translations refer to them.
        cell: [3, 3] Å, any shape.
        molecule_atoms: atoms of one molecule.
        reach: Å; some pairs that are farther apart by less than 1e-6 Å are there, too.

    Raises:
        ValueError: the search would need millions of images, or the crystal has collapsed.
    """
    n = len(positions)
    volume = float(np.linalg.det(cell))
    if n > _MAX_DENSITY * volume:
        raise ValueError(f"{n} atoms in a cell of {volume:.4g} Å3")
    frac = positions @ np.linalg.inv(cell)
    low, high = frac.min(axis=0), frac.max(axis=0)
    margin = reach / heights(cell) + 1e-9
    most = np.floor(high - low + margin)
    with np.errstate(over="ignore"):
        points = n * (most[0] + 1) * (2 * most[1] + 1) * (2 * most[2] + 1)
    if not points <= _MAX_IMAGE_POINTS:
        height = ", ".join(f"{h:.3g}" for h in heights(cell))
        raise ValueError(f"too many images within {reach:g} Å; cell heights {height} Å")
    shifts = _half_space(most.astype(np.int64))
    images = frac[None] + shifts[:, None]
    inside = ((images > low - margin) & (images < high + margin)).all(axis=-1)
    translation, atom = np.nonzero(inside)

    # Differences of coordinates near zero are sharper.
    centred = positions - positions.mean(axis=0)
    ghosts = centred[atom] + shifts[translation] @ cell
    own = np.count_nonzero(translation == 0)
    molecule = np.arange(n) // molecule_atoms
    limit = reach * reach + _ROUNDING
    rows = max(1, _BLOCK // max(1, len(atom)))
    found_i, found_g = [], []
    for begin in range(0, n, rows):
        here = centred[begin : begin + rows]
        squared = here @ (-2.0 * ghosts.T)
        squared += (ghosts * ghosts).sum(axis=1)
        close = squared < (limit - (here * here).sum(axis=1))[:, None]
        close[:, :own] &= molecule[begin : begin + rows, None] < molecule[None, atom[:own]]
        i, g = np.divmod(np.flatnonzero(close), len(atom))
        found_i.append((i + begin).astype(np.int32))
        found_g.append(g.astype(np.int32))
    ghost = np.concatenate(found_g)
    used = np.zeros(len(atom), dtype=np.bool_)
    used[ghost] = True
    rank = np.cumsum(used, dtype=np.int32) - np.int32(1)
    return PairList(
        np.concatenate(found_i),
        rank[ghost],
        atom[used].astype(np.int32),
        shifts[translation[used]].astype(np.float64),
    )


def _half_space(most: IntArray) -> IntArray:
    """Translations [T, 3], |s| <= most, that are zero or lexicographically positive; ordered."""
    grid = np.stack(
        np.meshgrid(*[np.arange(-m, m + 1) for m in most], indexing="ij"), axis=-1
    ).reshape(-1, 3)
    # The grid is point-symmetric: zero is in the middle, the positive half comes after it.
    return grid[len(grid) // 2 :]


def still_complete(
    displacement: FloatArray, gradient: FloatArray, cutoff: float, reach: float
) -> NDArray[np.bool_]:
    """[B] whether lists built with `reach` still hold all pairs up to `cutoff`.

    Two atoms that were more than `reach` apart are, after a deformation F of the crystal and
    displacements u on top of it, at least (1 - |F - 1|) reach - 2 max |u| apart.

    Args:
        displacement: [B] largest |u| in Å of the atoms of each crystal.
        gradient: [B, 3, 3] F; rows of the cell now are those of then @ F.
        cutoff: Å.
        reach: Å.
    """
    # The Frobenius norm is at least the spectral norm.
    strain = np.sqrt(((gradient - np.eye(3)) ** 2).sum(axis=(1, 2)))
    return np.asarray((1.0 - strain) * reach - 2.0 * displacement > cutoff + _RESERVE)
