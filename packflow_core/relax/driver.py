"""In-flight relaxation: crystals enter a batch when there is room and leave it when they are done.

One engine call serves the whole batch; each crystal has its own step control, its own limits and
its own end, so its result is the same in any company (to the last bit where the engine's is).
"""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from packflow_core.crystal.crystal import Crystal
from packflow_core.engines.base import (
    EV_A3_TO_GPA,
    EV_TO_KJ_MOL,
    Engine,
    EngineError,
    EngineMemoryError,
    EngineResult,
    concatenate,
)
from packflow_core.relax.batch import Batch, Shape
from packflow_core.relax.guards import (
    Fault,
    check_energies,
    check_geometries,
    check_start,
    shape_of,
)
from packflow_core.relax.outcome import Relaxation, Step
from packflow_core.relax.protocol import RelaxParams
from packflow_core.relax.state import RelaxState
from packflow_core.store.schema import Reason, Status

logger = logging.getLogger(__name__)

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]
K = TypeVar("K")

#: Steps between two states from which a relaxation may be continued. At these steps an engine
#: forgets what later calls would take from earlier ones, so that both ways on are the same.
SNAPSHOT_STEPS = 25

#: How often a relaxation may be continued with a freshly prepared engine.
_MAX_CONTINUATIONS = 1

#: Reasons by which a candidate is refused before its relaxation; the rest are failures.
_REFUSALS = frozenset({Reason.CLASH, Reason.BAD_CELL, Reason.BROKEN_MOLECULE})


@dataclass(frozen=True, eq=False)
class Job(Generic[K]):
    """A crystal to relax.

    Attributes:
        key: comes back with the outcome.
        crystal: the start, molecules whole.
        state: where an earlier attempt had come to; None for a beginning.
    """

    key: K
    crystal: Crystal
    state: RelaxState | None = None


@dataclass(eq=False)
class _Member(Generic[K]):
    job: Job[K]
    state: RelaxState
    shape: Shape
    prepared: Any

    @property
    def z(self) -> int:
        return self.job.crystal.z


@dataclass(frozen=True, eq=False)
class _Look:
    """One evaluation of a batch of B crystals with A atoms, see `Driver._look`."""

    faults: dict[int, Fault | EngineError]
    energies: FloatArray
    fmax: FloatArray
    pressure: FloatArray
    general: FloatArray
    on_cell: FloatArray
    converged: BoolArray


