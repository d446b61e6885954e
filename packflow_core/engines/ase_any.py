"""Any ASE calculator as an engine: `ase:module:factory?argument=value&...`.

The factory is called with the arguments and returns an ASE calculator that gives energy, forces
and stress of periodic crystals. One is made for every crystal, because calculators remember what
they saw; where that is too expensive (a network on a GPU) and the calculator remembers nothing
that matters, the factory says so with an attribute `shared = True`. An attribute `remembers =
True` of the factory or the calculator tells that its numbers depend on the crystal it saw first
(a topology, a supercell); the energy of a relaxed crystal then comes from a fresh one.

Whoever names a factory makes its code run: see `trust`.
"""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, NoReturn

import numpy as np
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError
from ase.stress import voigt_6_to_full_3x3_stress
from numpy.typing import NDArray

from packflow_core.crystal.crystal import Crystal
from packflow_core.engines.base import (
    BaseEngine,
    EngineError,
    EngineMemoryError,
    EngineResult,
    compute_each,
)
from packflow_core.engines.factory import describe_module, parse_factory
from packflow_core.engines.memory import is_out_of_memory
from packflow_core.errors import UserInputError
from packflow_core.store.schema import Reason

logger = logging.getLogger(__name__)

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

#: What ASE asks of a calculator.
_METHODS = ("get_potential_energy", "get_forces", "get_stress")


class AnyASEEngine(BaseEngine):
    """Engines `ase:module:factory`.

    Args:
        name: the name, with the arguments of the factory.

    Raises:
        UserInputError: the name, the module, the factory or its arguments are wrong, or what it
            returns is no calculator that gives energy, forces and stress.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._factory = parse_factory(name)
        self._make = self._import()
        # The first one is made at once, so that wrong arguments are told before any work is done.
        self._spare: Any = self._first()
        self.device = _device()
        self._shared = bool(getattr(self._make, "shared", False))
        self.remembers = bool(
            getattr(self._make, "remembers", getattr(self._spare, "remembers", False))
        )

    @cached_property
    def identity(self) -> dict[str, str]:
        """Engine and the version or the contents of the factory's module."""
        return {"engine": self.name, "module": describe_module(self._factory.module)}

    def prepare(self, crystal: Crystal) -> ASESystem:
        """A calculator for `crystal`.

        Raises:
            EngineError: ENGINE where the factory fails.
        """
        self.device = _device()
        if self._shared:
            return ASESystem(crystal.numbers, self._spare)
        calculator, self._spare = self._spare, None
        if calculator is None:
            try:
                calculator = self._make(**self._factory.arguments)
            except Exception as error:
                _fail(error, self._factory.subject)
        return ASESystem(crystal.numbers, calculator)

    def compute(
        self,
        prepared: Sequence[ASESystem],
        positions: FloatArray,
        cells: FloatArray,
        n_atoms: IntArray,
    ) -> EngineResult:
        """See `Engine`; errors are NAN or ENGINE, and what the calculator raises as EngineError.

        Raises:
            EngineMemoryError: memory ran out.
            Exception: the GPU broke; the process is no longer to be trusted.
        """
        return compute_each(prepared, positions, cells, n_atoms)

    # -- the factory ---------------------------------------------------------------------------
    def _import(self) -> Callable[..., Any]:
        module, function = self._factory.module, self._factory.function
        try:
            make = getattr(importlib.import_module(module), function)
        except AttributeError as error:
            raise UserInputError(
                f"The module '{module}' has no '{function}' for the engine '{self.name}' "
                f"({_brief(error)})."
            ) from error
        except (Exception, SystemExit) as error:
            raise UserInputError(
                f"The module '{module}' of the engine '{self.name}' cannot be imported "
                f"({_brief(error)}); install it, or add its folder to PYTHONPATH."
            ) from error
        if not callable(make):
            raise UserInputError(
                f"'{function}' in '{module}' is a {type(make).__name__}; the engine '{self.name}' "
                "needs a function or a class that returns an ASE calculator."
            )
        return make  # type: ignore[no-any-return]

    def _first(self) -> Any:
        try:
            calculator = self._make(**self._factory.arguments)
        except (Exception, SystemExit) as error:
            raise UserInputError(
                f"The factory of the engine '{self.name}' failed ({_brief(error)}); its arguments "
                f"were {dict(self._factory.arguments)}."
            ) from error
        missing = [method for method in _METHODS if not hasattr(calculator, method)]
        if missing:
            raise UserInputError(
                f"The factory of the engine '{self.name}' returned a "
                f"{type(calculator).__name__} without {', '.join(missing)}; it must return an ASE "
                "calculator."
            )
        given = getattr(calculator, "implemented_properties", None)
        absent = [] if given is None else sorted({"energy", "forces", "stress"} - set(given))
        if absent:
            raise UserInputError(
                f"The calculator of the engine '{self.name}' gives no {' and no '.join(absent)}, "
                "without which a crystal cannot be relaxed; choose another one."
            )
        return calculator


