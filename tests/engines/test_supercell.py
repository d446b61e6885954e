import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from packflow_core.crystal.crystal import Crystal
from packflow_core.crystal.lattice import heights
from packflow_core.engines.base import EngineError
from packflow_core.engines.supercell import supercell
from packflow_core.store.schema import Reason

CELL = np.array([[4.1, 0.0, 0.0], [0.7, 7.3, 0.0], [-0.9, 1.1, 12.5]])
MOLECULE = np.array([[0.0, 0.0, 0.0], [1.1, 0.2, 0.1], [-0.6, 0.9, 0.3]])
UNIMODULAR = [
    np.eye(3, dtype=int),
    np.array([[1, 0, 0], [1, 1, 0], [0, 0, 1]]),
    np.array([[1, 2, 0], [0, 1, -1], [0, 0, 1]]),
    np.array([[0, 1, 0], [0, 0, 1], [1, 0, 0]]),
    np.array([[-1, 0, 0], [3, -1, 0], [0, 2, 1]]),
]


def crystal(seed=0, z=3, cell=CELL):
    rng = np.random.default_rng(seed)
    turns = Rotation.random(z, random_state=rng).as_matrix()
    places = rng.random((z, 1, 3)) @ cell
    return Crystal(np.tile([8, 1, 1], z), (MOLECULE @ turns + places).reshape(-1, 3), cell, z)


def distances(c, cutoff=5.0):
    """Sorted distances from each atom, so that atom orders can be compared."""
    from packflow_core.crystal.contacts import neighbour_pairs

    pairs = neighbour_pairs(c.positions, c.cell, cutoff)
    return [np.sort(pairs.distance[pairs.i == i]) for i in range(len(c))]


@pytest.mark.parametrize("height", [1.0, 6.5, 9.0])
def test_the_supercell_is_the_same_crystal_with_large_heights(height):
    small = crystal()
    map_ = supercell(small, height, 10_000)
    big = map_.expand(small)
    assert heights(big.cell).min() >= height - 1e-9
    assert map_.copies == np.prod(map_.replicas)
    assert big.volume == pytest.approx(small.volume * map_.copies)
    assert big.z == small.z * map_.copies
    before = distances(small)
    for i, found in enumerate(distances(big)):
        np.testing.assert_allclose(found, before[i % len(small)], atol=1e-9)


def test_replicas_are_no_more_than_needed():
    assert supercell(crystal(), 6.5, 10_000).replicas == (2, 1, 1)
    assert supercell(crystal(), 4.0, 10_000).replicas == (1, 1, 1)
    assert supercell(crystal(), 12.7, 10_000).copies == 4 * 2 * 2


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 5),
    turn=st.sampled_from(UNIMODULAR),
    shift=st.tuples(*[st.floats(-20, 20)] * 3),
    images=st.integers(0, 1000),
)
def test_molecules_lie_inside_whatever_cell_and_images_were_given(seed, turn, shift, images):
    base = crystal(seed)
    rng = np.random.default_rng(images)
    hops = np.repeat(rng.integers(-3, 4, (base.z, 3)), 3, axis=0) @ base.cell
    cell = turn @ base.cell
    if np.linalg.det(cell) < 0:
        cell = -cell
    moved = Crystal(base.numbers, base.positions + shift + hops, cell, base.z)
    map_ = supercell(moved, 6.5, 10_000)
    big = map_.expand(moved)
    centroids = big.positions.reshape(big.z, -1, 3).mean(axis=1) @ np.linalg.inv(big.cell)
    assert np.ptp(centroids, axis=0).max() < 1.0
    # The same numbers as from the original cell: contents do not depend on how it was described.
    plain = supercell(base, 6.5, 10_000)
    assert sorted(map_.replicas) == sorted(plain.replicas)
    for i, found in enumerate(distances(big)[: len(base)]):
        np.testing.assert_allclose(found, distances(base)[i], atol=1e-8)


def test_a_molecule_on_the_border_stays_on_one_side():
    # Both molecules on cell faces: rounding noise decides nothing.
    cell = np.eye(3) * 8.0
    centred = MOLECULE - MOLECULE.mean(axis=0)
    places = np.array([[0.0, 0.0, 0.0], [4.0, 4.0, 4.0]])
    for noise in (1e-13, -1e-13):
        positions = (centred[None] + places[:, None] + noise).reshape(-1, 3)
        map_ = supercell(Crystal(np.tile([8, 1, 1], 2), positions, cell, 2), 6.5, 100)
        big = map_.expand(Crystal(np.tile([8, 1, 1], 2), positions, cell, 2))
        centroids = big.positions.reshape(2, 3, 3).mean(axis=1)
        np.testing.assert_allclose(np.abs(centroids[1] - centroids[0]), 4.0, atol=1e-9)


def test_the_map_follows_a_deformation():
    start = crystal()
    map_ = supercell(start, 6.5, 10_000)
    strain = np.eye(3) + np.random.default_rng(1).normal(0, 0.05, (3, 3))
    strained = Crystal(start.numbers, start.positions @ strain, start.cell @ strain, start.z)
    np.testing.assert_allclose(
        map_.expand(strained).positions, map_.expand(start).positions @ strain, atol=1e-9
    )


def test_folding_is_the_derivative_of_the_energy_per_cell():
    start = crystal()
    map_ = supercell(start, 6.5, 10_000)
    anchors = np.random.default_rng(2).normal(0, 1, (len(start) * map_.copies, 3))

    def energy(positions):
        delta = map_.positions(positions, start.cell) - anchors
        return 0.5 * (delta**2).sum() / map_.copies, -delta

    force = map_.fold(energy(start.positions)[1])
    step = np.zeros_like(start.positions)
    step[4, 1] = 1e-4
    slope = (energy(start.positions + step)[0] - energy(start.positions - step)[0]) / 2e-4
    assert -slope == pytest.approx(force[4, 1], rel=1e-8)


@pytest.mark.parametrize(
    ("cell", "height", "atoms", "message"),
    [
        (np.diag([1.5, 9.0, 9.0]), 6.5, 10_000, "height 1.50"),
        (np.array([[9.0, 0, 0], [8.99, 0.1, 0], [0, 0, 9.0]]), 6.5, 10_000, "height"),
        (CELL, 30.0, 100, "more than 100"),
    ],
)
def test_degenerate_cells_are_refused(cell, height, atoms, message):
    with pytest.raises(EngineError, match=message) as caught:
        supercell(crystal(cell=cell), height, atoms)
    assert caught.value.reason == Reason.BAD_CELL