class Driver(Generic[K]):
    """Relaxes crystals of one molecule with one engine and one protocol.

    Args:
        engine: the energy engine.
        params: the protocol.
        bonds: [nb, 2] bonds of one molecule, hydrogens included.
        limit_s: working time of a crystal, s; the time of a batch is shared out by atoms.
        observer: called with the key and the step after every evaluation.
        save: called with key and state every `SNAPSHOT_STEPS` steps; the state must be copied or
            packed at once.
        clock: seconds, for `limit_s`.
    """

    def __init__(
        self,
        engine: Engine,
        params: RelaxParams,
        bonds: IntArray,
        *,
        limit_s: float = math.inf,
        observer: Callable[[K, Step], None] | None = None,
        save: Callable[[K, RelaxState], None] | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.engine = engine
        self.params = params
        self.bonds = np.asarray(bonds, dtype=np.int64).reshape(-1, 2)
        self.limit_s = limit_s
        self.observer = observer
        self.save = save
        self.clock = clock
        self.most_atoms = sys.maxsize
        self.members: list[_Member[K]] = []
        self.batch: Batch | None = None
        self.done: list[tuple[K, Relaxation]] = []

    def run(self, jobs: Iterable[Job[K]]) -> Iterator[tuple[K, Relaxation] | None]:
        """Relax all jobs.

        Args:
            jobs: drawn as there is room for them.

        Yields:
            Key and outcome of a finished job, in the order of their ends; None after every call
            of the engine.

        Raises:
            Exception: what the engine raises, other than `EngineError`, for several crystals at
                once; for a single one on the CPU it becomes the outcome of that one.
        """
        waiting = iter(jobs)
        ahead: list[Job[K]] = []
        while True:
            self._fill(waiting, ahead)
            yield from self._finished()
            if self.batch is None:
                return
            self._advance(self.batch)
            yield from self._finished()
            yield None

    def _finished(self) -> Iterator[tuple[K, Relaxation]]:
        done, self.done = self.done, []
        yield from done

    # -- who is in the batch -------------------------------------------------------------------
    def _fill(self, waiting: Iterator[Job[K]], ahead: list[Job[K]]) -> None:
        """Add waiting crystals while there is room. `ahead` holds one that did not fit."""
        # Asked again each time: an engine learns from its calls what they need.
        capacity = min(self.most_atoms, self.engine.atoms_per_call())
        room = capacity - sum(len(member.job.crystal) for member in self.members)
        new: list[_Member[K]] = []
        while True:
            if not ahead:
                job = next(waiting, None)
                if job is None:
                    break
                ahead.append(job)
            size = len(ahead[0].crystal)
            if size > room and (self.members or new):
                break
            member = self._admit(ahead.pop())
            if member is not None:
                new.append(member)
                room -= size
        if new:
            self._change(np.ones(len(self.members), dtype=bool), new)

    def _admit(self, job: Job[K]) -> _Member[K] | None:
        """Prepare a job; None where it is refused."""
        crystal, state = job.crystal, job.state
        shape = shape_of(crystal, self.bonds, self.params)
        if state is None:
            fault = check_start(crystal, shape, self.params)
            state = RelaxState.start(crystal.positions, crystal.cell)
            if fault is not None:
                self._end(_Member(job, state, shape, None), Status.REJECTED, fault)
                return None
        member = _Member(job, state, shape, None)
        return member if self._prepare(member) else None

    def _prepare(self, member: _Member[K]) -> bool:
        """Set the engine up for a crystal; whether that worked."""
        state = member.state
        origin = member.job.crystal.with_positions(state.origin, state.origin_cell)
        began = self.clock()
        try:
            member.prepared = self.engine.prepare(origin)
            state.elapsed_s += self.clock() - began
        except EngineError as error:
            self._end_by(member, error)
        except Exception as error:
            if not self._is_alone_to_blame(1):
                raise
            logger.exception("the engine could not be prepared")
            self._end_by(member, EngineError(Reason.ENGINE, _text(error)))
        return member.prepared is not None

    def _change(self, keep: BoolArray, new: list[_Member[K]]) -> None:
        """Drop crystals from the batch, and add others."""
        added = None
        if new:
            added = Batch(self.params, [m.shape for m in new], [m.state for m in new])
        if self.batch is None:
            self.batch = added
        else:
            self.batch = self.batch.changed(keep, added)
        kept = [member for member, stays in zip(self.members, keep, strict=True) if stays]
        self.members = kept + new

    # -- one step --------------------------------------------------------------------------------
    def _advance(self, batch: Batch) -> None:
        """Evaluate every crystal of the batch once and move those that go on."""
        began = self.clock()
        self._take_snapshots(batch)
        look = self._look(batch)
        share = (self.clock() - began) / len(batch.positions)
        keep = np.ones(len(batch), dtype=bool)
        again: list[_Member[K]] = []
        for k, member in enumerate(self.members):
            member.state.elapsed_s += share * len(member.state.q)
            keep[k] = self._goes_on(member, k, batch, look)
            if not keep[k] and look.converged[k] and k not in look.faults and self._settle(member):
                again.append(member)
        if keep.any():
            # Crystals that leave are moved too, which costs nothing and is forgotten. Their forces
            # may be NaN, which stays with them.
            with np.errstate(invalid="ignore", over="ignore"):
                batch.step(look.general, look.on_cell)
        if not keep.all():
            self._change(keep, again)

    def _look(self, batch: Batch) -> _Look:
        """Evaluate a batch, and judge what comes back."""
        sizes = [len(member.job.crystal) // member.z for member in self.members]
        faults: dict[int, Fault | EngineError] = dict(check_geometries(batch, sizes, self.params))
        alive = np.ones(len(batch), dtype=bool)
        alive[list(faults)] = False
        result = self._evaluate(batch, alive)
        faults.update(result.errors)
        forces = np.where(batch.free[:, None], result.forces, 0.0)
        stress = 0.5 * (result.stress + result.stress.swapaxes(-1, -2))
        fmax = batch.largest_rows(forces)
        for k, fault in check_energies(result.energies, fmax).items():
            faults.setdefault(k, fault)
        pressure = np.abs(stress).max(axis=(1, 2)) * EV_A3_TO_GPA
        general, on_cell = batch.generalised_forces(forces, stress)
        if self.params.protocol == "paper":
            rows = np.sqrt((on_cell * on_cell).sum(axis=-1)).max(axis=-1)
            converged = np.maximum(batch.largest_rows(general), rows) < self.params.fmax
        else:
            converged = fmax <= self.params.fmax
            if self.params.max_stress_GPa is not None:
                converged &= pressure <= self.params.max_stress_GPa
        return _Look(faults, result.energies, fmax, pressure, general, on_cell, converged)

    def _goes_on(self, member: _Member[K], k: int, batch: Batch, look: _Look) -> bool:
        """Record what was seen of crystal k; whether it makes another step."""
        state = member.state
        if k in look.faults:
            self._break(member, look.faults[k])
            return False
        step = Step(
            state.n_steps,
            float(look.energies[k]),
            float(look.fmax[k]),
            float(look.pressure[k]),
            float(batch.volumes[k]),
        )
        state.first = state.first or step
        state.last = step
        state.sound = batch.positions[batch.atoms(k)].copy()
        state.sound_cell = batch.cells[k].copy()
        if state.trace.wants(step.number):
            state.trace.add(step)
        if self.observer is not None:
            self.observer(member.job.key, step)
        if look.converged[k]:
            return False
        if state.n_steps >= self.params.max_steps:
            self._give_up(member)
            return False
        if state.elapsed_s > self.limit_s:
            text = f"{state.elapsed_s:.0f} s of work, {state.n_steps} steps"
            self._end(member, Status.FAILED, Fault(Reason.TIMEOUT, text))
            return False
        state.n_steps += 1
        return True

    def _take_snapshots(self, batch: Batch) -> None:
        for k, member in enumerate(self.members):
            steps = member.state.n_steps
            if steps == 0 or steps % SNAPSHOT_STEPS:
                continue
            forget = getattr(member.prepared, "forget", None)
            if forget is not None:
                forget()
            if self.save is not None:
                batch.store(k, member.state)
                self.save(member.job.key, member.state)

    def _evaluate(self, batch: Batch, alive: BoolArray) -> EngineResult:
        """Results of the crystals of a mask [B]; the others get NaN."""
        chosen = np.flatnonzero(alive)
        atoms = alive[batch.owner]
        parts = list(
            self._call(
                [self.members[k].prepared for k in chosen],
                batch.positions[atoms],
                batch.cells[alive],
                batch.n_atoms[alive],
            )
        )
        energies, stress = np.full(len(batch), np.nan), np.full((len(batch), 3, 3), np.nan)
        forces = np.full((len(batch.positions), 3), np.nan)
        if len(chosen):
            energies[alive] = np.concatenate([part.energies for part in parts])
            stress[alive] = np.concatenate([part.stress for part in parts])
            forces[atoms] = np.concatenate([part.forces for part in parts])
        errors: dict[int, EngineError] = {}
        begin = 0
        for part in parts:
            errors.update({int(chosen[begin + k]): error for k, error in part.errors.items()})
            begin += len(part.energies)
        return EngineResult(energies, forces, stress, batch.n_atoms, errors)

    def _call(
        self, prepared: list[Any], positions: FloatArray, cells: FloatArray, n_atoms: IntArray
    ) -> Iterator[EngineResult]:
        """Call the engine, in as many parts as its memory asks for."""
        if not prepared:
            return
        try:
            result = self.engine.compute(prepared, positions, cells, n_atoms)
            _check_shapes(result, n_atoms)
            yield result
            return
        except EngineMemoryError as error:
            if len(prepared) == 1:
                yield _nothing(n_atoms, EngineError(Reason.OUT_OF_MEMORY, str(error)))
                return
            self.most_atoms = max(1, len(positions) // 2)
            logger.warning(
                "%d atoms do not fit into memory; going on with %d", len(positions), self.most_atoms
            )
        except EngineError as error:
            if len(prepared) > 1:
                raise
            yield _nothing(n_atoms, error)
            return
        except Exception as error:
            if not self._is_alone_to_blame(len(prepared)):
                raise
            logger.exception("the engine failed")
            yield _nothing(n_atoms, EngineError(Reason.ENGINE, _text(error)))
            return
        half = len(prepared) // 2
        cut = int(n_atoms[:half].sum())
        yield from self._call(prepared[:half], positions[:cut], cells[:half], n_atoms[:half])
        yield from self._call(prepared[half:], positions[cut:], cells[half:], n_atoms[half:])

    def _is_alone_to_blame(self, size: int) -> bool:
        """Whether an exception is surely one crystal's, and this process as good as before."""
        return size == 1 and self.engine.device == "cpu"

    # -- ends ------------------------------------------------------------------------------------
    def _settle(self, member: _Member[K]) -> bool:
        """A converged crystal: done, unless a freshly prepared engine sees another energy.

        Then the energy is the fresh one, which depends on the geometry alone; if it is too far
        off, the relaxation goes on from there once.

        Returns:
            Whether the crystal goes on.
        """
        state = member.state
        assert state.last is not None
        if not (self.engine.remembers and self.params.moves_cell):
            self._end(member, Status.OK, Fault(Reason.NONE, ""))
            return False
        began = self.clock()
        try:
            fresh = self.engine.evaluate([self._sound(member)])
            state.elapsed_s += self.clock() - began
        except EngineError as error:
            fault = Fault(error.reason, f"at the relaxed geometry: {error.detail}")
            self._end(member, Status.FAILED, fault)
            return False
        energy = float(fresh.energies[0])
        jump = abs(energy - state.last.energy) / member.z * EV_TO_KJ_MOL
        state.last = state.last._replace(energy=energy)
        if jump <= self.params.max_energy_jump_kJ_mol:
            self._end(member, Status.OK, Fault(Reason.NONE, ""))
            return False
        if state.continuations >= _MAX_CONTINUATIONS:
            text = (
                f"a fresh calculator differs by {jump:.2f} kJ/mol per molecule from the relaxed one"
            )
            self._end(member, Status.FAILED, Fault(Reason.TOPOLOGY, text))
            return False
        state.continuations += 1
        state.begin_anew()
        member.prepared = None
        return self._prepare(member)

    def _give_up(self, member: _Member[K]) -> None:
        """Out of steps."""
        last, limit = member.state.last, self.params.max_stress_GPa
        assert last is not None
        reason = Reason.MAX_STEPS
        if last.fmax <= self.params.fmax and limit is not None and last.stress > limit:
            reason = Reason.STRESS
        detail = f"fmax {last.fmax:.3f} eV/Å, stress {last.stress:.2f} GPa"
        self._end(member, Status.UNCONVERGED, Fault(reason, detail))

    def _break(self, member: _Member[K], fault: Fault | EngineError) -> None:
        if isinstance(fault, EngineError):
            self._end_by(member, fault)
        else:
            self._end(member, Status.FAILED, fault)

    def _end_by(self, member: _Member[K], error: EngineError) -> None:
        """The engine gave up: a refusal before the first evaluation, a failure after it."""
        fault, status = Fault(error.reason, error.detail), Status.FAILED
        if member.state.first is None and error.reason in _REFUSALS:
            status = Status.REJECTED
        elif error.reason == Reason.BAD_CELL:
            fault = Fault(Reason.EXPLODED, error.detail)
        self._end(member, status, fault)

    def _sound(self, member: _Member[K]) -> Crystal:
        return member.job.crystal.with_positions(member.state.sound, member.state.sound_cell)

    def _end(self, member: _Member[K], status: Status, fault: Fault) -> None:
        state = member.state
        replicas = None
        if member.prepared is not None:
            replicas = getattr(member.prepared, "replicas", (1, 1, 1))
        trace = list(state.trace.steps)
        if state.last is not None:
            if trace and trace[-1].number == state.last.number:
                trace.pop()
            trace.append(state.last)
        outcome = Relaxation(
            status, fault.reason, fault.detail, self._sound(member), state.last, state.first,
            state.n_steps, replicas, tuple(trace), state.elapsed_s,
        )  # fmt: skip
        self.done.append((member.job.key, outcome))


def _check_shapes(result: EngineResult, n_atoms: IntArray) -> None:
    """Refuse what an engine returned where it is not of the size of its input.

    Raises:
        EngineError: ENGINE.
    """
    size, atoms = len(n_atoms), int(n_atoms.sum())
    found = (np.shape(result.energies), np.shape(result.forces), np.shape(result.stress))
    wanted = ((size,), (atoms, 3), (size, 3, 3))
    if found != wanted:
        raise EngineError(
            Reason.ENGINE,
            "the engine returned energies, forces and stress of the shapes "
            f"{found[0]}, {found[1]}, {found[2]} instead of {wanted[0]}, {wanted[1]}, {wanted[2]}",
        )


def _nothing(n_atoms: IntArray, error: EngineError) -> EngineResult:
    """Result of one crystal that could not be evaluated."""
    empty = concatenate(
        [np.nan], [np.full((int(n_atoms[0]), 3), np.nan)], [np.full((3, 3), np.nan)]
    )
    return EngineResult(empty.energies, empty.forces, empty.stress, empty.n_atoms, {0: error})


def _text(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