class ASESystem:
    """One crystal and its calculator."""

    def __init__(self, numbers: IntArray, calculator: Any) -> None:
        self._numbers = numbers
        self._calculator = calculator

    def compute(
        self, positions: FloatArray, cell: FloatArray
    ) -> tuple[float, FloatArray, FloatArray]:
        """Energy (eV per cell), forces [N, 3] (eV/Å) and stress [3, 3] (eV/Å3) at a geometry.

        Args:
            positions: [N, 3] Å.
            cell: [3, 3] Å.

        Raises:
            EngineError: NAN, ENGINE, or what the calculator raises as such.
        """
        if not (np.isfinite(positions).all() and np.isfinite(cell).all()):
            raise EngineError(Reason.NAN, "positions or cell are not finite")
        # Atoms of its own for every call: some calculators change what they are given.
        atoms = Atoms(numbers=self._numbers, positions=positions, cell=cell, pbc=True)
        try:
            raw = (
                _energy(self._calculator, atoms),
                self._calculator.get_forces(atoms),
                self._calculator.get_stress(atoms),
            )
        except Exception as error:
            _fail(error, type(self._calculator).__name__)
        energy, forces, stress = (
            _array(name, value)
            for name, value in zip(("energy", "forces", "stress"), raw, strict=True)
        )
        return _scalar(energy), _forces(forces, len(atoms)), _stress(stress)


def _energy(calculator: Any, atoms: Atoms) -> Any:
    """The energy whose derivatives the forces are, which for smeared electrons is the free one."""
    try:
        return calculator.get_potential_energy(atoms, force_consistent=True)
    except (PropertyNotImplementedError, TypeError):  # it has none, or no such argument
        return calculator.get_potential_energy(atoms)


def _array(name: str, value: Any) -> FloatArray:
    try:
        array = np.array(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise EngineError(
            Reason.ENGINE, f"the calculator's {name} is a {type(value).__name__}, not numbers"
        ) from error
    return array


def _scalar(energy: FloatArray) -> float:
    if energy.size != 1:
        raise EngineError(Reason.ENGINE, f"energy of shape {energy.shape} instead of one number")
    _demand_finite("energy", energy)
    return float(energy.reshape(()))


def _forces(forces: FloatArray, n: int) -> FloatArray:
    if forces.shape != (n, 3):
        raise EngineError(Reason.ENGINE, f"forces of shape {forces.shape} instead of {(n, 3)}")
    return _demand_finite("forces", forces)


def _stress(stress: FloatArray) -> FloatArray:
    if stress.shape not in {(6,), (3, 3)}:
        raise EngineError(
            Reason.ENGINE, f"stress of shape {stress.shape} instead of (6,) or (3, 3)"
        )
    _demand_finite("stress", stress)
    full = voigt_6_to_full_3x3_stress(stress) if stress.shape == (6,) else stress
    return np.asarray(0.5 * (full + full.T), dtype=np.float64)


def _demand_finite(name: str, array: FloatArray) -> FloatArray:
    bad = int((~np.isfinite(array)).sum())
    if bad:
        raise EngineError(
            Reason.NAN, f"{bad} of {array.size} numbers of {name} {array.shape} are not finite"
        )
    return array


def _device() -> str:
    """Where calculators seem to compute: on a GPU once one of them has set torch up for it."""
    torch = sys.modules.get("torch")
    return "cuda" if torch is not None and torch.cuda.is_initialized() else "cpu"


def _fail(error: Exception, who: str) -> NoReturn:
    """Raise what an exception of foreign code means here."""
    if isinstance(error, EngineError | EngineMemoryError):
        raise error
    if is_out_of_memory(error):
        raise EngineMemoryError(f"{who}: {_brief(error)}") from error
    if "CUDA error" in str(error):
        raise error  # it poisons every later call of this process
    if not isinstance(error, PropertyNotImplementedError):
        logger.warning("%s failed", who, exc_info=error)
    raise EngineError(Reason.ENGINE, f"{who}: {_brief(error)}") from error


def _brief(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
