"""The optimiser loop, with engines that are cheap, exact, or broken on purpose."""

import logging

import numpy as np
import pytest
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.lj import LennardJones
from ase.constraints import FixAtoms
from ase.filters import FrechetCellFilter
from ase.optimize import FIRE

from packflow_core.crystal.crystal import Crystal
from packflow_core.engines.base import EV_A3_TO_GPA, EV_TO_KJ_MOL, EngineError, concatenate
from packflow_core.relax.protocol import RelaxParams
from packflow_core.relax.relaxation import gas_phase, relax_crystal
from packflow_core.store.schema import Reason, Status

NO_BONDS = np.zeros((0, 2), dtype=np.int64)


class ArgonEngine:
    """A crystal of argon atoms (or of anything, by their numbers); remembers nothing."""

    name = "argon"
    remembers = False

    def __init__(self):
        self.identity = {"engine": self.name}

    def as_ase(self, crystal):
        return LennardJones(sigma=3.4, epsilon=0.0104, rc=8.5, smooth=True)

    def evaluate(self, crystals):
        results = []
        for crystal in crystals:
            atoms = crystal.to_ase()
            atoms.calc = self.as_ase(crystal)
            results.append(
                (atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress(voigt=False))
            )
        return concatenate(*zip(*results, strict=True))


