import numpy as np
import pytest

from packflow_core.crystal.crystal import Crystal
from packflow_core.relax.batch import Batch
from packflow_core.relax.guards import check_energies, check_geometries, check_start, shape_of
from packflow_core.relax.protocol import RelaxParams
from packflow_core.relax.state import RelaxState
from packflow_core.store.schema import Reason

# Two water-like molecules in a 6 x 6 x 6 Å cell: covalent sum of O and H 0.97 Å.
BONDS = np.array([[0, 1], [0, 2]])
MOLECULE = np.array([[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]])
START = Crystal([8, 1, 1] * 2, np.concatenate([MOLECULE + 1.0, MOLECULE + 4.0]), np.eye(3) * 6.0, 2)


class Guard:
    """The checks of one relaxation, in a batch between two sound crystals."""

    def __init__(self, params, start=START, bonds=BONDS):
        self.params, self.start, self.bonds = params, start, bonds
        self.shape = shape_of(start, bonds, params)

    def check_start(self, start):
        return check_start(start, shape_of(start, self.bonds, self.params), self.params)

    def check(self, positions, cell, energy, fmax):
        mate = RelaxState.start(self.start.positions, self.start.cell)
        state = RelaxState.start(self.start.positions, self.start.cell)
        state.q, state.origin_cell = np.array(positions), np.array(cell)
        with np.errstate(invalid="ignore"):
            batch = Batch(self.params, [self.shape] * 3, [mate, state, mate])
            faults = check_geometries(batch, [len(self.start) // self.start.z] * 3, self.params)
        faults = faults or check_energies(np.array([0.0, energy, 0.0]), np.array([0.0, fmax, 0.0]))
        assert set(faults) <= {1}
        return faults.get(1)


def guard(**limits):
    return Guard(RelaxParams(**limits))


def moved(atom, by):
    positions = START.positions.copy()
    positions[atom] += by
    return positions


def test_a_sound_crystal_passes():
    assert guard().check_start(START) is None
    assert guard().check(START.positions, START.cell, -1.0, 3.0) is None


@pytest.mark.parametrize(
    ("positions", "cell", "energy", "fmax", "reason", "detail"),
    [
        (START.positions * np.nan, START.cell, 0.0, 0.0, Reason.NAN, "positions"),
        (START.positions, START.cell + np.inf, 0.0, 0.0, Reason.NAN, "cell"),
        (START.positions, START.cell, np.nan, 0.0, Reason.NAN, "energy"),
        (START.positions, START.cell, 0.0, np.inf, Reason.NAN, "forces"),
        (START.positions, START.cell, 0.0, 2e4, Reason.EXPLODED, "force of 2e+04"),
        (START.positions, START.cell * 1.27, 0.0, 0.0, Reason.EXPLODED, "2.05 times"),
        (START.positions, START.cell * 0.73, 0.0, 0.0, Reason.EXPLODED, "0.39 times"),
        (START.positions, np.diag([1.9, 12, 6]), 0.0, 0.0, Reason.EXPLODED, "height 1.90"),
        (moved(4, [0.7, 0, 0]), START.cell, 0.0, 0.0, Reason.EXPLODED, "bond 0-1 of molecule 1"),
    ],
)
def test_a_doomed_crystal_does_not(positions, cell, energy, fmax, reason, detail):
    fault = guard().check(positions, cell, energy, fmax)
    assert fault is not None
    assert fault.reason == reason
    assert detail in fault.detail


def test_limits_are_limits():
    for factor in (1.25, 0.74):
        assert guard().check(START.positions, START.cell * factor, 0.0, 0.0) is None
    assert guard().check(moved(4, [0.55, 0, 0]), START.cell, 0.0, 0.0) is None  # 1.56 times
    assert guard(max_bond_ratio=1.5).check(moved(4, [0.55, 0, 0]), START.cell, 0, 0) is not None


def test_starts_that_are_not_worth_it():
    broken = START.with_positions(moved(1, [1.0, 0, 0]))
    assert guard().check_start(broken).reason == Reason.BROKEN_MOLECULE
    flat = Crystal(START.numbers, START.positions, np.diag([1.5, 9.0, 9.0]), 2)
    assert guard().check_start(flat).reason == Reason.BAD_CELL


def test_heavy_atoms_on_top_of_each_other_clash():
    # O and O: covalent sum 1.32 Å, so 0.75 of it is 0.99 Å.
    offset = START.positions[0] - START.positions[3]
    for distance, clashes in ((0.98, True), (1.0, False)):
        positions = START.positions.copy()
        positions[3:] += offset + np.array([0, 0, distance])
        fault = guard().check_start(START.with_positions(positions))
        assert (fault is not None) == clashes
        if fault is not None:
            assert fault.reason == Reason.CLASH
            assert "0.98 Å apart" in fault.detail
            assert guard(clash_factor=0.0).check_start(START.with_positions(positions)) is None


def test_atoms_without_bonds_are_fine():
    argon = Crystal([18], np.zeros((1, 3)), np.eye(3) * 4.0, 1)
    lone = Guard(RelaxParams(), argon, np.zeros((0, 2), dtype=int))
    assert lone.check_start(argon) is None
    assert lone.check(argon.positions, argon.cell, 0.0, 0.0) is None
