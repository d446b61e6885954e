"""Neighbour search against ASE, contacts against a plain double loop."""

import itertools

import numpy as np
import pytest
from ase.neighborlist import neighbor_list
from hypothesis import given, settings
from hypothesis import strategies as st

from packflow_core.chem.elements import COVALENT_RADII, VDW_RADII
from packflow_core.crystal.contacts import (
    bond_errors,
    bond_lengths,
    bond_statistics,
    clashing_atoms,
    intermolecular_pairs,
    min_contact_ratio,
    neighbour_pairs,
)
from packflow_core.crystal.crystal import Crystal
from packflow_core.crystal.lattice import is_valid_parameters, parameters_to_cell

angles = st.floats(45.0, 135.0)
parameters = st.tuples(*[st.floats(3.0, 12.0)] * 3, angles, angles, angles).filter(
    lambda p: is_valid_parameters(p) and np.linalg.det(parameters_to_cell(p)) > 20.0
)


def a_crystal(p, seed, z=2, n=3):
    rng = np.random.default_rng(seed)
    cell = parameters_to_cell(p)
    centres = (rng.random((z, 1, 3)) * 6 - 3) @ cell
    positions = centres + rng.normal(size=(z, n, 3))
    return Crystal(np.tile([6, 53, 1][:n], z), positions.reshape(-1, 3), cell, z)


@settings(deadline=None, max_examples=40)
@given(parameters, st.integers(0, 10**6), st.floats(1.0, 6.0))
def test_pairs_are_those_of_ase(p, seed, cutoff):
    crystal = a_crystal(p, seed)
    pairs = neighbour_pairs(crystal.positions, crystal.cell, cutoff)
    i, j, shift, distance = neighbor_list("ijSd", crystal.to_ase(), cutoff + 1e-9)
    ours = sorted(zip(pairs.i, pairs.j, *pairs.shift.T, strict=True))
    theirs = sorted(zip(i, j, *shift.T, strict=True))
    assert ours == theirs
    assert np.sort(pairs.distance) == pytest.approx(np.sort(distance), abs=1e-9)
    vectors = crystal.positions[pairs.j] + pairs.shift @ crystal.cell - crystal.positions[pairs.i]
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(pairs.distance, abs=1e-9)


def plain_contacts(crystal, heavy_only, reach=4):
    """Every contact between molecules, one by one."""
    radii, molecule = VDW_RADII[crystal.numbers], crystal.molecule_index
    atoms = [k for k in range(len(crystal)) if not heavy_only or crystal.numbers[k] > 1]
    for shift in itertools.product(range(-reach, reach + 1), repeat=3):
        for i, j in itertools.product(atoms, atoms):
            if molecule[i] == molecule[j] and not any(shift):
                continue
            step = crystal.positions[j] + np.array(shift) @ crystal.cell - crystal.positions[i]
            d = np.linalg.norm(step)
            yield d / (radii[i] + radii[j]), d, i, j


