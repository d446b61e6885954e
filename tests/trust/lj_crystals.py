"""Lennard-Jones crystals of argon, and their vibrations without symmetry or phonopy."""

import sys
from pathlib import Path

import numpy as np
from ase.data import atomic_masses

from packflow_core.crystal.crystal import Crystal

sys.path.insert(0, str(Path(__file__).parents[1] / "relax"))
from argon import ArgonEngine, argon

__all__ = ["ArgonEngine", "argon", "by_hessian", "fcc"]

#: Edge in Å at which the force on the cell of fcc argon vanishes, for these parameters.
EDGE = 5.2562


def fcc(edge=EDGE, z=4):
    frac = np.array([[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])
    return Crystal([18] * 4, frac * edge, np.eye(3) * edge, z)


def by_hessian(crystal, repeats, engine):
    """Frequencies in THz from all displacements of the supercell, without any symmetry."""
    big = crystal.repeated(repeats)
    n, step = len(big), 0.01
    hessian = np.zeros((3 * n, 3 * n))
    for k in range(3 * n):
        sides = []
        for sign in (1, -1):
            moved = big.positions.copy()
            moved.reshape(-1)[k] += sign * step
            sides.append(engine.evaluate([big.with_positions(moved)]).forces.reshape(-1))
        hessian[k] = -(sides[0] - sides[1]) / (2 * step)
    mass = np.repeat(atomic_masses[big.numbers], 3)
    # eV/Å2/u to (rad/s)2, then THz.
    squares = np.linalg.eigvalsh((hessian + hessian.T) / 2 / np.sqrt(np.outer(mass, mass)))
    omega = np.sqrt(np.abs(squares) * 1.602176634e-19 / 1e-20 / 1.66053906660e-27)
    return np.sort(np.sign(squares) * omega / (2 * np.pi * 1e12))
