"""Phonons of Lennard-Jones crystals: against ASE, and against a Hessian without symmetry."""

import numpy as np
import pytest
from ase.calculators.lj import LennardJones
from lj_crystals import ArgonEngine, argon, by_hessian, fcc

from packflow_core.crystal.crystal import Crystal
from packflow_core.engines import registry
from packflow_core.trust.displaced_forces import forces_of, time_force_call
from packflow_core.trust.harmonic import THZ_TO_EV, modes_of
from packflow_core.trust.phonons import (
    equal_repeats,
    plan_displacements,
    supercell_frequencies,
    symmetrised,
)

pytest.importorskip("phonopy")


@pytest.fixture
def engine(monkeypatch):
    engine = ArgonEngine()
    monkeypatch.setattr(registry, "get_engine", lambda name: engine)
    return engine


def frequencies(crystal, repeats):
    plan = plan_displacements(crystal, repeats)
    members = [(k, move) for k, move in enumerate(zip(plan.atoms, plan.vectors, strict=True))]
    forces = dict(forces_of(members, "argon", crystal.repeated(repeats)))
    stacked = np.array([forces[k] for k in range(len(plan))])
    return plan, np.sort(supercell_frequencies(crystal, repeats, stacked))


def test_argon_has_the_phonons_of_ase(engine, tmp_path):
    from ase.phonons import Phonons

    crystal, repeats = fcc(), (2, 1, 1)
    plan, found = frequencies(crystal, repeats)
    peer = Phonons(
        crystal.to_ase(),
        LennardJones(sigma=3.4, epsilon=0.0104, rc=8.5, smooth=True),
        supercell=repeats, delta=0.01, name=str(tmp_path / "phonon"),
    )  # fmt: skip
    peer.run()
    peer.read(acoustic=True)
    wanted = peer.band_structure([[0, 0, 0], [0.5, 0, 0]], verbose=False) / THZ_TO_EV
    assert len(plan) < 24  # symmetry saves some
    # Another direction of the displacement of 0.01 Å has another third order.
    assert modes_of(found).frequencies_THz == pytest.approx(
        modes_of(wanted).frequencies_THz, rel=5e-4
    )


def test_a_crystal_without_symmetry_needs_every_displacement(engine):
    """Any order of atoms and any cell: the modes are those of the whole Hessian."""
    crystal = argon(3, 1.0)
    plan, found = frequencies(crystal, (1, 2, 1))
    assert len(plan) == 2 * 3 * len(crystal)
    assert plan.space_group == "P1"
    wanted = modes_of(by_hessian(crystal, (1, 2, 1), engine)).frequencies_THz
    # Forces that are left and the third order of the displacement, which ± does not cancel.
    assert modes_of(found).frequencies_THz == pytest.approx(wanted, abs=2e-3)


def test_a_saddle_has_imaginary_modes(engine):
    simple_cubic = Crystal([18], [[0.0, 0, 0]], np.eye(3) * 3.75, 1)
    _, found = frequencies(simple_cubic, (2, 2, 2))
    modes = modes_of(found)
    assert modes.n_imaginary > 0
    assert modes.lowest_cm1 < -5.0


def test_symmetry_is_made_exact_and_molecules_stay_whole():
    crystal = fcc()
    rng = np.random.default_rng(0)
    noisy = crystal.positions + rng.normal(0, 0.004, (4, 3))
    noisy[2] += crystal.cell[0] * 3  # an atom far outside of the cell
    shaken = Crystal(crystal.numbers, noisy, crystal.cell * [[1.0005], [1.0], [0.9995]], 4)
    assert plan_displacements(shaken, (1, 1, 1)).space_group == "P1"
    exact = symmetrised(shaken)
    assert plan_displacements(exact, (1, 1, 1)).space_group == "Fm-3m"
    assert np.abs(exact.positions - noisy).max() < 0.05
    assert np.ptp(exact.parameters[:3]) < 1e-6


def test_a_crystal_without_symmetry_stays_as_it_is():
    crystal = argon(3, 1.0)
    assert symmetrised(crystal).positions == pytest.approx(crystal.positions, abs=1e-9)


def test_equal_repeats_give_equal_numbers_of_molecules():
    tall = Crystal([6] * 2, np.zeros((2, 3)), np.diag([10.0, 4.0, 9.0]), 2)
    large = Crystal([6] * 8, np.zeros((8, 3)), np.diag([10.0, 14.0, 9.0]), 8)
    assert equal_repeats([tall, large]) == [(1, 4, 1), (1, 1, 1)]
    flat = Crystal([6], np.zeros((1, 3)), np.diag([5.0, 4.0, 9.0]), 1)
    assert equal_repeats([flat, large])[0] == (2, 4, 1)


def test_a_force_call_is_timed(engine):
    seconds = time_force_call("argon", fcc())
    assert 0 < seconds < 60