@pytest.mark.parametrize("heavy_only", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_min_contact_is_that_of_a_double_loop(seed, heavy_only):
    # Molecules are near the cell here, so the loop's reach suffices.
    crystal = a_crystal((6.0, 7.0, 5.0, 75.0, 105.0, 80.0), seed).wrapped()
    found = min_contact_ratio(crystal, heavy_only)
    ratio, distance, _, _ = min(plain_contacts(crystal, heavy_only))
    assert found.ratio == pytest.approx(ratio, rel=1e-9)
    assert found.distance == pytest.approx(distance, rel=1e-9)
    assert found.i <= found.j
    radii = VDW_RADII[crystal.numbers[[found.i, found.j]]].sum()
    assert found.distance == pytest.approx(found.ratio * radii)
    if heavy_only:
        assert (crystal.numbers[[found.i, found.j]] > 1).all()


def test_contact_of_a_molecule_with_its_own_image():
    crystal = Crystal([6], [[7.0, -3.0, 1.0]], np.diag([3.4, 20, 30]), 1)
    found = min_contact_ratio(crystal)
    assert found == pytest.approx((1.0, 0, 0, 3.4))


def test_contact_farther_than_touching_is_exact():
    crystal = Crystal([6, 1], [[0, 0, 0], [1.1, 0, 0]], np.eye(3) * 20, 1)
    assert min_contact_ratio(crystal) == pytest.approx((20 / 3.4, 0, 0, 20.0))
    lone = Crystal([1, 6], [[0, 0, 0], [1.1, 0, 0]], np.diag([8.0, 40, 40]), 1)
    assert min_contact_ratio(lone).ratio == pytest.approx(8 / 3.4)
    assert min_contact_ratio(lone, heavy_only=True) == pytest.approx((8 / 3.4, 1, 1, 8.0))


def test_contacts_do_not_depend_on_the_description():
    crystal = a_crystal((6.0, 7.0, 5.0, 75.0, 105.0, 80.0), 7)
    skew = np.array([[1, 0, 0], [2, 1, 0], [-1, 1, 1]]) @ crystal.cell
    shifted = crystal.with_positions(crystal.positions + np.array([1.0, -20.0, 3.0]))
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    turn *= np.sign(np.linalg.det(turn))
    turned = crystal.with_positions(crystal.positions @ turn, crystal.cell @ turn)
    base = min_contact_ratio(crystal).ratio
    for other in (crystal.with_positions(crystal.positions, skew), shifted, turned,
                  crystal.repeated((1, 2, 1)), crystal.wrapped()):  # fmt: skip
        assert min_contact_ratio(other).ratio == pytest.approx(base, rel=1e-9)


def test_intermolecular_pairs_of_heavy_atoms_keep_their_indices():
    crystal = a_crystal((6.0, 7.0, 5.0, 75.0, 105.0, 80.0), 1)
    every = intermolecular_pairs(crystal, 5.0)
    heavy = intermolecular_pairs(crystal, 5.0, heavy_only=True)
    keep = (crystal.numbers[every.i] > 1) & (crystal.numbers[every.j] > 1)
    expected = sorted(zip(every.i[keep], every.j[keep], *every.shift[keep].T, strict=True))
    assert sorted(zip(heavy.i, heavy.j, *heavy.shift.T, strict=True)) == expected
    assert 0 < len(expected) < len(every.i)


def test_clash_is_strict_and_between_molecules_only():
    limit = 0.75 * 2 * COVALENT_RADII[6]
    cell = np.eye(3) * 15
    for gap, clash in ((limit + 1e-9, False), (limit - 1e-9, True)):
        numbers, positions = [6, 6, 6, 6], [[0, 0, 0], [0, 0.5, 0], [gap, 0, 0], [9, 0, 0]]
        crystal = Crystal(numbers, positions, cell, 2)
        assert clashing_atoms(crystal).tolist() == [clash, False, clash, False]


def test_clash_with_hydrogens_left_out():
    crystal = Crystal(
        [6, 1, 6, 1], [[0, 0, 0], [1, 0, 0], [2, 0, 0], [1.2, 0, 0]], np.eye(3) * 9, 2
    )
    assert clashing_atoms(crystal).tolist() == [False, True, False, True]
    assert not clashing_atoms(crystal, heavy_only=True).any()


def test_flat_cell_is_an_error_not_a_hang():
    crystal = Crystal([6, 6], np.zeros((2, 3)), np.diag([10, 10, 1e-6]), 2)
    with pytest.raises(ValueError, match="too flat"):
        min_contact_ratio(crystal)


def test_bond_errors_are_signed_and_tiled():
    r = COVALENT_RADII
    one, two = r[6] + r[8] + 0.1, r[6] + r[8] - 0.45
    positions = [[0, 0, 0], [one, 0, 0], [5, 5, 5], [5, 5 + two, 5]]
    crystal = Crystal([6, 8, 6, 8], positions, np.eye(3) * 12, 2)
    bonds = np.array([[0, 1]])
    assert bond_lengths(crystal, bonds) == pytest.approx(np.array([[one], [two]]))
    errors = bond_errors(crystal, bonds)
    assert errors == pytest.approx(np.array([[0.1], [-0.45]]))
    assert bond_statistics(errors) == pytest.approx((0.5, 0.45))
    assert bond_statistics(errors, tolerance=0.5)[0] == 1.0
    assert bond_statistics(np.empty((2, 0))) == (1.0, 0.0)
