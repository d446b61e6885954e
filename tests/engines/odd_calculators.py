"""Calculators for the tests of the engine `ase:...`: sound ones, and each kind of bad one."""

import numpy as np
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.lj import LennardJones

from packflow_core.engines.base import EngineError
from packflow_core.store.schema import Reason

made = []


class Odd(Calculator):
    """Answers what it is told to, wrong where asked."""

    implemented_properties = ("energy", "forces", "stress")

    def __init__(self, wrong="", **answers):
        super().__init__()
        self.wrong = wrong
        self.answers = answers

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        n = len(atoms)
        if self.wrong == "raises":
            raise ArithmeticError("the density\ndiverged")
        if self.wrong == "scf":
            raise EngineError(Reason.SCF, "no convergence")
        if self.wrong == "memory":
            raise MemoryError
        if self.wrong == "gpu":
            raise RuntimeError("CUDA error: device-side assert triggered")
        self.results = {"energy": -1.0, "forces": np.zeros((n, 3)), "stress": np.zeros(6)}
        self.results |= {
            key: np.array(value, dtype=float) if isinstance(value, list) else value
            for key, value in self.answers.items()
        }
        if self.wrong == "flat forces":
            self.results["forces"] = np.zeros(3 * n)
        if self.wrong == "nan force":
            self.results["forces"][1, 2] = np.nan
        if self.wrong == "moves atoms":
            atoms.positions += 5.0
            atoms.cell[:] *= 2.0


class NoStress(Odd):
    implemented_properties = ("energy", "forces")


class Full(Odd):
    """Free energy and energy differ, and the stress is a matrix."""

    implemented_properties = ("energy", "free_energy", "forces", "stress")

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.results["free_energy"] = -2.0

    def get_stress(self, atoms=None):
        return np.arange(9.0).reshape(3, 3)


class OldFashioned:
    """Has the methods and nothing else."""

    def get_potential_energy(self, atoms):
        return float(len(atoms))

    def get_forces(self, atoms):
        return np.ones((len(atoms), 3)).tolist()

    def get_stress(self, atoms):
        return [1, 2, 3, 4, 5, 6]


class LateNoStress(Odd):
    """Promises a stress that it does not have."""

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        del self.results["stress"]


def lennard_jones(sigma=3.0, **arguments):
    made.append(sigma)
    return LennardJones(sigma=sigma, rc=9.0, smooth=True, **arguments)


def shared(**arguments):
    return lennard_jones(**arguments)


shared.shared = True
shared.remembers = True

not_a_function = 7


def broken():
    raise OSError("no such model")


def nothing():
    return None


def once():
    """Works the first time."""
    made.append("once")
    if made.count("once") > 1:
        raise OSError("no more of them")
    return lennard_jones()
