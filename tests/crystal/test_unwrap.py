"""Whole molecules: golden data of the published code, and molecules found from distances."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from packflow_core.crystal.lattice import parameters_to_cell
from packflow_core.crystal.unwrap import (
    connect_molecules,
    find_bonds,
    mean_centred,
    place_whole_molecules,
    unwrap_molecules,
    wrap,
)

GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "unwrap.npz"
ACETIC = np.array(  # C C O O and hydrogens, Å
    [
        [0.00, 0.00, 0.00], [1.50, 0.00, 0.00], [2.14, 1.04, 0.00], [2.08, -1.21, 0.00],
        [-0.36, 1.03, 0.00], [-0.36, -0.51, 0.89], [-0.36, -0.51, -0.89], [3.05, -1.12, 0.00],
    ]
)  # fmt: skip
ACETIC_NUMBERS = np.array([6, 6, 8, 8, 1, 1, 1, 1])


@pytest.mark.parametrize("case", ["benzene_ortho", "acetic_tric"])
def test_golden_unwrapping(case):
    with np.load(GOLDEN) as data:
        golden = {k.split("/")[1]: v for k, v in data.items() if k.startswith(case)}
    whole = unwrap_molecules(golden["frac_wrapped"], golden["edge_index"].T)
    assert whole == pytest.approx(golden["whole_frac"], abs=1e-5)
    positions = mean_centred(whole @ parameters_to_cell(golden["lattice"]))
    assert positions == pytest.approx(golden["whole_cartesian_coords"], abs=1e-4)
    # Molecules that are whole already get the same place.
    z = 4
    assert place_whole_molecules(golden["whole_frac"], z) == pytest.approx(whole, abs=1e-5)


def test_wrap_stays_below_one():
    folded = wrap([-1e-20, 1.0, 2.25, -0.25, -1e-9])
    assert (folded < 1).all()
    assert folded == pytest.approx([0.0, 0.0, 0.25, 0.75, 1 - 1e-9])


def crystal_of_acid(seed, z=2, hydrogens=True):
    """Randomly turned molecules on a loose grid in a triclinic cell, fractional coordinates."""
    rng = np.random.default_rng(seed)
    cell = parameters_to_cell((9.0, 10.0, 9.0 * z, 80.0, 105.0, 95.0))
    keep = slice(None) if hydrogens else slice(0, 4)
    molecules = []
    for k in range(z):
        turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
        place = np.array([*rng.random(2), (k + 0.5) / z]) @ cell
        molecules.append((ACETIC[keep] - ACETIC.mean(axis=0)) @ turn + place)
    frac = np.concatenate(molecules) @ np.linalg.inv(cell)
    return np.tile(ACETIC_NUMBERS[keep], z), frac, cell


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10**6), st.booleans())
def test_cut_molecules_are_found_again(seed, hydrogens):
    numbers, frac, cell = crystal_of_acid(seed, hydrogens=hydrogens)
    shuffle = np.random.default_rng(seed).permutation(len(numbers))
    found = connect_molecules(numbers[shuffle], wrap(frac)[shuffle], cell)
    assert not found.infinite
    assert found.n_molecules == 2
    n = len(numbers) // 2
    labels = np.empty(len(numbers), dtype=int)
    labels[shuffle] = found.molecule
    assert len({tuple(labels[k * n : (k + 1) * n]) for k in range(2)}) == 2
    assert all(len(set(labels[k * n : (k + 1) * n])) == 1 for k in range(2))
    # Inside a molecule every distance is that of the molecule; the place is canonical.
    whole = np.empty_like(frac)
    whole[shuffle] = found.frac
    for k in range(2):
        rows = slice(k * n, (k + 1) * n)
        moved = (whole - frac)[rows]
        assert moved == pytest.approx(np.rint(moved[:1]).repeat(n, axis=0), abs=1e-9)
        away = np.linalg.norm(whole[rows] - whole[rows].mean(axis=0), axis=1)
        central = whole[rows][np.argmin(away)]
        assert (central >= 0).all()
        assert (central < 1).all()


def test_canonical_place_does_not_depend_on_the_order_or_the_images():
    numbers, frac, cell = crystal_of_acid(5)
    rng = np.random.default_rng(0)
    base = connect_molecules(numbers, frac, cell).frac
    shuffle = rng.permutation(len(numbers))
    images = frac + rng.integers(-2, 3, size=frac.shape)
    again = connect_molecules(numbers[shuffle], images[shuffle], cell).frac
    assert again == pytest.approx(base[shuffle], abs=1e-9)
    assert place_whole_molecules(base, 2) == pytest.approx(base, abs=1e-12)


def test_short_hydrogen_bond_joins_nothing():
    cell = np.eye(3) * 12
    positions = np.array([[0, 0, 0], [1.10, 0, 0], [2.40, 0, 0]])  # O-H...O, 1.10 and 1.30 Å
    bonds, shifts = find_bonds([8, 1, 8], positions / 12, cell)
    assert bonds.tolist() == [[0, 1]]
    assert shifts.tolist() == [[0, 0, 0]]


def test_bonds_carry_the_shift_of_the_image():
    cell = np.diag([5.0, 8.0, 8.0])
    positions = np.array([[0.2, 4, 4], [4.0, 4, 4]])  # bonded through the face
    bonds, shifts = find_bonds([6, 8], positions @ np.linalg.inv(cell), cell)
    assert bonds.tolist() == [[0, 1]]
    assert shifts.tolist() == [[-1, 0, 0]]


def test_a_chain_without_end_is_told():
    cell = np.diag([2.5, 9.0, 9.0])
    frac = np.array([[0.0, 0.5, 0.5], [0.5, 0.55, 0.5]])
    assert connect_molecules([6, 6], frac, cell).infinite
    alone = connect_molecules([6], frac[:1], np.diag([1.5, 9, 9]))
    assert alone.infinite


def test_atoms_without_bonds_are_molecules():
    found = connect_molecules([8, 8], [[0.1, 0.1, 0.1], [0.6, 0.6, 1.6]], np.eye(3) * 6)
    assert found.n_molecules == 2
    assert found.frac == pytest.approx(np.array([[0.1] * 3, [0.6] * 3]))
