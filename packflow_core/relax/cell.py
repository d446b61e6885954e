"""The cell as degrees of freedom of an optimiser, for many crystals at once.

The coordinates are those of ASE's FrechetCellFilter (derivation: E. B. Tadmor et al., Phys. Rev. B
1999, 59, 235, and the notes that ASE's class cites): atoms in the undeformed cell, and the
logarithm X of the deformation gradient F, scaled by a factor. With row vectors,

    cell = cell_0 F^T,   position = q F^T,   F = exp(X).

The derivative of the energy with respect to X needs the Fréchet derivative L(X, E) of the matrix
exponential. ASE takes it in nine directions; the adjoint of L gives all nine components at once,
because <L(X, E), G> = <E, L(X^T, G)>.

Everything here is elementwise or a product of stacked small matrices, so the numbers of a crystal
never depend on the others in the batch.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

#: Halvings before the series, the same for every matrix: deformations are of order one.
_SQUARINGS = 4
#: With norms up to 1/4 the first term left out is below 1e-17.
_ORDER = 12


def expm(matrices: FloatArray) -> FloatArray:
    """Exponential of matrices [..., n, n], by scaling, a Taylor series and squaring.

    Exact to rounding for norms up to 4; a deformation has less than 1.
    """
    small = matrices / 2.0**_SQUARINGS
    identity = np.eye(matrices.shape[-1])
    result = identity + small / _ORDER
    for k in range(_ORDER - 1, 0, -1):
        result = identity + np.matmul(small, result) / k
    for _ in range(_SQUARINGS):
        result = np.matmul(result, result)
    return np.asarray(result)


def frechet(x: FloatArray, e: FloatArray) -> FloatArray:
    """Directional derivative L(X, E) of exp at X [B, n, n] along E [B, n, n].

    The upper right block of the exponential of [[X, E], [0, X]] (Higham, Functions of Matrices,
    2008, eq. 3.16). Linear in E, whose size is taken out first.
    """
    n = x.shape[-1]
    size = np.abs(e).max(axis=(-2, -1), keepdims=True)
    size = np.where(size > 0, size, 1.0)
    block = np.zeros((*x.shape[:-2], 2 * n, 2 * n))
    block[..., :n, :n] = block[..., n:, n:] = x
    block[..., :n, n:] = e / size
    return np.asarray(expm(block)[..., :n, n:] * size)


def log_deformation_forces(x: FloatArray, volumes: FloatArray, stress: FloatArray) -> FloatArray:
    """Minus the derivative [B, 3, 3] in eV of the energy with respect to X.

    Args:
        x: [B, 3, 3] logarithm of the deformation gradient.
        volumes: [B] Å3.
        stress: [B, 3, 3] eV/Å3, symmetric.
    """
    virial = -volumes[:, None, None] * stress
    # F^-T = exp(-X)^T
    gradient = np.matmul(virial, expm(-x).swapaxes(-1, -2))
    return frechet(x.swapaxes(-1, -2), gradient)


def times(rows: FloatArray, matrices: FloatArray) -> FloatArray:
    """Row vectors [A, 3] times matrices [A, 3, 3], one each.

    Written out: a product whose order of operations may depend on the place in the array would
    let batch mates change the last digit.
    """
    return np.asarray(
        rows[:, 0, None] * matrices[:, 0]
        + rows[:, 1, None] * matrices[:, 1]
        + rows[:, 2, None] * matrices[:, 2]
    )


def determinants(cells: FloatArray) -> FloatArray:
    """Volumes [B] of cells [B, 3, 3], with sign."""
    return np.asarray((cells[:, 0] * np.cross(cells[:, 1], cells[:, 2])).sum(axis=-1))


def lowest_heights(cells: FloatArray) -> FloatArray:
    """Smallest distance [B] in Å between opposite faces of cells [B, 3, 3]; 0 for a flat one."""
    faces = np.stack([np.cross(cells[:, (i + 1) % 3], cells[:, (i + 2) % 3]) for i in range(3)], 1)
    areas = np.sqrt((faces * faces).sum(axis=-1)).max(axis=1)
    volume = np.abs(determinants(cells))
    return np.where(areas > 0, volume / np.where(areas > 0, areas, 1.0), 0.0)
