"""What comes out of a relaxation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from packflow_core.crystal.crystal import Crystal
from packflow_core.store.schema import Reason, Status

#: Points of a trace at most; then every second one is dropped and the stride doubles.
TRACE_POINTS = 64


class Step(NamedTuple):
    """What is known of a relaxation after an evaluation.

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


class Trace:
    """Evenly spaced steps of a relaxation, a bounded number however long it takes."""

    def __init__(self, steps: list[Step] | None = None, stride: int = 1) -> None:
        self.steps = list(steps or [])
        self.stride = stride

    def wants(self, number: int) -> bool:
        """Whether step `number` is one to keep."""
        return number % self.stride == 0

    def add(self, step: Step) -> None:
        """Keep a step that is wanted."""
        if self.steps and step.number <= self.steps[-1].number:
            return  # a continued relaxation looks at its last geometry twice
        self.steps.append(step)
        if len(self.steps) > TRACE_POINTS:
            self.stride *= 2
            self.steps = [kept for kept in self.steps if kept.number % self.stride == 0]


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
        trace: evenly spaced steps, the last one included.
        elapsed_s: working time, with that of earlier attempts that it continued; in a batch, the
            share of its atoms.
    """

    status: Status
    reason: Reason
    detail: str
    crystal: Crystal
    last: Step | None
    first: Step | None
    n_steps: int
    replicas: tuple[int, int, int] | None
    trace: tuple[Step, ...] = ()
    elapsed_s: float = 0.0
