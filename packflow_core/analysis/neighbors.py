"""The k nearest periodic neighbours of every atom, for the invariants AMD and PDD.

(Pairs within a fixed radius come from `packflow_core.crystal.contacts`.) Images are listed in the
Niggli-reduced cell, whose faces are as far apart as the lattice allows, so that skewed cells cost
no more than others.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from packflow_core.crystal.crystal import Crystal
from packflow_core.crystal.lattice import heights, niggli_cell

FloatArray = NDArray[np.float64]

#: More image atoms than this are refused; only a collapsed cell asks for them.
MAX_IMAGE_ATOMS = 5_000_000


def reduced_cell(cell: FloatArray) -> FloatArray:
    """Niggli cell [3, 3] Å of the same lattice, or the cell itself where the reduction fails."""
    try:
        return niggli_cell(cell)
    except ValueError:
        return np.asarray(cell, dtype=np.float64)


def nearest_distances(crystal: Crystal, k: int) -> FloatArray:
    """[N, k] distances in Å from every atom to its k nearest neighbours, ascending.

    Raises:
        ValueError: k < 1, an empty crystal, or a collapsed cell.
    """
    if k < 1:
        raise ValueError(f"the number of neighbours must be at least 1, not {k}")
    if not len(crystal):
        raise ValueError("the crystal holds no atoms")
    cell = reduced_cell(crystal.cell)
    frac = crystal.positions @ np.linalg.inv(cell)
    frac -= np.floor(frac)
    home = frac @ cell
    # Radius of the sphere that holds k atoms on average, with a margin; exact in any case below.
    radius = 1.25 * (3.0 * k * crystal.volume / (4.0 * np.pi * len(home))) ** (1.0 / 3.0)
    while True:
        images = _images(frac, cell, radius)
        if len(images) > k:
            distances, _ = cKDTree(images).query(home, k=k + 1)
            farthest = float(distances[:, -1].max())
            if farthest <= radius:
                # The nearest "neighbour" of every atom is the atom itself.
                return np.asarray(distances[:, 1:], dtype=np.float64)
            # What was found is an upper bound of the radius that is needed.
            radius = farthest * (1.0 + 1e-9)
        else:
            radius *= 1.5


def _images(frac: FloatArray, cell: FloatArray, radius: float) -> FloatArray:
    """[M, 3] Å images of wrapped atoms that can lie within `radius` of an atom in the cell."""
    margin = radius / heights(cell) + 1e-9
    reach = np.ceil(margin)
    if not np.isfinite(reach).all() or np.prod(2.0 * reach + 1.0) * len(frac) > MAX_IMAGE_ATOMS:
        raise ValueError(
            f"the cell is collapsed (heights {heights(cell).round(3).tolist()} Å); its neighbours "
            f"within {radius:.1f} Å cannot be listed"
        )
    steps = [np.arange(-n, n + 1) for n in reach]
    shifts = np.stack(np.meshgrid(*steps, indexing="ij"), axis=-1).reshape(-1, 3)
    images = (frac[None] + shifts[:, None]).reshape(-1, 3)
    near: FloatArray = images[((images > -margin) & (images < 1.0 + margin)).all(axis=1)] @ cell
    return near
