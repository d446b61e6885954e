"""What an energy engine is: crystals in; energies, forces and stress out.

Units everywhere: energies in eV per cell, forces in eV/Å, stress in eV/Å3 with ASE's sign (the
derivative of the energy with respect to strain over the volume: negative under compression).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from ase.calculators.calculator import BaseCalculator, all_changes
from ase.stress import full_3x3_to_voigt_6_stress
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


class EngineMemoryError(Exception):
    """A batch does not fit into the memory of the device; a smaller one may."""


@dataclass(frozen=True, eq=False)
class EngineResult:
    """Energies, forces and stress of a batch of B crystals with A atoms in all.

    Attributes:
        energies: [B] eV per cell.
        forces: [A, 3] eV/Å, crystal after crystal.
        stress: [B, 3, 3] eV/Å3.
        n_atoms: [B] atoms of each crystal.
        errors: crystals (by position in the batch) that could not be evaluated, and why; their
            energies, forces and stress are NaN.
    """

    energies: FloatArray
    forces: FloatArray
    stress: FloatArray
    n_atoms: IntArray
    errors: Mapping[int, EngineError] = field(default_factory=dict)

    def forces_of(self, index: int) -> FloatArray:
        """Forces [N, 3] in eV/Å on the atoms of one crystal."""
        begin = int(self.n_atoms[:index].sum())
        return self.forces[begin : begin + int(self.n_atoms[index])]


class Engine(Protocol):
    """An energy engine: the interface of `BaseEngine`.

    Attributes:
        name: the name that selects it, for example "gfnff".
        identity: versions and settings that its numbers depend on.
        remembers: whether what `prepare` returns depends on the crystal it was made for (a
            topology, a supercell), so that a fresh one may disagree after a relaxation.
        batched: whether many crystals in one call cost less than one call each.
        device: where it computes, for example "cpu" or "cuda:0 (NVIDIA H200)".
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

    @property
    def batched(self) -> bool:
        """See the class."""
        ...

    @property
    def device(self) -> str:
        """See the class."""
        ...

    def prepare(self, crystal: Crystal) -> Any:
        """What the engine keeps of a crystal for one relaxation that starts there.

        The same crystal gives the same thing in any process, so that a relaxation can be
        continued elsewhere. Its attribute `replicas`, where present, tells the supercell that the
        engine works in. Its method `forget()`, where present, drops what later calls would take
        from earlier ones (a converged density to start from).

        Raises:
            EngineError: the crystal cannot be evaluated.
        """
        ...

    def compute(
        self, prepared: Sequence[Any], positions: FloatArray, cells: FloatArray, n_atoms: IntArray
    ) -> EngineResult:
        """Energies, forces and stress of B prepared crystals with A atoms in all.

        A crystal's numbers do not depend on its batch mates, up to the arithmetic of the device.
        A crystal that cannot be evaluated is in the `errors` of the result; the others have
        their numbers all the same.

        Args:
            prepared: [B] results of `prepare`.
            positions: [A, 3] Å, crystal after crystal, atoms in the order and the images of the
                crystals that were prepared.
            cells: [B, 3, 3] Å, right-handed.
            n_atoms: [B] atoms of each crystal.

        Raises:
            EngineMemoryError: the batch is too large for the device.
        """
        ...

    def evaluate(self, crystals: Sequence[Crystal]) -> EngineResult:
        """Energies, forces and stress of crystals, each prepared afresh.

        Raises:
            EngineError: one of them cannot be evaluated.
        """
        ...

    def as_ase(self, crystal: Crystal) -> Any:
        """ASE calculator for `crystal` and geometries that follow from it.

        Raises:
            EngineError: the crystal cannot be evaluated.
        """
        ...

    def atoms_per_call(self) -> int:
        """Atoms that a call may hold at most, from the memory of the device."""
        ...


