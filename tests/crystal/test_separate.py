"""Growing the cell until nothing overlaps: smallest, rigid, and told when it cannot be."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from packflow_core.chem.elements import VDW_RADII
from packflow_core.crystal.contacts import min_contact_ratio
from packflow_core.crystal.crystal import Crystal
from packflow_core.crystal.lattice import parameters_to_cell
from packflow_core.crystal.separate import grown, separate_molecules


def a_crystal(seed, z=3, n=5, size=2.0):
    rng = np.random.default_rng(seed)
    cell = parameters_to_cell((7.0, 8.0, 9.0, 75.0, 100.0, 115.0))
    centres = (rng.random((z, 1, 3)) * 3 - 1) @ cell
    shape = rng.normal(size=(z, n, 3)) * size
    numbers = np.tile([6, 8, 17, 6, 1][:n], z)
    return Crystal(numbers, (centres + shape).reshape(-1, 3), cell, z)


def rigid_distances(crystal):
    x = crystal.positions.reshape(crystal.z, -1, 3)
    return np.linalg.norm(x[:, :, None] - x[:, None], axis=-1)


def test_grown_keeps_molecules_and_fractional_centroids():
    crystal = a_crystal(0)
    big = grown(crystal, 1.2)
    assert big.volume == pytest.approx(1.2**3 * crystal.volume)
    assert rigid_distances(big) == pytest.approx(rigid_distances(crystal), abs=1e-9)
    for c in (crystal, big):
        centroids = c.fractional.reshape(c.z, -1, 3).mean(axis=1)
        if c is crystal:
            base = centroids
    assert centroids == pytest.approx(base, abs=1e-9)
    assert grown(crystal, 1.0).positions == pytest.approx(crystal.positions, abs=1e-12)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.floats(0.3, 0.9), st.sampled_from([0.8, 1.5, 3.0]))
def test_growth_is_the_smallest(seed, ratio, size):
    crystal = a_crystal(seed, size=size)
    result = separate_molecules(crystal, ratio, max_growth=1.6)
    # Brute force: the first factor on a fine grid where no heavy atoms are too close.
    grid = np.arange(1.0, 1.6, 0.004)
    free = [s for s in grid if min_contact_ratio(grown(crystal, s), heavy_only=True).ratio >= ratio]
    if result is None:
        assert not free
        return
    assert min_contact_ratio(result.crystal, heavy_only=True).ratio >= ratio * (1 - 1e-6)
    assert all(s >= result.growth - 1e-6 for s in free)
    if result.growth > 1.0:
        before = grown(crystal, result.growth * (1 - 1e-6))
        assert min_contact_ratio(before, heavy_only=True).ratio < ratio
    assert rigid_distances(result.crystal) == pytest.approx(rigid_distances(crystal), abs=1e-9)


def test_nothing_happens_without_overlap():
    cell = np.eye(3) * 12
    crystal = Crystal([6, 8, 6, 8], [[0, 0, 0], [1.2, 0, 0], [6, 6, 6], [7.2, 6, 6]], cell, 2)
    result = separate_molecules(crystal, 0.75, 0.5)
    assert result.growth == 1.0
    assert result.crystal is crystal


def test_known_growth_of_two_atoms_in_a_line():
    # Two one-atom molecules half a cell apart on a short axis: the gap grows with the cell.
    crystal = Crystal([6, 6], [[0, 0, 0], [2.0, 0, 0]], np.diag([4.0, 30, 30]), 2)
    result = separate_molecules(crystal, 0.75)
    assert result.growth == pytest.approx(0.75 * 2 * VDW_RADII[6] / 2.0, rel=1e-6)
    assert separate_molecules(crystal, 0.75, max_growth=1.2) is None


def test_molecules_on_the_same_place_cannot_be_parted():
    crystal = Crystal([6, 6], np.zeros((2, 3)), np.eye(3) * 9, 2)
    assert separate_molecules(crystal, 0.7, max_growth=100.0) is None


def test_interlocked_molecules_pass_through_each_other():
    # Two parallel rods of two atoms, pushed into each other along their axis: growing the cell
    # first brings an inner pair closer before the rods are apart.
    rods = np.array([[-3.0, 0, 0], [3.0, 0, 0]])
    positions = np.concatenate([rods, rods + np.array([1.0, 2.0, 0])]) + 20
    crystal = Crystal([6] * 4, positions, np.diag([40.0, 40, 40]), 2)
    result = separate_molecules(crystal, 0.75, max_growth=2.0)
    ratios = [min_contact_ratio(grown(crystal, s)).ratio for s in np.linspace(1, 2, 101)]
    first = next(s for s, r in zip(np.linspace(1, 2, 101), ratios, strict=True) if r >= 0.75)
    assert first - 0.01 <= result.growth <= first + 1e-9


def test_hydrogens_have_their_own_threshold():
    cell = np.diag([30.0, 30, 30])
    positions = [[0, 0, 0], [1.0, 0, 0], [3.6, 0, 0], [2.0, 0, 0]]
    crystal = Crystal([6, 1, 6, 1], positions, cell, 2)  # H...H 1.0 Å, C...C 3.6 Å
    assert separate_molecules(crystal, 0.7, 0.0).growth == 1.0
    result = separate_molecules(crystal, 0.7, 0.5, max_growth=2.0)
    h = result.crystal.positions[[1, 3]]
    assert np.linalg.norm(h[1] - h[0]) == pytest.approx(1.2, rel=1e-6)
