"""The supercell in which an engine that needs large cells evaluates a crystal.

A crystal may come in any of infinitely many cells, with each molecule in any image; an engine
whose sums over images are cut short gives each of them another energy. `supercell` maps them to
one: the Niggli-reduced cell, repeated until every height is large enough, with all molecules
inside. The map is made of integers, so it stays the same, and the energy continuous, while atoms
and cell move.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from packflow_core.crystal.crystal import Crystal
from packflow_core.crystal.lattice import heights, niggli_cell
from packflow_core.engines.base import EngineError
from packflow_core.store.schema import Reason

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

#: A crystal of molecules has no cell height below this, in Å; such cells crash native engines.
MIN_HEIGHT = 2.0

#: Two gaps between molecules count as equal when they differ by less, as a fraction of the cell.
_TIE = 1e-6


@dataclass(frozen=True, eq=False)
class Supercell:
    """How a crystal of Z molecules becomes n cells in one.

    Attributes:
        matrix: [3, 3] integers; the supercell is matrix @ cell.
        replicas: repetitions of the reduced cell along its three vectors.
        shifts: [n, Z, 3] integers; copy k of molecule m lies shifts[k, m] @ cell away from it.
        atoms: atoms per molecule.
    """

    matrix: IntArray
    replicas: tuple[int, int, int]
    shifts: IntArray
    atoms: int

    @property
    def copies(self) -> int:
        """Number n of cells in the supercell."""
        return len(self.shifts)

    def cell(self, cell: FloatArray) -> FloatArray:
        """Supercell [3, 3] Å of a cell [3, 3] Å."""
        return np.asarray(self.matrix @ np.asarray(cell, dtype=np.float64), dtype=np.float64)

    def positions(self, positions: FloatArray, cell: FloatArray) -> FloatArray:
        """Positions [n N, 3] Å in the supercell, copy after copy, of positions [N, 3] Å."""
        per_atom = np.repeat(self.shifts, self.atoms, axis=1) @ np.asarray(cell, dtype=np.float64)
        return np.asarray(positions + per_atom, dtype=np.float64).reshape(-1, 3)

    def expand(self, crystal: Crystal) -> Crystal:
        """The crystal as a crystal of n Z molecules in the supercell."""
        return Crystal(
            numbers=np.tile(crystal.numbers, self.copies),
            positions=self.positions(crystal.positions, crystal.cell),
            cell=self.cell(crystal.cell),
            z=crystal.z * self.copies,
        )

    def fold(self, forces: FloatArray) -> FloatArray:
        """Forces [N, 3] on the atoms of the cell, of forces [n N, 3] in the supercell.

        The mean over the copies is the exact derivative of the supercell's energy over n.
        """
        images = np.asarray(forces, dtype=np.float64).reshape(self.copies, -1, 3)
        return np.asarray(images.mean(axis=0), dtype=np.float64)


def supercell(crystal: Crystal, min_height: float, max_atoms: int) -> Supercell:
    """Smallest repetition of the reduced cell with all heights at least `min_height` Å.

    Args:
        crystal: molecules whole, in any cell and any image.
        min_height: Å.
        max_atoms: atoms that the supercell may have.

    Raises:
        EngineError: BAD_CELL where the cell is degenerate or would need too many atoms.
    """
    low = float(heights(crystal.cell).min())
    try:
        reduced = niggli_cell(crystal.cell)
    except ValueError as error:
        raise EngineError(Reason.BAD_CELL, f"no reduced cell, height {low:.2f} Å") from error
    height = heights(reduced)
    if height.min() < MIN_HEIGHT:
        raise EngineError(
            Reason.BAD_CELL, f"cell height {height.min():.2f} Å, below {MIN_HEIGHT:g} Å"
        )
    replicas = np.maximum(np.ceil(min_height / height - 1e-9), 1).astype(np.int64)
    counts = (int(replicas[0]), int(replicas[1]), int(replicas[2]))
    copies = int(replicas.prod())
    if copies * len(crystal) > max_atoms:
        raise EngineError(
            Reason.BAD_CELL,
            f"{copies * len(crystal)} atoms in the supercell for heights of {min_height:g} Å, "
            f"more than {max_atoms}",
        )
    reduction = np.rint(reduced @ np.linalg.inv(crystal.cell)).astype(np.int64)
    matrix = replicas[:, None] * reduction
    grid = np.indices(counts).reshape(3, -1).T @ reduction

    centroids = crystal.positions.reshape(crystal.z, -1, 3).mean(axis=1)
    origin = _origin(centroids @ np.linalg.inv(reduced)) / replicas
    images = centroids[None] + (grid @ crystal.cell)[:, None]
    frac = images @ np.linalg.inv(matrix @ crystal.cell) - origin
    shifts = grid[:, None] - np.floor(frac).astype(np.int64) @ matrix
    return Supercell(matrix, counts, shifts, len(crystal) // crystal.z)


def _origin(frac: FloatArray) -> FloatArray:
    """Corner [3] of the cell, fractional, that is farthest from all centroids [Z, 3] on each axis.

    In the middle of the widest gap: no molecule lies on the border, where a small move would
    send it to the other side, and the choice moves with the crystal.
    """
    corner = np.empty(3)
    for axis in range(3):
        wrapped = frac[:, axis] % 1.0
        order = np.argsort(wrapped, kind="stable")
        following = np.roll(wrapped[order], -1)
        following[-1] += 1.0
        gaps = following - wrapped[order]
        # Of equal gaps the one after the molecule that comes first, whatever its coordinates.
        widest = np.flatnonzero(gaps > gaps.max() - _TIE)
        chosen = widest[np.argmin(order[widest])]
        corner[axis] = wrapped[order[chosen]] + 0.5 * gaps[chosen]
    return corner