def argon(seed=0, scale=1.05):
    """Four atoms in a sheared, expanded fcc cell, shaken."""
    rng = np.random.default_rng(seed)
    cell = np.array([[5.4, 0, 0], [0.3, 5.3, 0], [-0.2, 0.4, 5.5]]) * scale
    frac = np.array([[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])
    return Crystal([18] * 4, frac @ cell + rng.normal(0, 0.1, (4, 3)), cell, 4)


# -- the trajectory is ASE's -------------------------------------------------------------------
@pytest.mark.parametrize(
    ("params", "factor"),
    [
        (RelaxParams(protocol="paper", fmax=0.01), None),
        (RelaxParams(protocol="converged", fmax=1e-9, max_steps=30), 8.0),
    ],
)
def test_every_step_is_the_step_of_ase(params, factor):
    start = argon()
    atoms = start.to_ase()
    atoms.calc = ArgonEngine().as_ase(start)
    fire = FIRE(FrechetCellFilter(atoms, exp_cell_factor=factor), logfile=None)
    seen = []
    fire.attach(lambda: seen.append((atoms.get_potential_energy(), atoms.get_volume())))
    fire.run(fmax=params.fmax, steps=params.max_steps)

    steps = []
    done = relax_crystal(start, ArgonEngine(), params, NO_BONDS, observer=steps.append)
    assert done.n_steps == fire.nsteps > 8
    assert [s.number for s in steps] == list(range(fire.nsteps + 1))
    np.testing.assert_array_equal([(s.energy, s.volume) for s in steps], seen)
    np.testing.assert_array_equal(done.crystal.positions, atoms.positions)
    np.testing.assert_array_equal(done.crystal.cell, atoms.cell[:])
    assert done.status == (Status.OK if params.protocol == "paper" else Status.UNCONVERGED)


def test_hydrogens_only_is_ase_with_fixed_atoms_and_moves_nothing_else():
    start = Crystal([18, 18, 1, 1], argon().positions, argon().cell, 1)
    atoms = start.to_ase()
    atoms.calc = ArgonEngine().as_ase(start)
    atoms.set_constraint(FixAtoms(mask=start.heavy))
    FIRE(atoms, logfile=None).run(fmax=1e-3, steps=25)
    done = relax_crystal(start, ArgonEngine(), RelaxParams(protocol="h_only", fmax=1e-3), NO_BONDS)
    np.testing.assert_array_equal(done.crystal.positions, atoms.positions)
    np.testing.assert_array_equal(done.crystal.positions[:2], start.positions[:2])
    np.testing.assert_array_equal(done.crystal.cell, start.cell)
    assert np.abs(done.crystal.positions[2:] - start.positions[2:]).min() > 1e-4
    assert done.n_steps <= 25
    assert done.first.fmax > done.last.fmax  # forces on free atoms only


def test_a_crystal_without_hydrogens_has_nothing_to_relax():
    done = relax_crystal(argon(), ArgonEngine(), RelaxParams(protocol="h_only"), NO_BONDS)
    assert (done.status, done.n_steps, done.last.fmax) == (Status.OK, 0, 0.0)


# -- convergence -------------------------------------------------------------------------------
def test_converged_means_forces_and_stress():
    done = relax_crystal(argon(), ArgonEngine(), RelaxParams(max_stress_GPa=0.01), NO_BONDS)
    assert done.status == Status.OK
    atoms = done.crystal.to_ase()
    atoms.calc = ArgonEngine().as_ase(done.crystal)
    assert np.linalg.norm(atoms.get_forces(), axis=1).max() <= 0.05
    stress = np.abs(atoms.get_stress()).max() * EV_A3_TO_GPA
    assert stress <= 0.01
    assert done.last.stress == pytest.approx(stress)
    assert done.last.energy == pytest.approx(atoms.get_potential_energy())
    assert done.last.energy < done.first.energy
    # The paper's criterion stops far from there.
    paper = relax_crystal(argon(), ArgonEngine(), RelaxParams(protocol="paper"), NO_BONDS)
    assert paper.status == Status.OK
    assert paper.last.stress > 0.01
    assert paper.n_steps < done.n_steps


@pytest.mark.parametrize(
    ("limits", "reason"),
    [({"fmax": 1e-9}, Reason.MAX_STEPS), ({"max_stress_GPa": 1e-6}, Reason.STRESS)],
)
def test_out_of_steps(limits, reason):
    done = relax_crystal(argon(), ArgonEngine(), RelaxParams(max_steps=40, **limits), NO_BONDS)
    assert (done.status, done.reason, done.n_steps) == (Status.UNCONVERGED, reason, 40)
    assert "GPa" in done.detail


def test_no_steps_is_an_evaluation():
    done = relax_crystal(argon(), ArgonEngine(), RelaxParams(max_steps=0), NO_BONDS)
    assert done.n_steps == 0
    assert done.first == done.last
    np.testing.assert_array_equal(done.crystal.positions, argon().positions)


# -- engines that break ------------------------------------------------------------------------
class Breaking(Calculator):
    """Lennard-Jones until its n-th evaluation."""

    implemented_properties = ("energy", "free_energy", "forces", "stress")
    replicas = (2, 1, 1)

    def __init__(self, at, how):
        super().__init__()
        self.inner = LennardJones(sigma=3.4, epsilon=0.0104, rc=8.5, smooth=True)
        self.left = at
        self.how = how

    def calculate(self, atoms=None, properties=(), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.left -= 1
        if self.left <= 0 and isinstance(self.how, Exception):
            raise self.how
        self.inner.calculate(atoms, ["energy", "forces", "stress"], system_changes)
        self.results = dict(self.inner.results)
        if self.left <= 0:
            self.results[self.how] = self.results[self.how] * np.nan


class BreakingEngine(ArgonEngine):
    def __init__(self, at, how):
        super().__init__()
        self.at, self.how = at, how

    def as_ase(self, crystal):
        if self.at == 0:
            raise self.how
        return Breaking(self.at, self.how)


@pytest.mark.parametrize(
    ("at", "how", "status", "reason"),
    [
        (0, EngineError(Reason.CLASH, "too close"), Status.REJECTED, Reason.CLASH),
        (0, EngineError(Reason.BAD_CELL, "flat"), Status.REJECTED, Reason.BAD_CELL),
        (0, EngineError(Reason.ENGINE, "no"), Status.FAILED, Reason.ENGINE),
        (1, "energy", Status.FAILED, Reason.NAN),
        (1, "forces", Status.FAILED, Reason.NAN),
        (1, EngineError(Reason.NAN, "nan"), Status.FAILED, Reason.NAN),
        (1, RuntimeError("segmentation"), Status.FAILED, Reason.ENGINE),
        (5, "forces", Status.FAILED, Reason.NAN),
        (5, EngineError(Reason.BAD_CELL, "flat"), Status.FAILED, Reason.EXPLODED),
        (5, ValueError("wrong\nshape"), Status.FAILED, Reason.ENGINE),
    ],
)
def test_a_broken_engine_leaves_the_last_sound_crystal(at, how, status, reason, caplog):
    caplog.set_level(logging.CRITICAL)
    steps = []
    done = relax_crystal(argon(), BreakingEngine(at, how), RelaxParams(), NO_BONDS, steps.append)
    assert (done.status, done.reason) == (status, reason)
    assert done.detail
    assert len(steps) == max(at - 1, 0)
    assert done.last == (steps[-1] if steps else None)
    if steps:
        assert done.crystal.volume == pytest.approx(steps[-1].volume)
        assert not np.array_equal(done.crystal.positions, argon().positions)
        assert done.replicas == (2, 1, 1)
    else:
        np.testing.assert_array_equal(done.crystal.positions, argon().positions)


class Repulsive(ArgonEngine):
    """Pushes a crystal apart for ever."""

    def as_ase(self, crystal):
        calculator = LennardJones(sigma=9.0, epsilon=0.05, rc=12.0, smooth=True)
        return calculator


def test_an_exploding_crystal_stops_early():
    steps = []
    done = relax_crystal(argon(), Repulsive(), RelaxParams(max_steps=500), NO_BONDS, steps.append)
    assert (done.status, done.reason) == (Status.FAILED, Reason.EXPLODED)
    assert done.n_steps < 200
    assert done.crystal.volume <= 2.0 * argon().volume
    assert np.isfinite(done.crystal.positions).all()


def test_a_start_that_clashes_is_never_evaluated():
    positions = argon().positions.copy()
    positions[1] = positions[0] + [0, 0, 1.0]
    start = argon().with_positions(positions)
    done = relax_crystal(start, BreakingEngine(1, RuntimeError("called")), RelaxParams(), NO_BONDS)
    assert (done.status, done.reason) == (Status.REJECTED, Reason.CLASH)
    assert done.first is None
    assert done.last is None


# -- engines that remember ---------------------------------------------------------------------
class Forgetful(ArgonEngine):
    """The energy of its k-th calculator is off by offsets[k]; `evaluate` takes one of its own."""

    remembers = True

    def __init__(self, offsets):
        super().__init__()
        self.offsets = list(offsets)
        self.made = 0

    def as_ase(self, crystal):
        offset = self.offsets[min(self.made, len(self.offsets) - 1)]
        self.made += 1
        inner = super().as_ase(crystal)
        plain = inner.calculate

        def calculate(*args, **kwargs):
            plain(*args, **kwargs)
            inner.results["energy"] += offset
            inner.results["free_energy"] += offset

        inner.calculate = calculate
        return inner


def test_a_fresh_calculator_that_agrees_gives_the_energy():
    small = 0.5 * 4 / EV_TO_KJ_MOL  # half a kJ/mol per molecule
    engine = Forgetful([0.0, small])
    done = relax_crystal(argon(), engine, RelaxParams(), NO_BONDS)
    plain = relax_crystal(argon(), ArgonEngine(), RelaxParams(), NO_BONDS)
    assert done.status == Status.OK
    assert engine.made == 2
    assert done.last.energy == pytest.approx(plain.last.energy + small, abs=1e-12)
    np.testing.assert_array_equal(done.crystal.positions, plain.crystal.positions)


def test_a_relaxation_with_a_stale_calculator_goes_on_once():
    large = 3.0 * 4 / EV_TO_KJ_MOL
    engine = Forgetful([0.0, large, large, large])
    done = relax_crystal(argon(), engine, RelaxParams(), NO_BONDS)
    assert done.status == Status.OK
    assert engine.made == 4  # relax, check, relax, check

    for stubborn in (Forgetful([0, large, 0, large]), Forgetful([0, large, 2 * large, 0])):
        done = relax_crystal(argon(), stubborn, RelaxParams(), NO_BONDS)
        assert (done.status, done.reason) == (Status.FAILED, Reason.TOPOLOGY)
        assert "kJ/mol per molecule" in done.detail
        assert stubborn.made == 4


def test_only_full_relaxations_that_converged_are_checked():
    engine = Forgetful([0.0, 99.0])
    done = relax_crystal(argon(), engine, RelaxParams(max_steps=3), NO_BONDS)
    assert (done.status, engine.made) == (Status.UNCONVERGED, 1)
    engine = Forgetful([0.0, 99.0])
    done = relax_crystal(argon(), engine, RelaxParams(protocol="h_only"), NO_BONDS)
    assert (done.status, engine.made) == (Status.OK, 1)


# -- the molecule on its own -------------------------------------------------------------------
def test_the_gas_phase_dimer_has_its_textbook_energy():
    class Pair(ArgonEngine):
        def as_ase(self, crystal):
            return LennardJones(sigma=3.4, epsilon=0.0104, rc=12.0)

    positions = np.array([[0.0, 0, 0], [4.2, 0, 0]])
    energy, relaxed = gas_phase(Pair(), np.array([18, 18]), positions, fmax=1e-4)
    shift = 4 * 0.0104 * ((3.4 / 12.0) ** 12 - (3.4 / 12.0) ** 6)  # ASE's shift at the cutoff
    assert energy == pytest.approx(-0.0104 - shift, abs=1e-6)
    assert np.linalg.norm(relaxed[1] - relaxed[0]) == pytest.approx(3.4 * 2 ** (1 / 6), abs=1e-2)
