"""Matrix functions of the cell filter against SciPy, and forces against finite differences."""

import numpy as np
import pytest
from scipy.linalg import expm as scipy_expm
from scipy.linalg import expm_frechet

from packflow_core.crystal.lattice import heights
from packflow_core.relax.cell import (
    determinants,
    expm,
    frechet,
    log_deformation_forces,
    lowest_heights,
    times,
)

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("size", [1e-12, 1e-3, 0.3, 1.0])
def test_exponential_and_derivative_are_those_of_scipy(size):
    x, e = RNG.normal(0, size, (5, 3, 3)), RNG.normal(0, 7.0, (5, 3, 3))
    expected = np.array([scipy_expm(m) for m in x])
    np.testing.assert_allclose(expm(x), expected, rtol=0, atol=2e-14 * np.abs(expected).max())
    expected = np.array([expm_frechet(m, d, compute_expm=False) for m, d in zip(x, e, strict=True)])
    np.testing.assert_allclose(frechet(x, e), expected, rtol=0, atol=3e-14 * np.abs(expected).max())


def test_derivative_along_nothing_is_nothing():
    assert not frechet(RNG.normal(0, 0.3, (2, 3, 3)), np.zeros((2, 3, 3))).any()


def test_the_adjoint_gives_the_gradient_of_any_energy():
    # E(F) with dE/dF = G: stress and virial follow, and X moves E along F = exp(X).
    x = RNG.normal(0, 0.2, (1, 3, 3))
    cell_0 = np.eye(3) * 5.0 + RNG.normal(0, 0.3, (3, 3))
    metric = np.array([[2.0, 0.3, 0.1], [0.3, 1.5, -0.2], [0.1, -0.2, 1.0]])

    def energy(x):
        cell = cell_0 @ expm(x)[0].T
        return float(np.einsum("ij,jk,ik->", cell, metric, cell)) * 0.01

    # The stress from a symmetric strain of the cell, by finite differences; this energy is not
    # invariant to rotation, so only directions that are strains of the present cell compare.
    f = expm(x)[0]
    cell = cell_0 @ f.T
    volume = float(np.linalg.det(cell))
    stress = np.zeros((3, 3))
    for i in range(3):
        for j in range(3):
            h = np.zeros((3, 3))
            h[i, j] += 5e-6
            h[j, i] += 5e-6
            up, down = cell @ (np.eye(3) + h), cell @ (np.eye(3) - h)
            difference = sum(
                s * 0.01 * np.einsum("ij,jk,ik->", c, metric, c) for s, c in ((1, up), (-1, down))
            )
            stress[i, j] = difference / 2e-5 / volume
    force = log_deformation_forces(x, np.array([volume]), stress[None])[0]
    strain = RNG.normal(0, 1, (3, 3))
    strain = strain + strain.T
    # d exp(X) = strain F, hence dX solves L(X, dX) = strain F.
    basis = np.eye(9).reshape(9, 3, 3)
    matrix = np.stack([frechet(x, b[None])[0].ravel() for b in basis], axis=1)
    dx = np.linalg.solve(matrix, (strain @ f).ravel()).reshape(3, 3)
    numeric = (energy(x + 1e-5 * dx) - energy(x - 1e-5 * dx)) / 2e-5
    assert -np.sum(force * dx) == pytest.approx(numeric, rel=1e-6)


def test_volumes_heights_and_products():
    cells = RNG.normal(0, 4.0, (6, 3, 3))
    np.testing.assert_allclose(determinants(cells), np.linalg.det(cells), rtol=1e-10)
    np.testing.assert_allclose(lowest_heights(cells), [heights(c).min() for c in cells], rtol=1e-10)
    assert lowest_heights(np.zeros((1, 3, 3))) == 0.0
    rows = RNG.normal(size=(6, 3))
    np.testing.assert_allclose(times(rows, cells), np.einsum("ai,aij->aj", rows, cells))
