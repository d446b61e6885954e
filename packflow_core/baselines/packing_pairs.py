"""Which atoms of a packing may touch, each pair of the infinite crystal once.

Only pairs that no operation maps onto each other are kept. With S = (W, w + T) an operation of the
space group and T a lattice translation, molecule S j next to molecule i is the same pair as
S^-1 i next to j, so one of the two suffices; where both are one, the atoms (a, b) and (b, a) are.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from packflow_core.baselines.packing import Packing
from packflow_core.baselines.space_groups import Site, SpaceGroup
from packflow_core.chem.elements import VDW_RADII
from packflow_core.crystal.lattice import heights

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

#: Images of molecules in one search; a cell that needs more is no crystal of molecules.
_MAX_IMAGES = 200_000

#: Å² added to squares of distances, far above their rounding.
_ROUNDING = 1e-6


class ImagePairs(NamedTuple):
    """Pairs of atoms (a of molecule i, b of the image S j), in an order of their own.

    Pairs are ordered by operation, i, j, translation, a, b: by what they are, not by where.

    Attributes:
        i: [K] independent molecule.
        j: [K] independent molecule whose image is near it.
        operation: [K] index of the operation.
        offset: [K, 3] w + T.
        image: [P] the pair's entry in the arrays above.
        a: [P] atom of molecule i.
        b: [P] atom of molecule j.
        limit: [P] Å limit of the two atoms.
        weight: [P] 1, or a half where an atom meets its own image under an operation of order two.
    """

    i: IntArray
    j: IntArray
    operation: IntArray
    offset: FloatArray
    image: IntArray
    a: IntArray
    b: IntArray
    limit: FloatArray
    weight: FloatArray


@dataclass(frozen=True, eq=False)
class Shape:
    """What the search needs to know of a rigid molecule.

    Attributes:
        offsets: [n, 3] Å atoms about the centre.
        limits: [n, n] Å distances below which two atoms of different molecules are of interest.
    """

    offsets: FloatArray
    limits: FloatArray

    @cached_property
    def extent(self) -> float:
        """Å from the centre to the farthest atom."""
        return float(np.sqrt((self.offsets**2).sum(axis=1).max()))

    @cached_property
    def largest(self) -> float:
        """Å the largest of the limits."""
        return float(self.limits.max())


def vdw_sums(numbers: IntArray) -> FloatArray:
    """[n, n] Å sums of the van der Waals radii of atoms [n]."""
    radii = VDW_RADII[numbers]
    return np.asarray(radii[:, None] + radii[None, :], dtype=np.float64)


def image_pairs(
    group: SpaceGroup,
    shape: Shape,
    cell: FloatArray,
    centres: FloatArray,
    turns: FloatArray,
    *,
    skin: float = 0.0,
    site: Site | None = None,
) -> ImagePairs:
    """All pairs of atoms of different molecules up to their limit plus a skin apart.

    Args:
        group: the space group.
        shape: the molecule.
        cell: [3, 3] Å conventional cell.
        centres: [M, 3] fractional, any translation.
        turns: [M, 3, 3] rotation matrices.
        skin: Å beyond the limits of the shape.
        site: special position of the only molecule; images that are the molecule itself are none.

    Raises:
        ValueError: the cell is so flat that the search would need too many images.
    """
    reach = 2.0 * shape.extent + shape.largest + skin
    m, count = group.n_operations, len(centres)
    with np.errstate(over="ignore", invalid="ignore"):
        most = np.floor(reach / heights(cell) + 0.5 + 1e-9)
    if not m * count * count * np.prod(2.0 * most + 1.0) <= _MAX_IMAGES:
        height = ", ".join(f"{h:.3g}" for h in heights(cell))
        raise ValueError(f"too many images within {reach:.3g} Å; cell heights {height} Å")
    # Centre of image (operation, j) seen from i, and the translation that brings it nearest.
    at = np.einsum("mab,jb->mja", group.rotations, centres) + group.translations[:, None]
    apart = at[:, None] - centres[None, :, None]  # [m, i, j, 3]
    near = -np.rint(apart)
    grid = np.stack(
        np.meshgrid(*[np.arange(-k, k + 1) for k in most], indexing="ij"), axis=-1
    ).reshape(-1, 3)
    shift = near[..., None, :] + grid  # [m, i, j, T, 3]
    vector = (apart[..., None, :] + shift) @ cell
    close = (vector * vector).sum(axis=-1) < reach * reach
    close &= _first_of_two(group, count)[..., None]
    op, i, j, t = np.nonzero(close)
    shift = shift[op, i, j, t]
    offset = group.translations[op] + shift
    # Operations of order two up to a translation: compare S with its inverse.
    double = (group.inverses[op] == op) & (i == j)
    back = -np.einsum("kab,kb->ka", group.rotations[op], offset) - offset
    sign = np.rint(back) @ np.array([1e8, 1e4, 1.0])
    keep = ~double | (sign <= 0.5)
    itself = double & (np.abs(sign) < 0.5)
    keep &= ~((op == 0) & itself & (i == j))
    if site is not None:
        keep &= ~((op == site.operation) & (shift == site.shift).all(axis=1))
    op, i, j, offset, itself = op[keep], i[keep], j[keep], offset[keep], itself[keep]

    atoms = np.einsum("mxy,ny->mnx", turns, shape.offsets)
    centre = np.einsum("kab,kb->ka", group.rotations[op], centres[j]) + offset - centres[i]
    ghosts = np.einsum("kxy,kny->knx", group.cartesian[op], atoms[j]) + (centre @ cell)[:, None]
    here = atoms[i]
    squared = -2.0 * (here @ ghosts.transpose(0, 2, 1))
    squared += (here * here).sum(axis=-1)[:, :, None] + (ghosts * ghosts).sum(axis=-1)[:, None]
    limit = (shape.limits + skin) ** 2 + _ROUNDING
    found = squared < limit
    k, a, b = np.nonzero(found)
    once = ~(itself[k] & (a > b))
    k, a, b = k[once], a[once], b[once]
    # Images without a pair are dropped; the others keep their order.
    used = np.zeros(len(op), dtype=np.bool_)
    used[k] = True
    rank = np.cumsum(used) - 1
    weight = np.where(itself[k] & (a == b), 0.5, 1.0)
    if site is not None:
        # Every image counts twice, once for each operation that makes it.
        weight = 0.5 * weight
    return ImagePairs(
        i[used], j[used], op[used], offset[used], rank[k], a, b, shape.limits[a, b], weight
    )


def _first_of_two(group: SpaceGroup, count: int) -> NDArray[np.bool_]:
    """[m, M, M] whether (operation, i, j) stands for itself and its inverse (inverse, j, i)."""
    index = np.arange(group.n_operations)
    inverse = group.inverses
    i, j = np.arange(count)[:, None], np.arange(count)
    before = (index < inverse)[:, None, None]
    same = (index == inverse)[:, None, None]
    return np.asarray(before | (same & (i <= j)[None]))


def closest_ratio(packing: Packing, below: float) -> float:
    """Shortest contact of a packing over the van der Waals sum, `below` where none is closer.

    Raises:
        ValueError: see `image_pairs`.
    """
    limits, inner, centre = _vectors(packing, below)
    d = inner + centre
    ratio = np.sqrt((d * d).sum(axis=1)) / limits
    return below * min(1.0, float(ratio.min(initial=1.0)))


def smallest_growth(packing: Packing, ratio: float, most: float) -> float | None:
    """Smallest linear growth of the cell that leaves no contact below a ratio.

    Molecules keep their shape and fractional centres, and the crystal its symmetry. While the
    cell grows by s, two atoms are |o + s R| apart, with R the vector between the centres; from
    s = 1 on, s jumps to the end of the intervals in which pairs overlap until none does.

    Args:
        packing: the packing.
        ratio: smallest allowed contact over the van der Waals sum.
        most: largest factor allowed.

    Returns:
        The factor, or None where `most` is not enough.

    Raises:
        ValueError: see `image_pairs`.
    """
    factor = 1.0
    while True:
        limit, inner, centre = _vectors(packing.grown(factor), ratio)
        d = inner + centre
        close = np.sqrt((d * d).sum(axis=1)) < limit * (1.0 - 1e-12)
        if not close.any():
            return factor
        o, r, limit = inner[close], centre[close] / factor, limit[close]
        oo, rr, mixed = (o * o).sum(axis=1), (r * r).sum(axis=1), (o * r).sum(axis=1)
        root = np.sqrt(np.maximum(mixed**2 - rr * (oo - limit**2), 0.0))
        # Coinciding centres never part: infinity, which ends the search.
        with np.errstate(divide="ignore", invalid="ignore"):
            end = (root - mixed) / rr
        end = np.where(np.isfinite(end), end, np.inf)
        factor = max(float(end.max()), factor) * (1.0 + 1e-9)
        if factor > most:
            return None


def _vectors(packing: Packing, ratio: float) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Of all pairs closer than ratio times the van der Waals sum, or some that nearly are.

    Returns:
        That distance [P] in Å, and the vector [P, 3] from atom to atom in two parts: within the
        molecules, and between the centres.
    """
    shape = Shape(packing.offsets, ratio * vdw_sums(packing.numbers))
    pairs = image_pairs(
        packing.group, shape, packing.cell, packing.centres, packing.turns, site=packing.site
    )
    atoms = np.einsum("mxy,ny->mnx", packing.turns, shape.offsets)
    group, op = packing.group, pairs.operation
    centre = np.einsum("kab,kb->ka", group.rotations[op], packing.centres[pairs.j])
    vector = (centre + pairs.offset - packing.centres[pairs.i]) @ packing.cell
    ghosts = np.einsum("kxy,kny->knx", group.cartesian[op], atoms[pairs.j])
    inner = ghosts[pairs.image, pairs.b] - atoms[pairs.i[pairs.image], pairs.a]
    return pairs.limit, inner, vector[pairs.image]
