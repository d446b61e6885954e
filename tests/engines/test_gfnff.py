"""mcGFN-FF. Crystals that might crash the native library are evaluated in a worker."""

import gc
import os
import weakref
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from packflow_core.crystal.cif import read_cif
from packflow_core.crystal.crystal import Crystal, right_handed
from packflow_core.crystal.separate import grown
from packflow_core.engines import gfnff
from packflow_core.engines.base import EV_TO_KJ_MOL, EngineError
from packflow_core.engines.gfnff import GFNFFEngine
from packflow_core.errors import UserInputError
from packflow_core.store.schema import Reason
from packflow_core.workers import WorkerPool

DATA = Path(__file__).parents[1] / "data"
ENGINE = GFNFFEngine()


def urea():
    return read_cif(DATA / "urea.cif")


def benzene():
    return read_cif(DATA / "benzene.cif")


def triclinic(z=2, scale=1.0, seed=0):
    """Distorted urea molecules in a cell without any symmetry."""
    rng = np.random.default_rng(seed)
    source = urea()
    molecule = source.positions[:8] - source.positions[:8].mean(axis=0)
    cell = np.array([[7.2, 0.0, 0.0], [1.5, 7.0, 0.0], [-1.2, 1.8, 7.4]]) * scale
    turns = Rotation.random(z, random_state=rng).as_matrix()
    places = (0.1 + 0.5 * np.arange(z))[:, None, None] * np.ones(3) @ cell
    positions = (molecule @ turns + places).reshape(-1, 3)
    positions += rng.normal(0, 0.03, positions.shape)
    return Crystal(np.tile(source.numbers[:8], z), positions, cell, z)


def evaluate(crystal, min_height=gfnff.DEFAULT_MIN_HEIGHT):
    """Energy (kJ/mol per molecule), forces, stress; runs in a worker, too."""
    result = GFNFFEngine(min_height).evaluate([crystal])
    return (
        float(result.energies[0]) / crystal.z * EV_TO_KJ_MOL,
        result.forces,
        result.stress[0],
    )


def relative_to(crystal, other):
    mine, theirs = evaluate(crystal), evaluate(other)
    return [np.abs(a - b).max() for a, b in zip(mine, theirs, strict=True)]


@pytest.fixture(scope="module")
def pool():
    with WorkerPool(1) as shared:
        yield shared


# -- derivatives -------------------------------------------------------------------------------
@pytest.mark.parametrize("scale", [1.0, 0.93])  # in one cell, in 2 x 2 x 1 cells
def test_forces_and_stress_are_derivatives_of_the_energy(scale):
    crystal = triclinic(scale=scale)
    calculator = ENGINE.prepare(crystal)
    assert calculator.replicas == ((1, 1, 1) if scale == 1.0 else (2, 2, 1))
    _, forces, stress = calculator.compute(crystal.positions, crystal.cell)
    assert np.abs(forces).max() > 1.0

    h = 1e-4
    for atom in (0, 2, 5, 8, 11, 15) if scale == 1.0 else (3, 12):
        for axis in range(3):
            step = np.zeros_like(crystal.positions)
            step[atom, axis] = h
            plus = calculator.compute(crystal.positions + step, crystal.cell)[0]
            minus = calculator.compute(crystal.positions - step, crystal.cell)[0]
            assert -(plus - minus) / (2 * h) == pytest.approx(forces[atom, axis], abs=1e-5)

    def strained(i, j, size):
        strain = np.eye(3)
        strain[i, j] += size / 2
        strain[j, i] += size / 2
        return calculator.compute(crystal.positions @ strain, crystal.cell @ strain)[0]

    for i in range(3):
        for j in range(i, 3):
            slope = (strained(i, j, h) - strained(i, j, -h)) / (2 * h * crystal.volume)
            assert slope == pytest.approx(stress[i, j], abs=1e-5)  # 2e-3 GPa
    np.testing.assert_array_equal(stress, stress.T)


def test_forces_add_up_to_nothing():
    _, forces, _ = evaluate(triclinic())
    np.testing.assert_allclose(forces.sum(axis=0), 0.0, atol=1e-9)


