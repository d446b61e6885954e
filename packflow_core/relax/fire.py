"""FIRE for a batch of systems, each with a time step and a history of its own.

Bitzek et al., Phys. Rev. Lett. 2006, 97, 170201, step by step as ASE's `FIRE` in its default
settings. A system is a crystal: its atoms [N, 3] and, where the cell moves, three more rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

DT_START = 0.1
DT_MAX = 1.0
N_MIN = 5
F_INC = 1.1
F_DEC = 0.5
A_START = 0.1
F_A = 0.99
#: Longest step of a whole system in configuration space, Å.
MAX_STEP = 0.2


@dataclass(eq=False)
class Fire:
    """Velocities and step control of B systems with A atoms in all; changed in place.

    Attributes:
        v: [A, 3] velocities of atoms.
        v_cell: [B, 3, 3] velocities of cells; zero where cells do not move.
        dt: [B] time steps.
        a: [B] mixing parameters.
        n_downhill: [B] steps since the last one uphill.
        fresh: [B] systems that have not made a step.
    """

    v: FloatArray
    v_cell: FloatArray
    dt: FloatArray
    a: FloatArray
    n_downhill: IntArray
    fresh: BoolArray

    def step(
        self, forces: FloatArray, cell_forces: FloatArray, starts: IntArray, owner: IntArray
    ) -> tuple[FloatArray, FloatArray]:
        """Displacements of one step.

        Args:
            forces: [A, 3] on atoms.
            cell_forces: [B, 3, 3] on cells.
            starts: [B] first atom of each system.
            owner: [A] system of each atom.

        Returns:
            Displacements of atoms [A, 3] and of cells [B, 3, 3].
        """

        def dot(x: FloatArray, y: FloatArray, xc: FloatArray, yc: FloatArray) -> FloatArray:
            atoms = np.add.reduceat((x * y).sum(axis=1), starts)
            return np.asarray(atoms + (xc * yc).reshape(len(starts), 9).sum(axis=1))

        power = dot(forces, self.v, cell_forces, self.v_cell)
        downhill = power > 0.0
        force2 = dot(forces, forces, cell_forces, cell_forces)
        speed2 = dot(self.v, self.v, self.v_cell, self.v_cell)
        with np.errstate(divide="ignore", invalid="ignore"):
            mix = np.where(downhill, self.a / np.sqrt(force2) * np.sqrt(speed2), 0.0)
        keep = np.where(downhill, 1.0 - self.a, 0.0)

        faster = downhill & (self.n_downhill > N_MIN)
        slower = ~downhill & ~self.fresh
        self.dt = np.where(faster, np.minimum(self.dt * F_INC, DT_MAX), self.dt)
        self.dt = np.where(slower, self.dt * F_DEC, self.dt)
        self.a = np.where(faster, self.a * F_A, np.where(slower, A_START, self.a))
        self.n_downhill = np.where(downhill, self.n_downhill + 1, 0)
        self.fresh = np.zeros_like(self.fresh)

        def advance(v: FloatArray, f: FloatArray, i: IntArray | slice) -> FloatArray:
            shape = (-1,) + (1,) * (v.ndim - 1)
            k, m, dt = (x[i].reshape(shape) for x in (keep, mix, self.dt))
            return np.asarray(k * v + m * f + dt * f)

        self.v = advance(self.v, forces, owner)
        self.v_cell = advance(self.v_cell, cell_forces, slice(None))
        moved = self.dt[owner, None] * self.v
        moved_cell = self.dt[:, None, None] * self.v_cell
        length = np.sqrt(dot(moved, moved, moved_cell, moved_cell))
        with np.errstate(divide="ignore"):
            scale = np.where(length > MAX_STEP, MAX_STEP / length, 1.0)
        return moved * scale[owner, None], moved_cell * scale[:, None, None]
