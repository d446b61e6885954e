"""Rigid-body relief of overlaps: exact gradient, rigid molecules, room for everybody."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from packflow_core.chem.conformers import conformer_pool
from packflow_core.chem.elements import VDW_RADII
from packflow_core.chem.hydrogens import add_hydrogens
from packflow_core.chem.molecule import Molecule
from packflow_core.crystal.contacts import intermolecular_pairs
from packflow_core.crystal.crystal import Crystal
from packflow_core.crystal.lattice import parameters_to_cell
from packflow_core.crystal.relieve import (
    RigidPacking,
    left_jacobians,
    relieve_overlaps,
    rotation_matrices,
)
from packflow_core.crystal.separate import separate_molecules

RIGID = Molecule.from_smiles("O=[N+]([O-])c1cc(Cl)c(Cl)cc1[N+](=O)[O-]")
ANGLES = (75.0, 100.0, 110.0)


def random_packing(seed, z, per_atom=16.0, molecule=RIGID):
    """Molecules thrown into a cell of the volume a real crystal would have."""
    rng = np.random.default_rng(seed)
    heavy = conformer_pool(molecule).heavy[0]
    shape = parameters_to_cell((*rng.uniform(0.8, 1.25, 3), *ANGLES))
    volume = per_atom * molecule.n_heavy * z
    cell = shape * (volume / np.linalg.det(shape)) ** (1 / 3)
    full = add_hydrogens(np.stack([heavy] * z), molecule)
    turns = Rotation.random(z, random_state=seed).as_matrix()
    placed = full @ turns + (rng.uniform(-1, 2, (z, 1, 3)) @ cell)
    return Crystal(np.tile(molecule.numbers_h, z), placed.reshape(-1, 3), cell, z)


def rigid_distances(crystal):
    x = crystal.positions.reshape(crystal.z, -1, 3)
    return np.linalg.norm(x[:, :, None] - x[:, None], axis=-1)


def worst_overlap(crystal, heavy=0.7, hydrogen=0.5):
    """Largest amount in Å by which a contact is too short, from the pair list alone."""
    pairs = intermolecular_pairs(crystal, 4.0)
    radii, is_heavy = VDW_RADII[crystal.numbers], crystal.heavy
    factor = np.where(is_heavy[pairs.i] & is_heavy[pairs.j], heavy, hydrogen)
    return (factor * (radii[pairs.i] + radii[pairs.j]) - pairs.distance).max(initial=-np.inf)


def plain_energy(crystal, margin, heavy=0.7, hydrogen=0.5):
    pairs = intermolecular_pairs(crystal, 6.0)
    radii, is_heavy = VDW_RADII[crystal.numbers], crystal.heavy
    factor = np.where(is_heavy[pairs.i] & is_heavy[pairs.j], heavy, hydrogen) * (1 + margin)
    missing = np.maximum(factor * (radii[pairs.i] + radii[pairs.j]) - pairs.distance, 0.0)
    return 0.25 * (missing**2).sum()  # pairs come twice


def generic_point(problem, seed):
    rng = np.random.default_rng(seed)
    x = problem.start()
    x[:-6] += rng.normal(scale=0.7, size=len(x) - 6)
    x[-6:] = rng.uniform(-0.08, 0.12, 6) * problem.length
    return x


@settings(deadline=None, max_examples=15)
@given(st.lists(st.floats(-5, 5), min_size=3, max_size=3), st.floats(-1, 1), st.integers(0, 99))
def test_rotations_and_their_jacobian(vector, scale, seed):
    v = np.array([vector]) * 10.0 ** (6 * min(scale, 0))
    assert rotation_matrices(v)[0] == pytest.approx(
        Rotation.from_rotvec(v[0]).as_matrix(), abs=1e-9
    )
    step = np.random.default_rng(seed).normal(size=3) * 1e-5
    both = [Rotation.from_rotvec(v[0] + sign * step) for sign in (1, -1)]
    turn = (both[0] * both[1].inv()).as_rotvec()
    assert turn == pytest.approx(left_jacobians(v)[0] @ (2 * step), abs=1e-12)


@pytest.mark.parametrize("stiffness", [0.0, 0.3])
@pytest.mark.parametrize(("z", "per_atom"), [(1, 9.0), (2, 14.0), (4, 16.0)])
def test_gradient_is_that_of_the_energy(z, per_atom, stiffness):
    problem = RigidPacking(random_packing(z, z, per_atom), 0.8, 0.6, 0.05)
    x = generic_point(problem, seed=z)
    energy, gradient = problem.energy(x, stiffness)
    assert energy > 1.0
    steps = np.eye(len(x)) * 1e-5
    numeric = [
        (problem.energy(x + s, stiffness)[0] - problem.energy(x - s, stiffness)[0]) / 2e-5
        for s in steps
    ]
    kinds = [slice(0, 3 * z), slice(3 * z, 6 * z), slice(6 * z, 6 * z + 3), slice(6 * z + 3, None)]
    for kind in kinds:
        if z > 1 or kind.start > 0:  # one molecule alone has nothing to shift against
            assert np.abs(gradient[kind]).max() > 0.05
        assert gradient[kind] == pytest.approx(np.array(numeric)[kind], abs=2e-5, rel=2e-5)
    if z == 1:
        assert gradient[:3] == pytest.approx(np.zeros(3), abs=1e-9)


def test_energy_is_that_of_the_crystal_wherever_the_list_was_made():
    # One problem walks far, with its list of neighbours; a plain sum over pairs is the judge.
    crystal = random_packing(3, 4)
    problem = RigidPacking(crystal, 0.7, 0.5, 0.06)
    rng = np.random.default_rng(0)
    x = problem.start()
    assert problem.energy(x)[0] == pytest.approx(plain_energy(crystal, 0.06))
    for _ in range(40):
        x[:-6] += rng.normal(scale=0.15, size=len(x) - 6)
        x[-6:] = np.clip(x[-6:] + rng.normal(scale=0.015, size=6) * problem.length, -2.0, 3.0)
        assert problem.energy(x)[0] == pytest.approx(plain_energy(problem.crystal_at(x), 0.06))


def test_energy_knows_no_frame_origin_or_choice_of_cell():
    crystal = random_packing(5, 2)
    turn = Rotation.random(random_state=1).as_matrix()
    cells = np.array([[1, 0, 0], [1, 1, 0], [0, -1, 1]])
    shifts = np.repeat([[2, -1, 0], [0, 3, 1]], len(crystal) // 2, axis=0)
    x0 = crystal.positions
    others = [
        crystal.with_positions(x0 @ turn, crystal.cell @ turn),
        crystal.with_positions(x0 + np.array([3.0, -7.0, 1.0])),
        crystal.with_positions(x0 + shifts @ crystal.cell),
        crystal.with_positions(x0, cells @ crystal.cell),
    ]
    first = RigidPacking(crystal, 0.7, 0.5, 0.06)
    energy, gradient = first.energy(first.start(), 0.1)
    size = np.linalg.norm(gradient)
    for other in others:
        problem = RigidPacking(other, 0.7, 0.5, 0.06)
        e, g = problem.energy(problem.start(), 0.1)
        assert e == pytest.approx(energy, rel=1e-9)
        assert np.linalg.norm(g) == pytest.approx(size, rel=1e-8)
        out = relieve_overlaps(other)
        assert out.residual_A == 0.0
        assert out.volume_ratio < 1.1


@pytest.mark.parametrize("z", [2, 4])
def test_random_packings_find_room_in_their_cell(z):
    packings = [random_packing(seed, z) for seed in range(8)]
    before = [worst_overlap(c) for c in packings]
    assert np.median(before) > 1.0
    results = [relieve_overlaps(c) for c in packings]
    grown = [separate_molecules(c, 0.7, 0.5, 1.35) for c in packings]
    assert sum(g is not None for g in grown) <= 4  # what growth alone would have made of them
    for crystal, result in zip(packings, results, strict=True):
        out = result.crystal
        assert rigid_distances(out) == pytest.approx(rigid_distances(crystal), abs=1e-9)
        assert (out.numbers == crystal.numbers).all()
        assert out.volume == pytest.approx(result.volume_ratio * crystal.volume)
        assert result.residual_A == pytest.approx(max(worst_overlap(out), 0.0), abs=1e-6)
        for a, b in zip(
            crystal.positions.reshape(z, -1, 3), out.positions.reshape(z, -1, 3), strict=True
        ):  # turned, never mirrored
            fit = (a - a.mean(0)).T @ (b - b.mean(0))
            u, _, v = np.linalg.svd(fit)
            turn = u @ v if np.linalg.det(u @ v) > 0 else u @ np.diag([1, 1, -1]) @ v
            assert (a - a.mean(0)) @ turn == pytest.approx(b - b.mean(0), abs=1e-6)
    assert sum(r.residual_A == 0.0 for r in results) >= 7
    ratios = [r.volume_ratio for r in results]
    assert np.median(ratios) < 1.02
    assert max(ratios) < 1.3
    assert min(ratios) > 0.95


def test_a_cell_too_small_grows_no_more_than_it_must():
    crystal = random_packing(1, 2, per_atom=6.0)
    result = relieve_overlaps(crystal)
    assert result.residual_A == 0.0
    assert 1.05 < result.volume_ratio < 1.7
    # Without the margin the room would not do any longer: contacts sit at their limits.
    assert worst_overlap(result.crystal) > -0.2
    confined = relieve_overlaps(crystal, max_growth=1.0)
    assert confined.volume_ratio <= 1.0 + 1e-9
    assert confined.residual_A > 0.0


def test_shift_and_turn_are_those_of_the_molecules():
    crystal = random_packing(4, 4)
    result = relieve_overlaps(crystal)
    old, new = (c.positions.reshape(4, -1, 3) for c in (crystal, result.crystal))
    turns = [
        Rotation.align_vectors(b - b.mean(0), a - a.mean(0))[0].magnitude()
        for a, b in zip(old, new, strict=True)
    ]
    assert result.max_rotation_deg == pytest.approx(np.degrees(max(turns)), abs=1e-3)
    strain = np.linalg.solve(crystal.cell, result.crystal.cell)
    assert strain == pytest.approx(strain.T, abs=1e-9)  # the cell strains and does not turn
    moved = new.mean(axis=1) @ np.linalg.inv(strain) - old.mean(axis=1)
    assert result.max_shift_A == pytest.approx(np.linalg.norm(moved, axis=1).max(), abs=1e-9)


def test_nothing_happens_without_overlap():
    crystal = random_packing(0, 2, per_atom=400.0)
    assert worst_overlap(crystal) < 0
    result = relieve_overlaps(crystal)
    assert result.crystal is crystal
    assert (result.max_shift_A, result.max_rotation_deg, result.volume_ratio) == (0.0, 0.0, 1.0)
    assert (result.n_evaluations, result.residual_A) == (0, 0.0)


def test_same_input_same_output():
    crystal = random_packing(2, 4)
    first = relieve_overlaps(crystal)
    relieve_overlaps(random_packing(3, 2))
    again = relieve_overlaps(crystal)
    assert (first.crystal.positions == again.crystal.positions).all()
    assert (first.crystal.cell == again.crystal.cell).all()


def test_molecules_on_the_same_place_part():
    # Every atom coincides with one of the other molecule: no contact has a direction.
    crystal = random_packing(0, 2, per_atom=30.0)
    half = crystal.positions[: len(crystal) // 2]
    crystal = crystal.with_positions(np.concatenate([half, half]))
    problem = RigidPacking(crystal, 0.7, 0.5, 0.06)
    energy, gradient = problem.energy(problem.start())
    assert energy > 1.0
    assert np.isfinite(gradient).all()
    result = relieve_overlaps(crystal)
    assert result.residual_A == 0.0
    assert result.volume_ratio < 1.1


def test_hydrogens_can_be_left_out():
    cell = np.eye(3) * 30.0
    positions = [[0, 0, 0], [1.0, 0, 0], [3.6, 0, 0], [2.4, 0, 0]]
    crystal = Crystal([6, 1, 6, 1], positions, cell, 2)  # H...H 1.4 Å, C...C 3.6 Å
    assert relieve_overlaps(crystal, min_contact_hydrogen=0.0).crystal is crystal
    out = relieve_overlaps(crystal, min_contact_hydrogen=0.7).crystal
    assert worst_overlap(crystal, hydrogen=0.7) == pytest.approx(0.28)
    assert worst_overlap(out, hydrogen=0.7) <= 1e-9


def test_flat_cells_come_back():
    crystal = Crystal([6, 6], [[0, 0, 0], [1, 0, 0]], np.diag([50.0, 50.0, 0.5]), 2)
    result = relieve_overlaps(crystal)
    assert result.crystal is crystal
    assert result.note
    assert result.residual_A > 0
