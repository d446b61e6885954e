"""Where the flow of the open model starts, and which image of a crystal it is paired with.

Two choices make the flow easier than one from white noise (both keep the ODE and the loss of the
paper, eq. 1 to 5):

- **Structured noise.** Atoms of one molecule are correlated by a harmonic chain along its bonds
  (the prior of Jing et al., EigenFold; Stark et al., HarmonicFlow), and molecules are spread over
  the expected extent of the cell, so bonded atoms start as neighbours.
- **Optimal-transport pairing.** One crystal has many descriptions: any lattice translation of any
  molecule, any order of equal molecules, any origin. Training takes the description nearest to
  the noise at hand, so that molecules travel short, straight ways.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

FloatArray = NDArray[np.float64]

#: Average volume in Å^3 that an atom takes in a molecular crystal at room temperature
#: (Hofmann, Acta Cryst. B 2002, 58, 489).
_ATOMIC_VOLUME = {
    1: 5.08, 5: 13.24, 6: 13.87, 7: 11.80, 8: 11.39, 9: 11.17, 14: 37.3, 15: 29.5,
    16: 25.2, 17: 25.8, 33: 36.4, 34: 30.3, 35: 32.7, 53: 46.2,
}  # fmt: skip
#: Root-mean-square length in Å, per Cartesian axis, of a bond in the structured noise.
BOND_SPREAD = 0.8
#: Spread of molecular centroids in units of the cube root of the expected cell volume.
CENTROID_SPREAD = 0.32


def expected_volume(numbers: NDArray[np.int64], n_hydrogens: int) -> float:
    """Volume in Å^3 that heavy atoms `numbers` and `n_hydrogens` hydrogens usually take."""
    heavy = sum(_ATOMIC_VOLUME[int(n)] for n in numbers)
    return heavy + n_hydrogens * _ATOMIC_VOLUME[1]


def harmonic_factor(bonds: NDArray[np.int64], n: int) -> FloatArray:
    """[n, n] matrix S such that S @ white noise is a harmonic chain along the bonds.

    S S^T is the pseudo-inverse of the graph Laplacian, so the mean over atoms is zero and bonded
    atoms differ by unit variance per axis in a tree (less in rings).
    """
    laplacian = np.zeros((n, n))
    for i, j in bonds:
        laplacian[i, i] += 1
        laplacian[j, j] += 1
        laplacian[i, j] -= 1
        laplacian[j, i] -= 1
    values, vectors = np.linalg.eigh(laplacian)
    scale = np.where(values > 1e-8, 1.0 / np.sqrt(np.maximum(values, 1e-8)), 0.0)
    # The symmetric root does not depend on the signs that eigh picks for its vectors.
    root: FloatArray = (vectors * scale) @ vectors.T
    return root


def structured_noise(
    white: FloatArray, centroids: FloatArray, factor: FloatArray, volume: float
) -> FloatArray:
    """Starting coordinates [z, n, 3] in Å of one crystal, mean zero.

    Args:
        white: [z, n, 3] standard normal numbers for the atoms.
        centroids: [z, 3] standard normal numbers for the molecules.
        factor: [n, n] from `harmonic_factor`.
        volume: expected volume of the cell in Å^3.
    """
    centres = CENTROID_SPREAD * np.cbrt(volume) * centroids
    x = BOND_SPREAD * np.einsum("ij,zjc->zic", factor, white) + centres[:, None]
    return np.asarray(x - x.mean(axis=(0, 1)))


def pair_with_noise(
    centroids: FloatArray,
    cell: FloatArray,
    noise_centroids: FloatArray,
    origins: FloatArray,
) -> tuple[NDArray[np.int64], FloatArray]:
    """The description of a crystal that lies nearest to given noise.

    Args:
        centroids: [z, 3] Å, centroids of the molecules of the crystal.
        cell: [3, 3] Å, rows a, b, c (reduced, so that rounding finds the nearest image).
        noise_centroids: [z, 3] Å.
        origins: [k, 3] fractional shifts of the origin to try.

    Returns:
        order [z]: which molecule of the crystal goes to each noise molecule, and shift [z, 3] Å:
        what to add to it. Shifts differ by lattice vectors and one common translation only.
    """
    inverse = np.linalg.inv(cell)
    wanted = (noise_centroids - noise_centroids.mean(0)) @ inverse  # [z, 3]
    have = (centroids - centroids.mean(0)) @ inverse
    best: tuple[float, NDArray[np.int64], FloatArray] | None = None
    for origin in origins:
        tau = origin
        for _ in range(2):
            # [noise, molecule, 3]: way of each molecule's nearest image to each noise centroid
            difference = have[None] + tau - wanted[:, None]
            images = np.rint(difference)
            way = (difference - images) @ cell
            cost = (way**2).sum(-1)
            rows, order = linear_sum_assignment(cost)
            residual = way[rows, order].mean(0)
            shift = tau - images[rows, order]
            total = float(cost[rows, order].sum() - len(rows) * (residual**2).sum())
            if best is None or total < best[0]:
                best = (total, order, (shift @ cell) - residual)
            tau = tau - residual @ inverse
    assert best is not None, "origins must not be empty"
    _, order, shift_cart = best
    return order, shift_cart - centroids.mean(0)
