"""Forces of displaced supercells, computed in workers and kept one by one."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from packflow_core import progress
from packflow_core.crystal.crystal import Crystal
from packflow_core.engines.base import EngineError
from packflow_core.store.schema import Status
from packflow_core.trust.phonons import Displacements, Repeats
from packflow_core.trust.records import Records, key_of
from packflow_core.trust.verify import Means

FloatArray = NDArray[np.float64]

#: Name in the progress.
FORCES_STAGE = "forces"
#: Displacements that a worker takes at once: they share one prepared system.
_GROUP = 16

#: What is displaced: a crystal, its supercell, and the displacements in it.
Task = tuple[Crystal, Repeats, Displacements]
#: An atom of a supercell, and where it goes, Å.
_Move = tuple[int, FloatArray]


def force_keys(task: Task, identity: str) -> list[str]:
    """[D] keys of the forces of a task."""
    crystal, repeats, displacements = task
    big = crystal.repeated(repeats)
    return [
        key_of(big, "forces", identity, int(atom), vector.tolist())
        for atom, vector in zip(displacements.atoms, displacements.vectors, strict=True)
    ]


def compute_forces(
    tasks: Sequence[Task], means: Means, records: Records
) -> tuple[list[list[str]], list[str]]:
    """Compute the forces that are missing.

    Args:
        tasks: one for each crystal.
        means: engine, workers and limits.
        records: where forces are found and kept.

    Returns:
        Keys of the forces of each task, and why those of a task are not complete; empty where
        they are.
    """
    keys = [force_keys(task, means.identity) for task in tasks]
    total = sum(map(len, keys))
    groups = []
    for t, (crystal, repeats, displacements) in enumerate(tasks):
        left = [d for d, key in enumerate(keys[t]) if key not in records]
        moves = zip(displacements.atoms, displacements.vectors, strict=True)
        by_place = dict(enumerate(moves))
        big = crystal.repeated(repeats)
        for k in range(0, len(left), _GROUP):
            members = [
                ((t, d), (int(by_place[d][0]), by_place[d][1])) for d in left[k : k + _GROUP]
            ]
            groups.append((members, (means.engine, big)))
    problems = [""] * len(tasks)
    sink = progress.current()
    done = total - sum(len(members) for members, _ in groups)
    sink.start(FORCES_STAGE, total, {str(Status.OK): done})
    try:
        for outcome in means.pool.map_groups(forces_of, groups, means.limit_s):
            means.go_on()
            place: Any = outcome.key  # of the groups above
            t, d = place
            if outcome.error is not None or isinstance(outcome.value, str):
                why = outcome.value or f"{outcome.error}: {outcome.detail}"
                problems[t] = problems[t] or f"a force call failed: {why}"
                sink.advance(FORCES_STAGE, str(Status.FAILED))
            else:
                records.add(keys[t][d], {}, outcome.value)
                sink.advance(FORCES_STAGE, str(Status.OK))
    finally:
        sink.finish(FORCES_STAGE)
    return keys, problems


def forces_of(
    members: Sequence[tuple[tuple[int, int], _Move]], engine: str, supercell: Crystal
) -> Iterator[tuple[tuple[int, int], FloatArray | str]]:
    """Forces [n, 3] eV/Å of a supercell with one atom moved, or why there are none; in a worker.

    All share one prepared system, made of the supercell at rest: its topology and its images must
    not depend on which atom is moved.
    """
    from packflow_core.engines.registry import get_engine

    calculator = get_engine(engine)
    try:
        prepared = calculator.prepare(supercell)
    except EngineError as error:
        yield from ((key, error.detail) for key, _ in members)
        return
    for key, (atom, vector) in members:
        if hasattr(prepared, "forget"):
            prepared.forget()  # forces must not depend on what was computed before
        positions = supercell.positions.copy()
        positions[atom] += vector
        result = calculator.compute(
            [prepared], positions, supercell.cell[None], np.array([len(supercell)])
        )
        if result.errors:
            yield key, result.errors[0].detail
        elif not np.isfinite(result.forces).all():
            yield key, "forces are not finite"
        else:
            yield key, np.asarray(result.forces)


def time_force_call(engine: str, supercell: Crystal) -> float | str:
    """Seconds of one force call of a supercell, or why there is none; in a worker.

    The second of two calls: the first may load libraries.
    """
    move = np.array([0.01, 0.0, 0.0])
    seconds = 0.0
    for _ in range(2):
        began = time.perf_counter()
        (_, value) = next(forces_of([((0, 0), (0, move))], engine, supercell))
        seconds = time.perf_counter() - began
        if isinstance(value, str):
            return value
    return seconds
