"""Structured noise and the pairing of crystals with noise."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from packflow_core.chem.molecule import Molecule
from packflow_core.model.prior import (
    BOND_SPREAD,
    expected_volume,
    harmonic_factor,
    pair_with_noise,
    structured_noise,
)


def test_expected_volume_of_a_known_crystal():
    # Benzene: Pbca, Z = 4, V = 491.7 Å^3 at 270 K (Cox, Cruickshank and Smith, 1958): 123 Å^3.
    benzene = Molecule.from_smiles("c1ccccc1")
    assert expected_volume(benzene.numbers, 6) == pytest.approx(123.0, rel=0.1)


def test_harmonic_factor_is_the_root_of_the_pseudo_inverse():
    molecule = Molecule.from_smiles("CC(=O)Oc1ccccc1C(=O)O")
    factor = harmonic_factor(molecule.bonds, molecule.n_heavy)
    laplacian = np.zeros((13, 13))
    for i, j in molecule.bonds:
        laplacian[[i, j], [i, j]] += 1
        laplacian[[i, j], [j, i]] -= 1
    np.testing.assert_allclose(factor @ factor.T, np.linalg.pinv(laplacian), atol=1e-10)


def test_noise_has_the_stated_bond_spread_and_no_drift():
    rng = np.random.default_rng(0)
    chain = np.array([[0, 1], [1, 2], [2, 3]])
    factor = harmonic_factor(chain, 4)
    bonds = []
    for _ in range(4000):
        x = structured_noise(
            rng.standard_normal((2, 4, 3)), rng.standard_normal((2, 3)), factor, 300.0
        )
        np.testing.assert_allclose(x.mean((0, 1)), 0.0, atol=1e-12)
        bonds.append(x[:, 1] - x[:, 0])
    # In a tree every bond has unit variance in units of BOND_SPREAD; 24000 numbers: 1 % error.
    assert np.std(bonds) == pytest.approx(BOND_SPREAD, rel=0.03)


@pytest.mark.parametrize("z", [1, 2, 4])
def test_pairing_keeps_the_crystal_and_finds_the_way_home(z):
    rng = np.random.default_rng(z)
    cell = np.array([[7.0, 0, 0.5], [-1.0, 8.0, 0.3], [0.2, 0.4, 9.0]])
    centroids = rng.random((z, 3)) @ cell
    # Noise that sits exactly on images of the molecules, in another order and origin.
    order = rng.permutation(z)
    images = rng.integers(-1, 2, (z, 3)) @ cell
    noise = centroids[order] + images + np.array([0.3, -0.2, 0.1])
    found, shift = pair_with_noise(centroids, cell, noise, rng.random((8, 3)))
    assert sorted(found) == list(range(z))
    moved = centroids[found] + shift
    # Shifts differ by lattice vectors only.
    steps = (shift - shift[0]) @ np.linalg.inv(cell)
    np.testing.assert_allclose(steps, np.rint(steps), atol=1e-9)
    target = noise - noise.mean(0)
    cost = ((moved - moved.mean(0) - target) ** 2).sum()
    naive = ((centroids - centroids.mean(0) - target) ** 2).sum()
    assert cost <= naive + 1e-9
    if z == 1:
        assert cost == pytest.approx(0.0, abs=1e-18)


def test_pairing_is_better_than_chance():
    rng = np.random.default_rng(7)
    cell = np.diag([8.0, 9.0, 10.0])
    rotation = Rotation.random(random_state=1).as_matrix()
    ratios = []
    for _ in range(50):
        centroids = rng.random((4, 3)) @ cell
        noise = 3.0 * rng.standard_normal((4, 3)) @ rotation
        order, shift = pair_with_noise(centroids, cell, noise, rng.random((6, 3)))
        paired = centroids[order] + shift
        centre = lambda a: a - a.mean(0)  # noqa: E731
        ratios.append(
            ((centre(paired) - centre(noise)) ** 2).sum()
            / ((centre(centroids) - centre(noise)) ** 2).sum()
        )
    assert np.mean(ratios) < 0.6
    assert max(ratios) <= 1.0 + 1e-9
