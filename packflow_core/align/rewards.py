"""Energies and forces of candidates, by any engine, in worker processes (PackFlow, 4.2.1).

What is evaluated is the mode:

- `heavy`: the heavy atoms alone, as the paper does; for engines that know such systems (UMA).
- `hydrogens`: with hydrogens, which are relaxed first; force fields need them.
- `pressed`: what a run relaxes: the crystal after the stage `hydrogenate`, hydrogens relaxed.

A candidate that is no crystal of its molecule (a clash, a torn molecule, a cell that does not
close) is *unsound*: its energy would mean nothing, and a force field may even reward the bond that
it sees in a clash. One whose evaluation broke is *failed*.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

from packflow_core.crystal.crystal import Crystal
from packflow_core.store.rows import Row, crystal_of
from packflow_core.store.schema import Reason, Status

if TYPE_CHECKING:
    from packflow_core.chem.molecule import Molecule
    from packflow_core.engines.base import Engine, EngineError

Mode = Literal["heavy", "hydrogens", "pressed"]

#: Status of an unsound candidate; a failed one has a status of its own.
_UNSOUND = Status.REJECTED


@dataclass(frozen=True)
class Score:
    """What an engine says of a candidate.

    Attributes:
        status: ok; rejected for an unsound candidate; failed where the evaluation broke.
        reason, detail: why it is not ok.
        energy: potential energy per molecule, eV; None unless ok.
        force: mean length of the forces on the heavy atoms, eV/Å; None unless ok.
        severity: of an unsound candidate: the fraction of its atoms that clash plus the fraction of
            its bonds that are off; 2 where hydrogens find no place; 0 where it is not known, as for
            a cell that does not close and in the mode `pressed`.
    """

    status: str
    reason: str = ""
    detail: str = ""
    energy: float | None = None
    force: float | None = None
    severity: float = 0.0


def score_candidates(
    members: Sequence[tuple[Hashable, Row]],
    smiles: str,
    engine: str,
    mode: Mode,
    hydrogen_steps: int,
) -> Iterator[tuple[Hashable, Score] | None]:
    """Scores of candidates of one molecule; for `WorkerPool.map_groups`.

    Args:
        members: (key, row of the stage `generate`).
        smiles: the molecule.
        engine: name of the engine.
        mode: what is evaluated, see above.
        hydrogen_steps: of their relaxation at most.

    Yields:
        Key and score; None as a sign of life.
    """
    from packflow_core.engines.registry import get_engine

    molecule = _molecule(smiles)
    calculator = get_engine(engine)
    whole = [(key, row) for key, row in members if row["status"] == Status.OK]
    yield from ((key, _as_score(row)) for key, row in members if row["status"] != Status.OK)
    waiting: dict[Hashable, Crystal] = {}
    crystals = _crystals([row for _, row in whole], molecule, mode)
    for (key, _), made in zip(whole, crystals, strict=True):
        if isinstance(made, Score):
            yield key, made
        else:
            waiting[key] = made
    if mode != "heavy" and hydrogen_steps:
        relaxed: dict[Hashable, Crystal] = {}
        for end in _hydrogens_relaxed(waiting, calculator, molecule, hydrogen_steps):
            if end is None or isinstance(end[1], Score):
                yield cast("tuple[Hashable, Score] | None", end)
            else:
                relaxed[end[0]] = end[1]
                yield None
        waiting = relaxed
    yield from evaluated(waiting, calculator)


def _hydrogens_relaxed(
    crystals: dict[Hashable, Crystal], engine: Engine, molecule: Molecule, steps: int
) -> Iterator[tuple[Hashable, Crystal | Score] | None]:
    from packflow_core.relax.driver import Driver, Job
    from packflow_core.relax.protocol import RelaxParams

    params = RelaxParams(protocol="h_only", max_steps=steps)
    driver: Driver[Hashable] = Driver(engine, params, molecule.bonds_h)
    for end in driver.run([Job(key, crystal) for key, crystal in crystals.items()]):
        if end is None:
            yield None
            continue
        key, done = end
        if done.status in (Status.REJECTED, Status.FAILED):
            # Torn apart by forces without bounds, not by a fault of the engine.
            torn = done.reason in (Reason.EXPLODED, Reason.BROKEN_MOLECULE)
            status = Status.REJECTED if torn else done.status
            yield key, Score(str(status), str(done.reason), done.detail)
        else:
            yield key, done.crystal


def evaluated(
    crystals: Mapping[Hashable, Crystal], engine: Engine
) -> Iterator[tuple[Hashable, Score]]:
    """Scores of sound crystals, as many in a call as the engine takes.

    Args:
        crystals: by any key.
        engine: evaluates them as they are.

    Yields:
        Key and score; a crystal that cannot be evaluated is `failed` and spoils no other.
    """
    from packflow_core.engines.base import EngineError

    ready: list[tuple[Hashable, Crystal, Any]] = []
    for key, crystal in crystals.items():
        try:
            ready.append((key, crystal, engine.prepare(crystal)))
        except EngineError as error:
            yield key, _failure(error)
    limit = engine.atoms_per_call() if engine.batched else 0
    start = 0
    while start < len(ready):
        sizes = np.cumsum([len(crystal) for _, crystal, _ in ready[start:]])
        count = max(1, int(np.searchsorted(sizes, limit, side="right")))
        yield from _computed(ready[start : start + count], engine)
        start += count


def _computed(
    ready: Sequence[tuple[Hashable, Crystal, Any]], engine: Engine
) -> Iterator[tuple[Hashable, Score]]:
    from packflow_core.engines.base import EngineError, EngineMemoryError

    crystals = [crystal for _, crystal, _ in ready]
    try:
        result = engine.compute(
            [prepared for _, _, prepared in ready],
            np.concatenate([crystal.positions for crystal in crystals]),
            np.stack([crystal.cell for crystal in crystals]),
            np.array([len(crystal) for crystal in crystals], dtype=np.int64),
        )
    except EngineMemoryError as error:
        if len(ready) == 1:
            yield ready[0][0], _failure(EngineError(Reason.OUT_OF_MEMORY, str(error)))
            return
        half = len(ready) // 2
        yield from _computed(ready[:half], engine)
        yield from _computed(ready[half:], engine)
        return
    for k, (key, crystal, _) in enumerate(ready):
        if k in result.errors:
            yield key, _failure(result.errors[k])
            continue
        energy = float(result.energies[k]) / crystal.z
        force = float(np.linalg.norm(result.forces_of(k)[crystal.heavy], axis=1).mean())
        if np.isfinite(energy) and np.isfinite(force):
            yield key, Score(str(Status.OK), energy=energy, force=force)
        else:
            detail = f"energy {energy} eV, force {force} eV/Å"
            yield key, Score(str(Status.FAILED), str(Reason.NAN), detail)


def _failure(error: EngineError) -> Score:
    return Score(str(Status.FAILED), str(error.reason), error.detail)


#: Atoms of two molecules closer than this times the sum of their covalent radii look bonded to a
#: force field: wider than the clash of the paper's metric, 0.75.
_BONDED = 1.25


def _crystals(rows: Sequence[Row], molecule: Molecule, mode: Mode) -> Iterator[Crystal | Score]:
    """The crystals that are evaluated, or why there is none, in the order of the rows."""
    if mode != "pressed":
        yield from (_raw_crystal(row, molecule, mode) for row in rows)
        return
    from packflow_core.stages.hydrogenate import HydrogenateParams, hydrogenate_many

    for done in hydrogenate_many(rows, molecule, HydrogenateParams()):
        yield crystal_of(done) if done["status"] == Status.OK else _as_score(done)


def _raw_crystal(row: Row, molecule: Molecule, mode: Mode) -> Crystal | Score:
    from packflow_core.chem.hydrogens import add_hydrogens
    from packflow_core.crystal.contacts import BOND_TOLERANCE, bond_errors, clashing_atoms

    raw = crystal_of(row)
    clashing = clashing_atoms(raw, _BONDED)
    off = np.abs(bond_errors(raw, molecule.bonds)) > BOND_TOLERANCE
    severity = float(clashing.mean()) + (float(off.mean()) if off.size else 0.0)
    if off.any():
        detail = f"{int(off.sum())} of {off.size} bonds are off by more than {BOND_TOLERANCE} Å"
        return _unsound(Reason.BROKEN_MOLECULE, detail, severity)
    if clashing.any():
        detail = f"{int(clashing.sum())} of {len(raw)} atoms clash"
        return _unsound(Reason.CLASH, detail, severity)
    if mode == "heavy":
        return raw
    try:
        full = add_hydrogens(raw.positions.reshape(raw.z, molecule.n_heavy, 3), molecule)
    except (RuntimeError, ValueError) as error:  # RDKit, where atoms coincide
        return _unsound(Reason.HYDROGENS, str(error))
    if not np.isfinite(full).all():
        return _unsound(Reason.HYDROGENS, "a hydrogen found no place")
    return Crystal(np.tile(molecule.numbers_h, raw.z), full.reshape(-1, 3), raw.cell, raw.z)


def _unsound(reason: Reason, detail: str, severity: float = 2.0) -> Score:
    return Score(str(Status.REJECTED), str(reason), detail, severity=severity)


def _as_score(row: Row) -> Score:
    return Score(str(row["status"]), str(row["reason"]), str(row["detail"]))


def group_rewards(
    scores: Sequence[Score], penalise: bool
) -> tuple[np.ndarray[Any, np.dtype[np.float64]], np.ndarray[Any, np.dtype[np.float64]]]:
    """Energies and forces [K] of a group, as `mixed_advantages` takes them.

    Args:
        scores: of the group.
        penalise: an unsound candidate counts as worse than the worst sound one by as many
            standard deviations as 1 plus its severity; otherwise it takes no part. Failed ones
            never do.
    """
    energies = np.array([np.nan if s.energy is None else s.energy for s in scores])
    forces = np.array([np.nan if s.force is None else s.force for s in scores])
    unsound = np.array([s.status == _UNSOUND for s in scores], dtype=bool)
    if penalise and unsound.any():
        beyond = 1.0 + np.array([s.severity for s in scores])[unsound]
        for values in (energies, forces):
            known = values[np.isfinite(values)]
            worst, scale = (known.max(), known.std() or 1.0) if len(known) else (0.0, 1.0)
            values[unsound] = worst + scale * beyond
    return energies, forces


@lru_cache(maxsize=8)
def _molecule(smiles: str) -> Molecule:
    from packflow_core.chem.molecule import Molecule

    return Molecule.from_smiles(smiles)
