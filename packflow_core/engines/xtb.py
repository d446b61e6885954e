"""GFN1-xTB and GFN2-xTB, semiempirical tight binding, through the package `tblite`.

Grimme, Bannwarth and Shushkov, J. Chem. Theory Comput. 2017, 13, 1989 (GFN1-xTB); Bannwarth,
Ehlert and Grimme, ibid. 2019, 15, 1652 (GFN2-xTB). What the library needs, and gets here:

* Large cells: it knows the Gamma point only, and urea in its own cell is 20 kJ/mol off. See
  `supercell`.
* Geometries that are crystals: it raises nothing for near-singular cells and atoms on top of each
  other, but takes minutes or hangs. Both are refused before every call.
* Disposable processes: the integrals of an odd geometry may still take for ever.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from importlib import metadata, util
from typing import Any

import numpy as np
from ase.units import Bohr, Hartree
from numpy.typing import NDArray

from packflow_core.crystal.contacts import neighbour_pairs
from packflow_core.crystal.crystal import Crystal
from packflow_core.crystal.lattice import heights
from packflow_core.engines.base import BaseEngine, EngineError, EngineResult, compute_each
from packflow_core.engines.supercell import Supercell, supercell
from packflow_core.errors import UserInputError
from packflow_core.store.schema import Reason

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

METHODS = {"gfn1-xtb": "GFN1-xTB", "gfn2-xtb": "GFN2-xTB"}

#: Cell heights in Å from which the Gamma point alone is good enough for molecular crystals.
DEFAULT_MIN_HEIGHT = 8.0

#: A supercell that has shrunk to this fraction of the height it was made for is none any more.
_COLLAPSED = 0.5

#: Å; the shortest bond there is, H-H, is 0.74.
MIN_DISTANCE = 0.5

#: Atoms in a supercell; the cost grows with the third power, and 600 take minutes a call.
MAX_ATOMS = 600


class XTBEngine(BaseEngine):
    """Engines `gfn1-xtb` and `gfn2-xtb`.

    Args:
        name: which of them.
        min_height: the cell is repeated until every height reaches this, in Å.
        accuracy: tblite's; smaller converges the density further (1 leaves 1e-4 eV/Å of noise).

    Raises:
        UserInputError: the package is not installed.
    """

    remembers = True

    def __init__(
        self, name: str, min_height: float = DEFAULT_MIN_HEIGHT, accuracy: float = 1.0
    ) -> None:
        if util.find_spec("tblite") is None:
            raise UserInputError(
                f"The engine '{name}' needs the package tblite; install it with "
                "pip install 'packflow-csp[xtb]', or choose another engine."
            )
        self.name = name
        self.min_height = min_height
        self.accuracy = accuracy

    @cached_property
    def identity(self) -> dict[str, str]:
        """Engine, package version, the smallest cell height and the accuracy."""
        return {
            "engine": self.name,
            "tblite": metadata.version("tblite"),
            "min_height_A": f"{self.min_height:g}",
            "accuracy": f"{self.accuracy:g}",
        }

    def prepare(self, crystal: Crystal) -> XTBSystem:
        """Supercell of `crystal`.

        Raises:
            EngineError: BAD_CELL where none can be made.
        """
        return XTBSystem(crystal, METHODS[self.name], self.min_height, self.accuracy)

    def compute(
        self,
        prepared: Sequence[XTBSystem],
        positions: FloatArray,
        cells: FloatArray,
        n_atoms: IntArray,
    ) -> EngineResult:
        """See `Engine`; errors are BAD_CELL, CLASH, SCF, NAN or ENGINE."""
        return compute_each(prepared, positions, cells, n_atoms)


class XTBSystem:
    """One crystal; keeps the supercell and the last density while atoms and cell move.

    Attributes:
        replicas: repetitions of the reduced cell in the supercell.
    """

    def __init__(
        self, crystal: Crystal, method: str, min_height: float, accuracy: float = 1.0
    ) -> None:
        self._map: Supercell = supercell(crystal, min_height, MAX_ATOMS)
        self.replicas = self._map.replicas
        self._method = method
        self._accuracy = accuracy
        self._min_height = _COLLAPSED * min_height
        self._numbers = np.tile(crystal.numbers, self._map.copies)
        self._native: Any = None
        self._last: Any = None

    def forget(self) -> None:
        """Drop the density; the next call gives what a new system would give."""
        self._last = None

    def compute(
        self, positions: FloatArray, cell: FloatArray
    ) -> tuple[float, FloatArray, FloatArray]:
        """Energy (eV per cell), forces [N, 3] (eV/Å) and stress [3, 3] (eV/Å3) at a geometry.

        The density starts from that of the last call, so the last digits depend on it.

        Args:
            positions: [N, 3] Å, in the order and the images of the crystal of this system.
            cell: [3, 3] Å, right-handed.

        Raises:
            EngineError: BAD_CELL, CLASH, SCF, NAN or ENGINE.
        """
        volume = self._check(positions, cell)
        big = self._map.cell(cell)
        last, self._last = self._last, None
        try:
            native = self._at(self._map.positions(positions, cell) / Bohr, big / Bohr)
            result = self._converged(native, last)
            energy = float(result["energy"])
            forces = self._map.fold(result["gradient"]) * (-Hartree / Bohr)
            virial = np.asarray(result["virial"])
        except RuntimeError as error:
            raise EngineError(_reason(error), f"tblite: {' '.join(str(error).split())}") from error
        stress = 0.5 * (virial + virial.T) * (Hartree / (volume * self._map.copies))
        if not (np.isfinite(energy) and np.isfinite(forces).all() and np.isfinite(stress).all()):
            raise EngineError(Reason.NAN, "energy, forces or stress are not finite")
        self._last = result
        return energy * float(Hartree) / self._map.copies, forces, stress

    def _check(self, positions: FloatArray, cell: FloatArray) -> float:
        """Volume in Å3 of a cell that the library can be trusted with."""
        if not (np.isfinite(positions).all() and np.isfinite(cell).all()):
            raise EngineError(Reason.NAN, "positions or cell are not finite")
        volume = float(np.linalg.det(cell))
        if volume <= 0:
            raise EngineError(Reason.BAD_CELL, f"cell volume {volume:g} Å3")
        low = float(heights(self._map.cell(cell)).min())
        if low < self._min_height:
            raise EngineError(
                Reason.BAD_CELL, f"supercell height {low:.2f} Å, below {self._min_height:g} Å"
            )
        try:
            close = neighbour_pairs(positions, cell, MIN_DISTANCE).distance
        except ValueError as error:
            raise EngineError(Reason.BAD_CELL, "the cell is too flat") from error
        if len(close):
            raise EngineError(Reason.CLASH, f"two atoms are {close.min():.2f} Å apart")
        return volume

    def _at(self, positions: FloatArray, cell: FloatArray) -> Any:
        """The library's calculator at a geometry in Bohr."""
        if self._native is not None:
            self._native.update(positions, cell)
            return self._native
        from tblite.interface import Calculator

        self._native = Calculator(
            self._method,
            self._numbers,
            positions,
            charge=0.0,
            lattice=cell,
            periodic=np.ones(3, dtype=bool),
        )
        self._native.set("verbosity", 0)
        self._native.set("accuracy", self._accuracy)
        return self._native

    @staticmethod
    def _converged(native: Any, last: Any) -> Any:
        if last is not None:
            try:
                return native.singlepoint(last)
            except RuntimeError:
                pass  # an old density can be worse than none
        return native.singlepoint()


def _reason(error: RuntimeError) -> Reason:
    text = str(error).lower()
    return Reason.SCF if "scf" in text or "converge" in text else Reason.ENGINE
