"""GFN-xTB by tblite, mostly in cells smaller than the engine would take, which are quick."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

pytest.importorskip("tblite")

from packflow_core.crystal.cif import read_cif
from packflow_core.crystal.crystal import Crystal
from packflow_core.engines import registry, xtb
from packflow_core.engines.base import EV_TO_KJ_MOL, EngineError, boxed
from packflow_core.engines.xtb import XTBEngine
from packflow_core.errors import UserInputError
from packflow_core.relax.relaxation import gas_phase
from packflow_core.store.schema import Reason

DATA = Path(__file__).parents[1] / "data"
METHODS = ["gfn1-xtb", "gfn2-xtb"]


def small_engine(name="gfn1-xtb", accuracy=1.0):
    return XTBEngine(name, min_height=3.0, accuracy=accuracy)


def water(z=2, seed=0):
    """Distorted water molecules in a cell without any symmetry."""
    rng = np.random.default_rng(seed)
    molecule = np.array([[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]])
    cell = np.array([[4.4, 0.0, 0.0], [0.9, 4.1, 0.0], [-0.7, 1.0, 3.9 * z / 2]])
    turns = Rotation.random(z, random_state=rng).as_matrix()
    places = (0.2 + np.arange(z) / z)[:, None, None] * np.ones(3) @ cell
    positions = (molecule @ turns + places).reshape(-1, 3)
    positions += rng.normal(0, 0.03, positions.shape)
    return Crystal(np.tile([8, 1, 1], z), positions, cell, z)


def urea():
    return read_cif(DATA / "urea.cif")


# -- derivatives -------------------------------------------------------------------------------
@pytest.mark.parametrize("name", METHODS)
def test_forces_and_stress_are_derivatives_of_the_energy(name):
    crystal = water()
    engine = small_engine(name, accuracy=1e-3)
    system = engine.prepare(crystal)
    assert system.replicas == (1, 1, 1)

    def energy(positions, cell):
        system.forget()
        return system.compute(positions, cell)[0]

    _, forces, stress = system.compute(crystal.positions, crystal.cell)
    assert np.abs(forces).max() > 0.5
    h = 1e-3
    for atom, axis in ((0, 0), (1, 1), (4, 2)):
        step = np.zeros_like(crystal.positions)
        step[atom, axis] = h
        plus = energy(crystal.positions + step, crystal.cell)
        minus = energy(crystal.positions - step, crystal.cell)
        assert -(plus - minus) / (2 * h) == pytest.approx(forces[atom, axis], abs=2e-4)
    for i, j in ((0, 0), (1, 1), (2, 2), (0, 1), (1, 2), (0, 2)):
        ends = []
        for sign in (1, -1):
            strain = np.eye(3)
            strain[i, j] += sign * h / 2
            strain[j, i] += sign * h / 2
            ends.append(energy(crystal.positions @ strain, crystal.cell @ strain))
        slope = (ends[0] - ends[1]) / (2 * h * crystal.volume)
        assert slope == pytest.approx(stress[i, j], abs=2e-5)  # 3e-3 GPa
    np.testing.assert_array_equal(stress, stress.T)


def test_a_supercell_is_folded_back():
    crystal = water()
    one = XTBEngine("gfn1-xtb", min_height=5.0)
    system = one.prepare(crystal)
    assert np.prod(system.replicas) > 1
    result = one.evaluate([crystal])
    # The same as evaluating the repeated crystal as it is.
    repeated = small_engine().evaluate([system._map.expand(crystal)])
    copies = int(np.prod(system.replicas))
    assert result.energies[0] * copies == pytest.approx(repeated.energies[0], abs=1e-6)
    np.testing.assert_allclose(
        result.forces, repeated.forces.reshape(copies, -1, 3).mean(axis=0), atol=1e-5
    )
    np.testing.assert_allclose(result.stress[0], repeated.stress[0], atol=1e-6)


def test_a_cell_is_repeated_until_the_gamma_point_is_enough():
    engine = XTBEngine("gfn1-xtb")
    assert engine.prepare(urea()).replicas == (2, 2, 2)
    system = engine.prepare(water(z=4))
    assert xtb.heights(system._map.cell(water(z=4).cell)).min() >= 8.0
    with pytest.raises(EngineError) as caught:
        engine.prepare(water(z=2).repeated((4, 4, 8)))
    assert caught.value.reason == Reason.BAD_CELL
    assert "768 atoms" in caught.value.detail


def test_the_lattice_energy_of_urea():
    # Experiment -102 kJ/mol; GFN1-xTB with relaxed geometries -94, tblite's own ASE interface.
    crystal = urea()
    engine = XTBEngine("gfn1-xtb")
    alone = boxed(crystal.numbers[:8], crystal.positions[:8], box=12.0)
    assert engine.prepare(alone).replicas == (1, 1, 1)
    lattice = engine.evaluate([crystal]).energies[0] / 2 - engine.evaluate([alone]).energies[0]
    assert lattice * EV_TO_KJ_MOL == pytest.approx(-100, abs=15)


def test_numbers_are_those_of_the_ase_interface():
    from tblite.ase import TBLite

    crystal = water()
    atoms = crystal.to_ase()
    atoms.calc = TBLite(method="GFN2-xTB", verbosity=0)
    result = small_engine("gfn2-xtb").evaluate([crystal])
    assert result.energies[0] == pytest.approx(atoms.get_potential_energy(), abs=1e-8)
    np.testing.assert_allclose(result.forces, atoms.get_forces(), atol=1e-8)
    np.testing.assert_allclose(result.stress[0], atoms.get_stress(voigt=False), atol=1e-10)


def test_a_gas_phase_molecule_relaxes():
    numbers, positions = np.array([8, 1, 1]), water(z=1).positions
    energy, relaxed = gas_phase(XTBEngine("gfn1-xtb"), numbers, positions)
    lengths = np.linalg.norm(relaxed[1:] - relaxed[0], axis=1)
    np.testing.assert_allclose(lengths, 0.96, atol=0.02)
    assert energy < XTBEngine("gfn1-xtb").evaluate([boxed(numbers, positions)]).energies[0]


# -- history -----------------------------------------------------------------------------------
def test_a_system_that_forgot_is_as_good_as_new():
    crystal = water()
    engine = small_engine()
    places = [
        crystal.positions + np.random.default_rng(k).normal(0, 0.01, crystal.positions.shape)
        for k in range(3)
    ]
    old, new = engine.prepare(crystal), engine.prepare(crystal)
    for positions in places:
        warm = old.compute(positions, crystal.cell)
    old.forget()
    forgot = old.compute(places[-1], crystal.cell)
    fresh = new.compute(places[-1], crystal.cell)
    for mine, theirs in zip(forgot, fresh, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    # Without that the density of before is still felt, in the last digits.
    assert warm[0] != fresh[0]
    assert warm[0] == pytest.approx(fresh[0], abs=1e-5)
    np.testing.assert_allclose(warm[1], fresh[1], atol=5e-3)


def test_batch_mates_change_nothing():
    engine = small_engine()
    crystals = [water(), water(seed=1), water(z=1)]
    together = engine.evaluate(crystals)
    for k in (2, 0, 1):
        alone = engine.evaluate([crystals[k]])
        assert alone.energies[0] == together.energies[k]
        np.testing.assert_array_equal(alone.forces, together.forces_of(k))


# -- faults ------------------------------------------------------------------------------------
def test_what_would_hang_the_library_is_refused():
    crystal = water()
    system = small_engine().prepare(crystal)
    flat = crystal.cell * np.array([[1.0], [1.0], [0.2]])
    close = crystal.positions.copy()
    close[4] = close[0] + crystal.cell[0] + 0.1
    cases = [
        (crystal.positions, flat, Reason.BAD_CELL),
        (crystal.positions, -crystal.cell, Reason.BAD_CELL),
        (crystal.positions, crystal.cell * np.nan, Reason.NAN),
        (crystal.positions * np.nan, crystal.cell, Reason.NAN),
        (close, crystal.cell, Reason.CLASH),
    ]
    for positions, cell, reason in cases:
        with pytest.raises(EngineError) as caught:
            system.compute(positions, cell)
        assert caught.value.reason == reason
    with pytest.raises(EngineError) as caught:
        XTBEngine("gfn1-xtb").prepare(crystal.with_positions(crystal.positions, flat))
    assert caught.value.reason == Reason.BAD_CELL


def test_a_density_that_does_not_converge_is_a_reason(monkeypatch):
    crystal = water()
    engine = small_engine()
    before = engine.evaluate([crystal])
    system = engine.prepare(crystal)
    system._at(crystal.positions, crystal.cell).set("max-iter", 2)
    result = engine.compute(
        [system, engine.prepare(crystal)],
        np.concatenate([crystal.positions] * 2), np.stack([crystal.cell] * 2), np.array([6, 6]),
    )  # fmt: skip
    assert list(result.errors) == [0]
    assert result.errors[0].reason == Reason.SCF
    assert "tblite" in result.errors[0].detail
    assert result.energies[1] == before.energies[0]
    # A density that did not converge is not the start of the next one.
    system._native.set("max-iter", 250)
    assert system.compute(crystal.positions, crystal.cell)[0] == before.energies[0]


def test_other_faults_of_the_library_are_engine_errors():
    crystal = water()
    numbers = crystal.numbers.copy()
    numbers[0] = 101  # beyond the parametrisation
    result = small_engine().prepare(Crystal(numbers, crystal.positions, crystal.cell, 1))
    with pytest.raises(EngineError) as caught:
        result.compute(crystal.positions, crystal.cell)
    assert caught.value.reason == Reason.ENGINE


def test_the_library_is_silent(capfd):
    small_engine().evaluate([water()])
    assert capfd.readouterr() == ("", "")


# -- names -------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", METHODS)
def test_the_registry_knows_it(name):
    engine = registry.get_engine(name)
    assert engine.name == name
    assert engine.remembers
    assert registry.engine_traits(name) == (False, False)
    version = engine.identity["tblite"]
    assert registry.engine_identity(name) == f"{name}/gamma,heights>=8A (tblite {version})"
    assert xtb.DEFAULT_MIN_HEIGHT == 8.0  # as the identity says


def test_a_missing_package_is_told_in_one_sentence(monkeypatch):
    monkeypatch.setattr(xtb.util, "find_spec", lambda name: None)
    with pytest.raises(UserInputError, match=r"needs the package tblite; install it with"):
        XTBEngine("gfn1-xtb")


def test_the_library_is_loaded_at_the_first_call():
    code = (
        "import sys; from packflow_core.engines.xtb import XTBEngine; XTBEngine('gfn1-xtb');"
        "print('tblite.interface' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"