def test_a_compressed_crystal_wants_to_expand():
    # ASE's sign: negative stress is compression.
    crystal = triclinic()
    assert np.trace(evaluate(grown(crystal, 0.9))[2]) < np.trace(evaluate(crystal)[2])
    assert np.trace(evaluate(grown(crystal, 0.9))[2]) < 0


# -- invariance --------------------------------------------------------------------------------
def test_translation_and_rotation_change_nothing():
    crystal = triclinic()
    moved = crystal.with_positions(crystal.positions + np.array([1.3, -7.7, 22.0]))
    assert max(relative_to(moved, crystal)) < 1e-8

    turn = Rotation.from_euler("xyz", [0.3, 1.2, -0.8]).as_matrix()
    turned = crystal.with_positions(crystal.positions @ turn, crystal.cell @ turn)
    energy, forces, stress = evaluate(crystal)
    turned_energy, turned_forces, turned_stress = evaluate(turned)
    assert turned_energy == pytest.approx(energy, abs=1e-7)
    np.testing.assert_allclose(turned_forces, forces @ turn, atol=1e-8)
    np.testing.assert_allclose(turned_stress, turn.T @ stress @ turn, atol=1e-8)


@pytest.mark.parametrize("make", [triclinic, benzene])
def test_images_of_molecules_change_nothing(make):
    # The library itself is tens of kJ/mol off when molecules lie two cells away.
    crystal = make()
    hops = np.random.default_rng(3).integers(-3, 4, (crystal.z, 3)) @ crystal.cell
    moved = crystal.with_positions(
        crystal.positions + np.repeat(hops, len(crystal) // crystal.z, axis=0)
    )
    assert max(relative_to(moved, crystal)) < 1e-7


@pytest.mark.parametrize(
    "turn",
    [
        [[1, 0, 0], [1, 1, 0], [0, 0, 1]],
        [[1, 2, 0], [0, 1, -1], [0, 0, 1]],
        [[0, 1, 0], [0, 0, 1], [1, 0, 0]],
        [[-1, 0, 0], [0, 1, 0], [0, 0, 1]],
    ],
)
def test_the_choice_of_the_cell_changes_nothing(turn):
    crystal = triclinic()
    cell = right_handed(np.array(turn) @ crystal.cell)
    other = Crystal(crystal.numbers, crystal.positions, cell, crystal.z)
    assert not np.allclose(other.cell, crystal.cell)
    assert max(relative_to(other, crystal)) < 1e-3


def test_the_order_of_molecules_changes_nothing():
    crystal = benzene()
    order = np.array([2, 0, 3, 1])
    shuffled = crystal.with_positions(crystal.positions.reshape(4, 12, 3)[order].reshape(-1, 3))
    energy, forces, stress = evaluate(crystal)
    other_energy, other_forces, other_stress = evaluate(shuffled)
    assert other_energy == pytest.approx(energy, abs=1e-7)
    np.testing.assert_allclose(
        other_forces.reshape(4, 12, 3), forces.reshape(4, 12, 3)[order], atol=1e-8
    )
    np.testing.assert_allclose(other_stress, stress, atol=1e-8)


def test_a_left_handed_input_has_the_same_energy_and_stress():
    crystal = triclinic()
    with pytest.raises(ValueError, match="right-handed"):
        Crystal(crystal.numbers, crystal.positions, -crystal.cell, crystal.z)
    turned = Crystal(crystal.numbers, crystal.positions, right_handed(-crystal.cell), crystal.z)
    assert max(relative_to(turned, crystal)) < 1e-9


@pytest.mark.parametrize("make", [urea, benzene])
def test_a_supercell_has_the_energy_of_its_cells(make):
    crystal = make()
    single = evaluate(crystal)
    # Urea is evaluated in 2 x 2 x 2 cells; benzene, large enough, in one.
    reps = (1, 1, 3) if make is urea else (2, 1, 1)
    double = evaluate(crystal.repeated(reps))
    assert double[0] == pytest.approx(single[0], abs=1.0)
    np.testing.assert_allclose(double[1][: len(crystal)], single[1], atol=0.05)
    np.testing.assert_allclose(double[2], single[2], atol=0.002)  # 0.3 GPa


def test_results_do_not_depend_on_the_batch_or_on_what_came_before():
    crystals = [triclinic(), triclinic(z=1), triclinic(seed=4)]
    together = ENGINE.evaluate(crystals)
    for k in (2, 0, 1):
        alone = ENGINE.evaluate([crystals[k]])
        assert alone.energies[0] == together.energies[k]
        np.testing.assert_array_equal(alone.forces, together.forces_of(k))
        np.testing.assert_array_equal(alone.stress[0], together.stress[k])


# -- topology ----------------------------------------------------------------------------------
def test_a_clash_at_the_start_does_not_become_a_bond():
    crystal = triclinic()
    half = crystal.positions.reshape(2, 8, 3).copy()
    direction = half[0].mean(axis=0) - half[1].mean(axis=0)
    half[1] += 0.45 * direction  # molecules inside each other
    clashing = crystal.with_positions(half.reshape(-1, 3))
    from_clash, fresh = ENGINE.prepare(clashing), ENGINE.prepare(crystal)
    healthy = [c.compute(crystal.positions, crystal.cell)[0] for c in (from_clash, fresh)]
    assert abs(healthy[0] - healthy[1]) * EV_TO_KJ_MOL < 0.02


def test_entangled_molecules_are_refused():
    crystal = triclinic()
    positions = np.tile(crystal.positions[:8], (2, 1))
    positions[8:] += 0.1
    with pytest.raises(EngineError, match="entangled") as caught:
        ENGINE.evaluate([crystal.with_positions(positions)])
    assert caught.value.reason == Reason.CLASH


def test_a_flat_cell_is_refused_before_the_library_sees_it():
    crystal = triclinic()
    calculator = ENGINE.prepare(crystal)
    flat = crystal.cell * np.array([[0.1], [1.0], [1.0]])
    cases = [(flat, Reason.BAD_CELL), (flat * 0.0, Reason.BAD_CELL), (flat * np.nan, Reason.NAN)]
    for cell, reason in cases:
        with pytest.raises(EngineError) as caught:
            calculator.compute(crystal.positions, cell)
        assert caught.value.reason == reason
    with pytest.raises(EngineError) as caught:
        ENGINE.evaluate([Crystal(crystal.numbers, crystal.positions, flat, 2)])
    assert caught.value.reason == Reason.BAD_CELL


def test_two_urea_cells_that_crash_the_bare_library(pool):
    (outcome,) = pool.map(evaluate, [(0, (urea().repeated((1, 1, 2)),))], 120.0)
    assert outcome.error is None
    assert outcome.value[0] == pytest.approx(evaluate(urea())[0], abs=1e-3)


# -- the calculator ----------------------------------------------------------------------------
def test_as_ase_gives_what_evaluate_gives():
    crystal = triclinic()
    atoms = crystal.to_ase()
    atoms.calc = ENGINE.as_ase(crystal)
    result = ENGINE.evaluate([crystal])
    assert atoms.get_potential_energy() == result.energies[0]
    assert atoms.get_potential_energy(force_consistent=True) == result.energies[0]
    np.testing.assert_array_equal(atoms.get_forces(), result.forces)
    np.testing.assert_array_equal(atoms.get_stress(voigt=False), result.stress[0])
    atoms.numbers[0] = 7
    with pytest.raises(ValueError, match="other atoms"):
        atoms.get_potential_energy()


def test_native_memory_is_freed_at_once():
    crystal = triclinic()
    gc.disable()
    try:
        atoms = crystal.to_ase()
        atoms.calc = ENGINE.as_ase(crystal)
        atoms.get_forces()
        native = weakref.ref(atoms.calc._prepared._native)
        del atoms
        assert native() is None
    finally:
        gc.enable()


def test_the_library_is_silent_and_writes_no_files(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    evaluate(triclinic())
    assert os.listdir(tmp_path) == []
    assert capfd.readouterr() == ("", "")


def test_a_missing_package_is_told_in_one_sentence(monkeypatch):
    monkeypatch.setattr(gfnff.util, "find_spec", lambda name: None)
    with pytest.raises(UserInputError, match=r"needs the package gfnff; install it with"):
        GFNFFEngine()
