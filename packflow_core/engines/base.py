"""What an energy engine is: crystals in; energies, forces and stress out.

Units everywhere: energies in eV per cell, forces in eV/Å, stress in eV/Å3 with ASE's sign (the
derivative of the energy with respect to strain over the volume: negative under compression).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from ase.units import GPa, kJ, mol
from numpy.typing import ArrayLike, NDArray

from packflow_core.crystal.crystal import Crystal
from packflow_core.store.schema import Reason

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

#: 1 eV/Å3 in GPa (CODATA 2014, as in ASE).
EV_A3_TO_GPA = 1.0 / float(GPa)
#: 1 eV per molecule in kJ/mol (CODATA 2014, as in ASE).
EV_TO_KJ_MOL = float(mol / kJ)


class EngineError(Exception):
    """An engine cannot evaluate a crystal: the crystal's fault or the engine's, never the user's.

    Args:
        reason: the reason that the candidate's row records.
        detail: what happened, in words and numbers.
    """

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[type[EngineError], tuple[Reason, str]]:
        return (type(self), (self.reason, self.detail))


@dataclass(frozen=True, eq=False)
class EngineResult:
    """Energies, forces and stress of a batch of B crystals with A atoms in all.

    Attributes:
        energies: [B] eV per cell.
        forces: [A, 3] eV/Å, crystal after crystal.
        stress: [B, 3, 3] eV/Å3.
        n_atoms: [B] atoms of each crystal.
    """

    energies: FloatArray
    forces: FloatArray
    stress: FloatArray
    n_atoms: IntArray

    def forces_of(self, index: int) -> FloatArray:
        """Forces [N, 3] in eV/Å on the atoms of one crystal."""
        begin = int(self.n_atoms[:index].sum())
        return self.forces[begin : begin + int(self.n_atoms[index])]


class Engine(Protocol):
    """An energy engine.

    Attributes:
        name: the name that selects it, for example "gfnff".
        identity: versions and settings that its numbers depend on.
        remembers: whether a calculator of `as_ase` depends on the crystal it was made for
            (a topology, a supercell), so that a fresh one may disagree after a relaxation.
    """

    @property
    def name(self) -> str:
        """See the class."""
        ...

    @property
    def identity(self) -> dict[str, str]:
        """See the class."""
        ...

    @property
    def remembers(self) -> bool:
        """See the class."""
        ...

    def evaluate(self, crystals: Sequence[Crystal]) -> EngineResult:
        """Energies, forces and stress of crystals.

        Raises:
            EngineError: one of them cannot be evaluated.
        """
        ...

    def as_ase(self, crystal: Crystal) -> Any:
        """ASE calculator for one relaxation that starts at `crystal`.

        It evaluates Atoms with the atoms of `crystal` in their order, with molecules whole, and
        may keep what it derived from `crystal` so that the energy is a continuous function. Its
        attribute `replicas`, where present, tells the supercell it works in.

        Raises:
            EngineError: the crystal cannot be evaluated.
        """
        ...


def concatenate(
    energies: Sequence[float], forces: Sequence[ArrayLike], stress: Sequence[ArrayLike]
) -> EngineResult:
    """Batch result of the results of single crystals (eV, [N, 3] eV/Å, [3, 3] eV/Å3)."""
    arrays = [np.asarray(f, dtype=np.float64).reshape(-1, 3) for f in forces]
    return EngineResult(
        energies=np.asarray(energies, dtype=np.float64),
        forces=np.concatenate(arrays) if arrays else np.zeros((0, 3)),
        stress=np.asarray(stress, dtype=np.float64).reshape(-1, 3, 3),
        n_atoms=np.array([len(a) for a in arrays], dtype=np.int64),
    )


def boxed(numbers: ArrayLike, positions: ArrayLike, box: float = 25.0) -> Crystal:
    """One molecule in a cubic box, for engines that know periodic systems only.

    Args:
        numbers: [n] atomic numbers.
        positions: [n, 3] Å.
        box: edge in Å; enlarged where the molecule would come closer than 12 Å to its images.
    """
    xyz = np.asarray(positions, dtype=np.float64)
    low, high = xyz.min(axis=0), xyz.max(axis=0)
    edge = max(box, float((high - low).max()) + 12.0)
    return Crystal(np.asarray(numbers), xyz - (low + high) / 2 + edge / 2, np.eye(3) * edge, 1)
