"""Cheap, exact engines for tests of the optimiser: Lennard-Jones by ASE."""

import numpy as np
from ase.calculators.lj import LennardJones

from packflow_core.crystal.crystal import Crystal
from packflow_core.engines.base import BaseEngine, compute_each

NO_BONDS = np.zeros((0, 2), dtype=np.int64)


class Single:
    """One crystal and its ASE calculator."""

    def __init__(self, crystal, calculator):
        self.numbers = crystal.numbers
        self.calculator = calculator

    def compute(self, positions, cell):
        atoms = Crystal(self.numbers, positions, cell).to_ase()
        atoms.calc = self.calculator
        return atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress(voigt=False)


class ArgonEngine(BaseEngine):
    """A crystal of argon atoms (or of anything, by their numbers); remembers nothing."""

    name = "argon"
    calls = 0

    def calculator(self, crystal):
        return LennardJones(sigma=3.4, epsilon=0.0104, rc=8.5, smooth=True)

    def prepare(self, crystal):
        return Single(crystal, self.calculator(crystal))

    def compute(self, prepared, positions, cells, n_atoms):
        self.calls += 1
        return compute_each(prepared, positions, cells, n_atoms)


def argon(seed=0, scale=1.05):
    """Four atoms in a sheared, expanded fcc cell, shaken."""
    rng = np.random.default_rng(seed)
    cell = np.array([[5.4, 0, 0], [0.3, 5.3, 0], [-0.2, 0.4, 5.5]]) * scale
    frac = np.array([[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])
    return Crystal([18] * 4, frac @ cell + rng.normal(0, 0.1, (4, 3)), cell, 4)


def argon_block(seed, reps, scale=1.05):
    """A larger triclinic crystal, every atom shaken."""
    rng = np.random.default_rng(seed)
    big = argon(seed, scale).repeated(reps)
    shear = np.eye(3) + np.triu(rng.normal(0, 0.06, (3, 3)), 1)
    return Crystal(
        big.numbers,
        big.positions @ shear + rng.normal(0, 0.08, (len(big), 3)),
        big.cell @ shear,
        len(big),
    )
