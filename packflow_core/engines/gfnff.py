"""mcGFN-FF: the force field GFN-FF, refitted for molecular crystals, through the package `gfnff`.

Spicher and Grimme, Angew. Chem. Int. Ed. 2020, 59, 15665; Grimme and Rose, Z. Naturforsch. B
2024, 79, 191 (mcGFN-FF). The library is native code that can crash on odd input: call it in
worker processes (`packflow_core.workers`) only. What it needs, and gets here:

* Molecules whole and inside one cell: it looks for images in the neighbouring cells only, and a
  molecule that lies two cells away costs tens of kJ/mol. See `supercell`.
* Large cells: with heights below 6 Å energies are several kJ/mol off. See `supercell`.
* A topology that does not depend on the packing: bonds are perceived from the geometry, and a
  clash would become a bond. Every molecule is a fragment of its own, and the topology is built
  with molecules moved apart where they overlap; for sound crystals this changes nothing.
* Right-handed cells, or the stress changes its sign; `Crystal` admits no others.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from importlib import metadata, util
from typing import Any

import numpy as np
from ase.units import Bohr, Hartree
from numpy.typing import NDArray

from packflow_core.crystal.crystal import Crystal
from packflow_core.crystal.lattice import heights
from packflow_core.crystal.separate import separate_molecules
from packflow_core.engines.base import BaseEngine, EngineError, EngineResult, compute_each
from packflow_core.engines.supercell import MIN_HEIGHT, Supercell, supercell
from packflow_core.errors import UserInputError
from packflow_core.store.schema import Reason

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

VERSION = "mcgfnff2023"

#: Cell heights in Å from which energies per molecule agree with larger supercells to 1 kJ/mol.
DEFAULT_MIN_HEIGHT = 6.5

#: Atoms in a supercell; a call with 1000 takes about 25 s.
MAX_ATOMS = 2000

#: Contacts below this fraction of the van der Waals sum are widened before bonds are perceived;
#: the shortest hydrogen bonds, 1.5 Å, lie above half of it.
_TOPOLOGY_CONTACT = 0.5

#: Largest linear growth of the cell for that. Beyond about 2 hydrogen bonds would be forgotten,
#: and molecules that need so much are entangled.
_TOPOLOGY_GROWTH = 1.8


class GFNFFEngine(BaseEngine):
    """Engine `gfnff`.

    Args:
        min_height: the cell is repeated until every height reaches this, in Å.

    Raises:
        UserInputError: the package is not installed.
    """

    name = "gfnff"
    remembers = True

    def __init__(self, min_height: float = DEFAULT_MIN_HEIGHT) -> None:
        if util.find_spec("gfnff") is None:
            raise UserInputError(
                "The engine 'gfnff' needs the package gfnff; install it with "
                "'pip install gfnff==0.3.1' or choose another engine."
            )
        self.min_height = min_height

    @cached_property
    def identity(self) -> dict[str, str]:
        """Engine, parametrisation, package version and the smallest cell height."""
        return {
            "engine": self.name,
            "version": VERSION,
            "gfnff": metadata.version("gfnff"),
            "min_height_A": f"{self.min_height:g}",
        }

    def prepare(self, crystal: Crystal) -> GFNFFSystem:
        """Topology and supercell of `crystal`.

        Raises:
            EngineError: CLASH or BAD_CELL where none can be made, ENGINE where the library fails.
        """
        return GFNFFSystem(crystal, self.min_height)

    def compute(
        self,
        prepared: Sequence[GFNFFSystem],
        positions: FloatArray,
        cells: FloatArray,
        n_atoms: IntArray,
    ) -> EngineResult:
        """See `Engine`; errors are CLASH, BAD_CELL, NAN or ENGINE."""
        return compute_each(prepared, positions, cells, n_atoms)


class GFNFFSystem:
    """One crystal; keeps topology and supercell while atoms and cell move.

    Attributes:
        replicas: repetitions of the reduced cell in the supercell.
    """

    def __init__(self, crystal: Crystal, min_height: float = DEFAULT_MIN_HEIGHT) -> None:
        self._map: Supercell = supercell(crystal, min_height, MAX_ATOMS)
        self.replicas = self._map.replicas
        self._numbers = np.tile(crystal.numbers, self._map.copies).astype(np.int32)
        self._native = self._build(self._topology_crystal(crystal))

    @staticmethod
    def _topology_crystal(crystal: Crystal) -> Crystal:
        try:
            separated = separate_molecules(
                crystal, _TOPOLOGY_CONTACT, _TOPOLOGY_CONTACT, _TOPOLOGY_GROWTH
            )
        except ValueError as error:
            raise EngineError(Reason.BAD_CELL, str(error)) from error
        if separated is None:
            raise EngineError(
                Reason.CLASH, f"molecules are still entangled {_TOPOLOGY_GROWTH:g} times apart"
            )
        return separated.crystal

    def _build(self, crystal: Crystal) -> Any:
        from gfnff import GFNFFCalculator as NativeCalculator

        big = self._map.expand(crystal)
        try:
            return NativeCalculator(
                self._numbers,
                big.positions / Bohr,
                lattice=big.cell / Bohr,
                npbc=3,
                version=VERSION,
                fragments=big.molecule_index + 1,
            )
        except RuntimeError as error:
            raise EngineError(Reason.ENGINE, f"gfnff: {error}") from error

    def compute(
        self, positions: FloatArray, cell: FloatArray
    ) -> tuple[float, FloatArray, FloatArray]:
        """Energy (eV per cell), forces [N, 3] (eV/Å) and stress [3, 3] (eV/Å3) at a geometry.

        Args:
            positions: [N, 3] Å, in the order and the images of the crystal of this calculator.
            cell: [3, 3] Å, right-handed.

        Raises:
            EngineError: BAD_CELL, NAN or ENGINE.
        """
        if not (np.isfinite(positions).all() and np.isfinite(cell).all()):
            raise EngineError(Reason.NAN, "positions or cell are not finite")
        volume = float(np.linalg.det(cell))
        if volume <= 0:
            raise EngineError(Reason.BAD_CELL, f"cell volume {volume:g} Å3")
        big = self._map.cell(cell)
        if heights(big).min() < MIN_HEIGHT:
            raise EngineError(Reason.BAD_CELL, f"supercell height {heights(big).min():.2f} Å")
        try:
            energy, gradient, sigma = self._native.singlepoint(
                self._numbers, self._map.positions(positions, cell) / Bohr, lattice=big / Bohr
            )
        except RuntimeError as error:
            raise EngineError(Reason.ENGINE, f"gfnff: {error}") from error
        forces = self._map.fold(gradient) * (-Hartree / Bohr)
        stress = 0.5 * (sigma + sigma.T) * (Hartree / (volume * self._map.copies))
        if not (np.isfinite(energy) and np.isfinite(forces).all() and np.isfinite(stress).all()):
            raise EngineError(Reason.NAN, "energy, forces or stress are not finite")
        return energy * Hartree / self._map.copies, forces, stress
