"""The same crystal, written differently: an engine must give all of them one energy per molecule.

An infinite crystal does not know in which cell it is written down. An engine may: sums over images
that are cut short, k points that are too few, a graph that is too small, a topology that is read
off the cell. What the energies differ by is the engine's own doubt about its number.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from packflow_core.crystal.crystal import Crystal
from packflow_core.crystal.lattice import heights, niggli_cell
from packflow_core.engines.base import EngineError

FloatArray = NDArray[np.float64]

#: Another primitive cell of the same lattice: integers, determinant 1.
_OTHER = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 1]], dtype=np.float64)
#: Shift of the origin, as fractions of the cell.
_ORIGIN = np.array([0.31, 0.17, 0.43])

#: The ways in which a crystal is written.
CELLS = ("again", "other_cell", "larger")

#: Height in Å up to which the reduced cell is repeated for `larger`.
HEIGHT_A = 10.0


def written_as(crystal: Crystal, cell: str) -> Crystal:
    """The crystal in one of `CELLS`.

    Args:
        crystal: molecules whole.
        cell: `again`: as it is. `other_cell`: a sheared primitive cell, turned in space, with
            another origin and every molecule in another image. `larger`: the reduced cell,
            repeated until every height reaches 10 Å; twice along the lowest where all do.

    Raises:
        ValueError: none of these, or a degenerate cell.
    """
    if cell == "again":
        return crystal
    if cell == "larger":
        reduced = crystal.with_positions(crystal.positions, niggli_cell(crystal.cell)).wrapped()
        height = heights(reduced.cell)
        reps = np.maximum(np.ceil(HEIGHT_A / height - 1e-9), 1).astype(np.int64)
        if reps.max() == 1:
            reps[int(np.argmin(height))] = 2
        return reduced.repeated((int(reps[0]), int(reps[1]), int(reps[2])))
    if cell == "other_cell":
        turn = _rotation()
        moved = Crystal(
            crystal.numbers,
            (crystal.positions + _ORIGIN @ crystal.cell) @ turn,
            _OTHER @ crystal.cell @ turn,
            crystal.z,
        )
        return moved.wrapped()
    raise ValueError(f"unknown way to write a crystal: {cell}")


def energy_written_as(engine: str, crystal: Crystal, cell: str) -> float | str:
    """Energy per molecule in eV of a crystal in one of `CELLS`, or why there is none.

    Runs in a worker; the engine is prepared afresh.
    """
    from packflow_core.engines.registry import get_engine

    try:
        written = written_as(crystal, cell)
    except ValueError as error:
        return str(error)
    try:
        energy = float(get_engine(engine).evaluate([written]).energies[0]) / written.z
    except EngineError as error:
        return error.detail
    return energy if np.isfinite(energy) else "the energy is not finite"


def _rotation() -> FloatArray:
    """[3, 3] a proper rotation about a general axis."""
    a, b = np.radians(40.0), np.radians(25.0)
    about_z = np.array([[np.cos(a), np.sin(a), 0.0], [-np.sin(a), np.cos(a), 0.0], [0.0, 0.0, 1.0]])
    about_x = np.array([[1.0, 0.0, 0.0], [0.0, np.cos(b), np.sin(b)], [0.0, -np.sin(b), np.cos(b)]])
    return np.asarray(about_z @ about_x)
