"""Early ends: relaxations that no number of steps would save."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from packflow_core.chem.elements import COVALENT_RADII
from packflow_core.crystal.contacts import Contact, intermolecular_pairs
from packflow_core.crystal.crystal import Crystal
from packflow_core.crystal.lattice import heights
from packflow_core.relax.protocol import RelaxParams
from packflow_core.store.schema import Reason

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

#: A larger force, in eV/Å, on an atom of a molecule means that something is inside something.
MAX_FORCE = 1e4


class Fault(NamedTuple):
    """Why a crystal cannot be relaxed, or no further."""

    reason: Reason
    detail: str


class Guard:
    """Watches one relaxation.

    Args:
        start: the crystal at the start.
        bonds: [nb, 2] bonds of one molecule, hydrogens included.
        params: the limits.
    """

    def __init__(self, start: Crystal, bonds: IntArray, params: RelaxParams) -> None:
        self._params = params
        self._volume = start.volume
        numbers = start.numbers[: len(start) // start.z]
        self._limits = params.max_bond_ratio * COVALENT_RADII[numbers[bonds]].sum(axis=1)
        self._bonds = bonds
        self._z = start.z

    def check_start(self, start: Crystal) -> Fault | None:
        """Whether a relaxation is worth beginning: bad cell, broken molecule, clash."""
        low = heights(start.cell).min()
        if not low >= self._params.min_height_A:
            return Fault(Reason.BAD_CELL, f"cell height {low:.2f} Å")
        stretched = self._stretched(start.positions)
        if stretched:
            return Fault(Reason.BROKEN_MOLECULE, stretched)
        clash = closest_heavy(start, self._params.clash_factor)
        if clash is not None:
            return Fault(
                Reason.CLASH,
                f"heavy atoms {clash.i} and {clash.j} of two molecules are "
                f"{clash.distance:.2f} Å apart, {clash.ratio:.2f} of their covalent radii",
            )
        return None

    def check(
        self, positions: FloatArray, cell: FloatArray, energy: float, fmax: float
    ) -> Fault | None:
        """Whether a relaxation is worth going on with.

        Args:
            positions: [N, 3] Å.
            cell: [3, 3] Å.
            energy: eV.
            fmax: largest force, eV/Å.
        """
        if not (np.isfinite(positions).all() and np.isfinite(cell).all()):
            return Fault(Reason.NAN, "positions or cell are not finite")
        if not (np.isfinite(energy) and np.isfinite(fmax)):
            return Fault(Reason.NAN, "energy or forces are not finite")
        if fmax > MAX_FORCE:
            return Fault(Reason.EXPLODED, f"force of {fmax:.3g} eV/Å")
        ratio = float(np.linalg.det(cell)) / self._volume
        if not self._params.min_volume_ratio <= ratio <= self._params.max_volume_ratio:
            return Fault(Reason.EXPLODED, f"cell volume {ratio:.2f} times that of the start")
        low = heights(cell).min()
        if low < self._params.min_height_A:
            return Fault(Reason.EXPLODED, f"cell height {low:.2f} Å")
        stretched = self._stretched(positions)
        if stretched:
            return Fault(Reason.EXPLODED, stretched)
        return None

    def _stretched(self, positions: FloatArray) -> str:
        if not len(self._bonds):
            return ""
        molecules = positions.reshape(self._z, -1, 3)
        vectors = molecules[:, self._bonds[:, 1]] - molecules[:, self._bonds[:, 0]]
        ratio = np.linalg.norm(vectors, axis=-1) / self._limits
        if ratio.max() <= 1.0:
            return ""
        molecule, bond = np.unravel_index(int(ratio.argmax()), ratio.shape)
        i, j = self._bonds[bond]
        factor = ratio.max() * self._params.max_bond_ratio
        return f"bond {i}-{j} of molecule {molecule} is {factor:.2f} times the covalent sum"


def closest_heavy(crystal: Crystal, factor: float) -> Contact | None:
    """Heavy atoms of two molecules closer than `factor` times their covalent radii, the worst."""
    radii = COVALENT_RADII[crystal.numbers]
    if not crystal.heavy.any() or factor == 0:
        return None
    cutoff = 2.0 * factor * float(radii[crystal.heavy].max())
    pairs = intermolecular_pairs(crystal, cutoff, heavy_only=True)
    ratio = pairs.distance / (radii[pairs.i] + radii[pairs.j])
    if not len(ratio) or ratio.min() >= factor:
        return None
    k = int(ratio.argmin())
    return Contact(float(ratio[k]), int(pairs.i[k]), int(pairs.j[k]), float(pairs.distance[k]))
