"""Descriptors of batches against those of single crystals, and odd crystals among sound ones."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from packflow_core.analysis import metrics
from packflow_core.crystal.crystal import Crystal
from packflow_core.crystal.lattice import parameters_to_cell
from packflow_core.evaluation.descriptors import describe


def random_cell(rng):
    while True:
        cell = parameters_to_cell([*rng.uniform(4, 12, 3), *rng.uniform(55, 125, 3)])
        if np.isfinite(cell).all() and np.linalg.det(cell) > 80:
            return cell


def random_batch(seed, size=5, n=7):
    rng = np.random.default_rng(seed)
    numbers = rng.choice([5, 6, 7, 16, 53], n)
    cells = np.stack([random_cell(rng) for _ in range(size)])
    positions = rng.uniform(-2, 3, (size, n, 3)) @ cells
    return numbers, positions, cells


@settings(deadline=None, max_examples=12)
@given(st.integers(0, 10_000))
def test_a_batch_has_the_numbers_of_single_crystals(seed):
    numbers, positions, cells = random_batch(seed)
    found = describe(numbers, positions, cells)
    assert found.problem == [""] * len(cells)
    for b in range(len(cells)):
        crystal = Crystal(numbers, positions[b], cells[b])
        assert np.allclose(found.amd[b], metrics.amd(crystal), rtol=0, atol=1e-11)
        assert np.array_equal(found.rdf[b], metrics.rdf_counts(crystal))
        assert found.clash_percent[b] == metrics.clash_rate(crystal)
        assert found.volume[b] == pytest.approx(crystal.volume, rel=1e-14)


def test_company_changes_no_bit():
    numbers, positions, cells = random_batch(1, size=24)
    cells[3] = np.diag([4.0, 40.0, 9.0])
    together = describe(numbers, positions, cells)
    order = np.random.default_rng(0).permutation(24)
    shuffled = describe(numbers, positions[order], cells[order])
    for b in range(24):
        alone = describe(numbers, positions[b : b + 1], cells[b : b + 1])
        place = int(np.flatnonzero(order == b)[0])
        for name in ("amd", "rdf", "clash_percent", "volume"):
            values = getattr(together, name)[b]
            assert np.array_equal(values, getattr(alone, name)[0])
            assert np.array_equal(values, getattr(shuffled, name)[place])


def test_uneven_densities_still_have_their_hundred_neighbours():
    """A lump of atoms in a large cell: spheres of the mean density hold too few of them."""
    lump = np.array([[0, 0, 0], [1.4, 0, 0], [0, 1.4, 0], [0, 0, 1.4]], dtype=float)
    lone = np.array([[30.0, 30.0, 30.0]])
    crystal = Crystal([6] * 5, np.concatenate([lump, lone]), np.diag([38.0, 41.0, 44.0]))
    found = describe(crystal.numbers, crystal.positions[None], crystal.cell[None])
    assert np.allclose(found.amd[0], metrics.amd(crystal), rtol=0, atol=1e-9)
    gas = describe(np.array([6]), np.zeros((1, 1, 3)), np.diag([60.0, 61.0, 62.0])[None])
    assert gas.amd[0, 0] == pytest.approx(60.0)
    assert gas.rdf[0].sum() == 0


def test_molecules_several_cells_apart_are_the_same_crystal():
    numbers, positions, cells = random_batch(3, size=1, n=6)
    moved = positions.copy()
    moved[0, 3:] += np.array([4.0, -3.0, 2.0]) @ cells[0]
    near, far = describe(numbers, positions, cells), describe(numbers, moved, cells)
    assert np.allclose(near.amd, far.amd, rtol=0, atol=1e-10)
    assert np.array_equal(near.rdf, far.rdf)


def test_odd_crystals_have_a_problem_and_no_numbers():
    numbers, positions, cells = random_batch(4, size=6)
    cells[1] = np.diag([5.0, 1e-6, 5.0])
    cells[2] = -cells[2]
    positions[3, 0, 0] = np.nan
    cells[4, 0, 0] = np.inf
    found = describe(numbers, positions, cells)
    assert "collapsed" in found.problem[1]
    assert "no volume" in found.problem[2]
    assert "NaN" in found.problem[3]
    assert "NaN" in found.problem[4]
    for values in (found.amd, found.rdf, found.clash_percent, found.volume):
        assert np.isnan(values[1:5]).all()
        assert np.isfinite(values[[0, 5]]).all()
    whole = describe(numbers, positions[[0, 5]], cells[[0, 5]])
    assert np.array_equal(whole.amd, found.amd[[0, 5]])
    empty = describe(np.array([], dtype=int), np.empty((1, 0, 3)), cells[:1])
    assert "no atoms" in empty.problem[0]


def test_two_atoms_in_one_place_are_at_distance_zero():
    x = np.array([[[1.0, 1.0, 1.0], [1.0, 1.0, 1.0], [4.0, 4.0, 4.0]]])
    found = describe(np.array([6, 6, 6]), x, np.diag([8.0, 8.0, 8.0])[None])
    crystal = Crystal([6, 6, 6], x[0], np.diag([8.0, 8.0, 8.0]))
    assert found.clash_percent[0] == pytest.approx(200 / 3)
    assert found.rdf[0][0] == 2
    assert np.allclose(found.amd[0], metrics.amd(crystal), rtol=0, atol=1e-11)