class BaseEngine(ABC):
    """What engines share: `evaluate`, `as_ase`, and modest defaults.

    A subclass sets `name` and `identity` and defines `prepare` and `compute`.
    """

    name: str = ""
    remembers: bool = False
    batched: bool = False
    device: str = "cpu"

    @property
    def identity(self) -> dict[str, str]:
        """Versions and settings that the numbers depend on."""
        return {"engine": self.name}

    @abstractmethod
    def prepare(self, crystal: Crystal) -> Any:
        """See `Engine`."""

    @abstractmethod
    def compute(
        self, prepared: Sequence[Any], positions: FloatArray, cells: FloatArray, n_atoms: IntArray
    ) -> EngineResult:
        """See `Engine`."""

    def evaluate(self, crystals: Sequence[Crystal]) -> EngineResult:
        """See `Engine`."""
        if not crystals:
            return concatenate([], [], [])
        result = self.compute(
            [self.prepare(crystal) for crystal in crystals],
            np.concatenate([crystal.positions for crystal in crystals]),
            np.stack([crystal.cell for crystal in crystals]),
            np.array([len(crystal) for crystal in crystals], dtype=np.int64),
        )
        if result.errors:
            raise result.errors[min(result.errors)]
        return result

    def as_ase(self, crystal: Crystal) -> EngineCalculator:
        """See `Engine`."""
        return EngineCalculator(self, crystal)

    def atoms_per_call(self) -> int:
        """See `Engine`."""
        return 4096


class EngineCalculator(BaseCalculator):  # type: ignore[misc]
    """ASE calculator of one crystal, by any engine.

    Not an `ase.calculators.Calculator`: those refer to themselves, so the memory of native
    libraries, several MB for each, would wait for the garbage collector.

    Args:
        engine: the engine.
        crystal: the atoms, their order and their images.

    Attributes:
        replicas: repetitions of the cell in the supercell that the engine works in.
    """

    implemented_properties = ("energy", "free_energy", "forces", "stress")

    def __init__(self, engine: BaseEngine, crystal: Crystal) -> None:
        super().__init__()
        self._engine = engine
        self._numbers = crystal.numbers
        self._prepared = engine.prepare(crystal)
        self.replicas = getattr(self._prepared, "replicas", (1, 1, 1))

    def calculate(
        self,
        atoms: Any,
        properties: Sequence[str] = implemented_properties,
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Fill `results` for `atoms`, which must have the atoms of the calculator's crystal."""
        if not np.array_equal(atoms.numbers, self._numbers):
            raise ValueError("this calculator was made for other atoms")
        result = self._engine.compute(
            [self._prepared],
            np.array(atoms.positions, dtype=np.float64),
            np.array(atoms.cell[:], dtype=np.float64)[None],
            np.array([len(atoms)], dtype=np.int64),
        )
        if result.errors:
            raise result.errors[0]
        self.results = {
            "energy": float(result.energies[0]),
            "free_energy": float(result.energies[0]),
            "forces": result.forces,
            "stress": full_3x3_to_voigt_6_stress(result.stress[0]),
        }


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


def compute_each(
    prepared: Sequence[Any], positions: FloatArray, cells: FloatArray, n_atoms: IntArray
) -> EngineResult:
    """`Engine.compute` for engines that know one crystal at a time.

    Each item of `prepared` has a method `compute(positions [N, 3], cell [3, 3])` that returns
    energy (eV), forces [N, 3] (eV/Å) and stress [3, 3] (eV/Å3), or raises `EngineError`.
    """
    size = len(prepared)
    energies, stress = np.full(size, np.nan), np.full((size, 3, 3), np.nan)
    forces = np.full((int(n_atoms.sum()), 3), np.nan)
    errors: dict[int, EngineError] = {}
    end = 0
    for k, item in enumerate(prepared):
        begin, end = end, end + int(n_atoms[k])
        try:
            energies[k], forces[begin:end], stress[k] = item.compute(positions[begin:end], cells[k])
        except EngineError as error:
            errors[k] = error
    return EngineResult(energies, forces, stress, np.asarray(n_atoms), errors)


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
