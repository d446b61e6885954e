"""One crystal, relaxed with ASE's FIRE (Bitzek et al., Phys. Rev. Lett. 2006, 97, 170201)."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms
from ase.filters import FrechetCellFilter
from ase.optimize import FIRE
from numpy.typing import NDArray

from packflow_core.crystal.crystal import Crystal
from packflow_core.engines.base import EV_A3_TO_GPA, EV_TO_KJ_MOL, Engine, EngineError
from packflow_core.relax.guards import Fault, Guard
from packflow_core.relax.protocol import RelaxParams
from packflow_core.store.schema import Reason, Status

logger = logging.getLogger(__name__)

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

#: How often a relaxation may be continued with a fresh calculator.
_MAX_CONTINUATIONS = 1

#: Reasons by which a candidate is refused before its relaxation; the rest are failures.
_REFUSALS = frozenset({Reason.CLASH, Reason.BAD_CELL, Reason.BROKEN_MOLECULE})


class Step(NamedTuple):
    """What an observer of a relaxation sees after every evaluation.

    Attributes:
        number: optimiser steps so far.
        energy: eV.
        fmax: largest force on a free atom, eV/Å.
        stress: largest absolute component of the stress, GPa.
        volume: Å3.
    """

    number: int
    energy: float
    fmax: float
    stress: float
    volume: float


@dataclass(frozen=True, eq=False)
class Relaxation:
    """Outcome of a relaxation.

    Attributes:
        status: ok, unconverged, rejected or failed.
        reason: why it is not ok.
        detail: the reason in words and numbers.
        crystal: the last sound geometry.
        last: energy, force and stress there; None where nothing could be evaluated.
        first: the same at the start.
        n_steps: optimiser steps.
        replicas: repetitions of the cell in which the engine worked.
    """

    status: Status
    reason: Reason
    detail: str
    crystal: Crystal
    last: Step | None
    first: Step | None
    n_steps: int
    replicas: tuple[int, int, int] | None


def relax_crystal(
    crystal: Crystal,
    engine: Engine,
    params: RelaxParams,
    bonds: IntArray,
    observer: Callable[[Step], None] | None = None,
) -> Relaxation:
    """Relax a crystal; whatever goes wrong is in the result, not raised.

    Where the engine remembers its start, the energy of the result is that of a fresh calculator
    at the final geometry, so it depends on that geometry alone. If the two differ by more than
    allowed, the relaxation goes on from there once; if they still differ, it fails.

    Args:
        crystal: molecules whole.
        engine: the energy engine.
        params: the protocol.
        bonds: [nb, 2] bonds of one molecule, hydrogens included.
        observer: called after every evaluation.
    """
    run = _Run(crystal, engine, params, bonds, observer)
    fault = run.guard.check_start(crystal)
    if fault is not None:
        return run.refused(fault)
    for _ in range(1 + _MAX_CONTINUATIONS):
        try:
            calculator = engine.as_ase(run.crystal)
            fault = run.optimise(calculator)
        except EngineError as error:
            return run.ended_by(error)
        except Exception as error:
            logger.exception("relaxation failed")
            return run.failed(Fault(Reason.ENGINE, f"{type(error).__name__}: {error}"))
        if fault is not None:
            return run.failed(fault)
        if not (run.converged and engine.remembers and params.moves_cell):
            return run.result()
        jump = run.refresh()
        if isinstance(jump, Fault):
            return run.failed(jump)
        if jump <= params.max_energy_jump_kJ_mol:
            return run.result()
    return run.failed(
        Fault(
            Reason.TOPOLOGY,
            f"a fresh calculator differs by {jump:.2f} kJ/mol per molecule from the relaxed one",
        )
    )


class _Run:
    """State of one relaxation."""

    def __init__(
        self,
        crystal: Crystal,
        engine: Engine,
        params: RelaxParams,
        bonds: IntArray,
        observer: Callable[[Step], None] | None,
    ) -> None:
        self.crystal = crystal
        self.engine = engine
        self.params = params
        self.observer = observer
        self.guard = Guard(crystal, bonds, params)
        self.first: Step | None = None
        self.last: Step | None = None
        self.n_steps = 0
        self.replicas: tuple[int, int, int] | None = None
        self.converged = False

    def optimise(self, calculator: Any) -> Fault | None:
        """FIRE steps until convergence, the step limit, or a fault."""
        self.replicas = getattr(calculator, "replicas", (1, 1, 1))
        atoms = self.crystal.to_ase()
        atoms.calc = calculator
        target: Any = atoms
        if self.params.moves_cell:
            target = _CachedFilter(atoms, exp_cell_factor=self.params.exp_cell_factor)
        else:
            atoms.set_constraint(FixAtoms(mask=self.crystal.heavy))
        fire = FIRE(target, logfile=None)
        with warnings.catch_warnings():
            # SciPy doubts logarithms of near-identities at 4e-13, ten digits beyond any need.
            warnings.filterwarnings("ignore", message="logm result may be inaccurate")
            return self._iterate(atoms, target, fire)

    def _iterate(self, atoms: Atoms, target: Any, fire: Any) -> Fault | None:
        while True:
            fault = self._look(atoms)
            if fault is not None:
                return fault
            self.converged = self._is_converged(target)
            if self.converged or self.n_steps >= self.params.max_steps:
                return None
            fire.step()
            fire.nsteps += 1
            self.n_steps += 1

    def _look(self, atoms: Atoms) -> Fault | None:
        """Evaluate the geometry, and keep it if it is sound."""
        # Copies: ASE changes both in place.
        positions, cell = atoms.get_positions(), np.array(atoms.cell[:])
        fault = self.guard.check(positions, cell, 0.0, 0.0)
        if fault is not None:
            return fault
        energy = float(atoms.get_potential_energy())
        fmax = _largest_row(atoms.get_forces())
        fault = self.guard.check(positions, cell, energy, fmax)
        if fault is not None:
            return fault
        stress = float(np.abs(atoms.get_stress()).max()) * EV_A3_TO_GPA
        step = Step(self.n_steps, energy, fmax, stress, float(np.linalg.det(cell)))
        self.first = self.first or step
        self.last = step
        self.crystal = self.crystal.with_positions(positions, cell)
        if self.observer is not None:
            self.observer(step)
        return None

    def _is_converged(self, target: Any) -> bool:
        assert self.last is not None
        if self.params.protocol == "paper":
            return _largest_row(target.get_forces()) < self.params.fmax
        calm = self.params.max_stress_GPa is None or self.last.stress <= self.params.max_stress_GPa
        return self.last.fmax <= self.params.fmax and calm

    def refresh(self) -> float | Fault:
        """Take the energy of a fresh calculator; returns how far it is off, kJ/mol per molecule."""
        assert self.last is not None
        try:
            energy = float(self.engine.evaluate([self.crystal]).energies[0])
        except EngineError as error:
            return Fault(error.reason, f"at the relaxed geometry: {error.detail}")
        jump = abs(energy - self.last.energy) / self.crystal.z * EV_TO_KJ_MOL
        self.last = self.last._replace(energy=energy)
        return jump

    # -- outcomes ----------------------------------------------------------------------------
    def result(self) -> Relaxation:
        """Converged, or out of steps."""
        assert self.last is not None
        if self.converged:
            return self._outcome(Status.OK, Reason.NONE, "")
        limit = self.params.max_stress_GPa
        detail = f"fmax {self.last.fmax:.3f} eV/Å, stress {self.last.stress:.2f} GPa"
        if self.last.fmax <= self.params.fmax and limit is not None and self.last.stress > limit:
            return self._outcome(Status.UNCONVERGED, Reason.STRESS, detail)
        return self._outcome(Status.UNCONVERGED, Reason.MAX_STEPS, detail)

    def refused(self, fault: Fault) -> Relaxation:
        """Not begun."""
        return self._outcome(Status.REJECTED, fault.reason, fault.detail)

    def failed(self, fault: Fault) -> Relaxation:
        """Broken on the way."""
        return self._outcome(Status.FAILED, fault.reason, fault.detail)

    def ended_by(self, error: EngineError) -> Relaxation:
        """The engine gave up: a refusal before the first evaluation, a failure after it."""
        fault = Fault(error.reason, error.detail)
        if self.first is None and error.reason in _REFUSALS:
            return self.refused(fault)
        if error.reason == Reason.BAD_CELL:
            fault = Fault(Reason.EXPLODED, error.detail)
        return self.failed(fault)

    def _outcome(self, status: Status, reason: Reason, detail: str) -> Relaxation:
        return Relaxation(
            status, reason, detail, self.crystal, self.last, self.first, self.n_steps, self.replicas
        )


class _CachedFilter(FrechetCellFilter):  # type: ignore[misc]
    """FrechetCellFilter that computes its forces once per geometry.

    They are asked for twice a step, and their matrix functions take milliseconds.
    """

    _key: tuple[bytes, bytes] | None = None
    _forces: FloatArray

    def get_forces(self, **kwargs: Any) -> FloatArray:
        """Forces [N + 3, 3] on atoms and cell."""
        key = (self.atoms.positions.tobytes(), self.atoms.cell.array.tobytes())
        if key != self._key:
            self._forces = super().get_forces(**kwargs)
            self._key = key
        return self._forces.copy()


def _largest_row(forces: FloatArray) -> float:
    return float(np.linalg.norm(forces, axis=1).max(initial=0.0))


def gas_phase(
    engine: Engine, numbers: IntArray, positions: FloatArray, fmax: float = 0.01
) -> tuple[float, FloatArray]:
    """Energy of a relaxed molecule on its own, the reference of lattice energies.

    Args:
        engine: the energy engine.
        numbers: [n] atomic numbers.
        positions: [n, 3] Å, the conformer to start from.
        fmax: largest force at the end, eV/Å.

    Returns:
        Energy in eV and relaxed positions [n, 3] in Å.

    Raises:
        EngineError: the engine fails, or it takes more than 1000 steps.
    """
    from ase.optimize import BFGS

    from packflow_core.engines.base import boxed

    start = boxed(numbers, positions)
    atoms = start.to_ase()
    atoms.calc = engine.as_ase(start)
    if not BFGS(atoms, logfile=None).run(fmax=fmax, steps=1000):
        raise EngineError(Reason.MAX_STEPS, "the molecule did not relax in 1000 steps")
    return float(atoms.get_potential_energy()), np.asarray(atoms.get_positions())
