"""Stages `relax_h`, `relax` and its refinements: candidates, relaxed; runs in worker processes."""

from __future__ import annotations

import logging
import math
import os
import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packflow_core.baselines.names import BASELINES
from packflow_core.relax.protocol import RelaxParams
from packflow_core.store.rows import Row, crystal_of, next_row
from packflow_core.store.schema import Reason, Status

if TYPE_CHECKING:
    from packflow_core.chem.molecule import Molecule
    from packflow_core.crystal.crystal import Crystal
    from packflow_core.relax.driver import Job
    from packflow_core.relax.outcome import Relaxation
    from packflow_core.relax.state import RelaxState

__all__ = ["RelaxParams", "relax", "relax_many"]

logger = logging.getLogger(__name__)

#: Seconds between two writes of the states of a batch: a kill costs no more than that, and a
#: write that takes milliseconds stays far below one percent of it.
_WRITE_EVERY_S = 2.0

#: What is known of a candidate: its upstream row, and the packed state of an earlier attempt.
Payload = tuple[Row, dict[str, Any] | None]


def relax(row: Row, molecule_smiles: str, engine: str, params: RelaxParams) -> Row:
    """Relax the crystal of one row; see `relax_many`."""
    results = relax_many([(0, (row, None))], molecule_smiles, engine, params)
    return next(result for result in results if result is not None)[1]


def relax_many(
    members: Sequence[tuple[int, Payload]],
    molecule_smiles: str,
    engine: str,
    params: RelaxParams,
    limit_s: float = math.inf,
    states: str | None = None,
) -> Iterator[tuple[int, Row] | None]:
    """Relax the crystals of rows side by side, as many at once as the engine's memory holds.

    Args:
        members: index and payload of each; the crystals have all their hydrogens.
        molecule_smiles: SMILES of the molecule; its canonical order is that of the atoms.
        engine: name of the energy engine.
        params: the protocol.
        limit_s: working time of a candidate, s.
        states: folder for the states of unfinished relaxations; none are kept when None.

    Yields:
        Index and row of a finished candidate: `ok`, or `unconverged` (MAX_STEPS, STRESS),
        `rejected` before the first step (CLASH, BAD_CELL, BROKEN_MOLECULE) or at the end (see
        `find_invalidity`), or `failed`
        (EXPLODED, NAN, TOPOLOGY, ENGINE, SCF, OUT_OF_MEMORY, TIMEOUT). It holds the last sound
        geometry, with the energy and the forces there. None as a sign of life.

    Raises:
        UserInputError: an unknown engine, or one that is not installed.
    """
    from packflow_core.engines.registry import engine_identity, get_engine
    from packflow_core.relax.driver import Driver, Job

    molecule = _molecule(molecule_smiles)
    identity = engine_identity(engine)
    calculator = get_engine(engine)
    common: dict[str, Any] = {
        "engine": identity, "protocol": params.protocol, "device": calculator.device,
    }  # fmt: skip
    rows = {index: row for index, (row, _) in members}
    keeper = _StateKeeper(Path(states)) if states is not None else None
    jobs: list[Job[int]] = []
    for index, (row, packed) in members:
        if params.protocol == "h_only" and row.get("method") in BASELINES:
            yield index, _passed_through(row)
            continue
        try:
            jobs.append(Job(index, _start(row, molecule), _earlier(packed)))
        except ValueError as error:
            yield (
                index,
                next_row(
                    row, status=Status.FAILED, reason=Reason.INTERNAL, detail=str(error), **common
                ),
            )
    driver: Driver[int] = Driver(
        calculator,
        params,
        molecule.bonds_h,
        limit_s=limit_s,
        save=keeper.keep if keeper else None,
    )
    for end in driver.run(jobs):
        if end is None:
            if keeper:
                keeper.write_sometimes()
            yield None
            continue
        index, done = end
        if keeper and done.reason != Reason.TIMEOUT:
            keeper.drop(index)
        yield index, _row_of(rows[index], _judged(done, molecule, params), common)
    if keeper:
        keeper.close()


class _StateKeeper:
    """The file with the latest states of one batch."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / f"{os.getpid()}-{secrets.token_hex(4)}"
        self._states: dict[int, dict[str, Any]] = {}
        self._changed = False
        self._written = time.monotonic()
        self._refused = False

    def keep(self, index: int, state: RelaxState) -> None:
        from packflow_core.relax.state import pack

        self._states[index] = pack(state, index)
        self._changed = True

    def drop(self, index: int) -> None:
        self._states.pop(index, None)

    def write_sometimes(self) -> None:
        if self._changed and time.monotonic() - self._written >= _WRITE_EVERY_S:
            self._write()

    def close(self) -> None:
        """Leave what another attempt may continue, which is mostly nothing."""
        if self._states:
            self._write()
        else:
            self._file.unlink(missing_ok=True)

    @property
    def _file(self) -> Path:
        from packflow_core.relax.state import SUFFIX

        return self._path.with_name(self._path.name + SUFFIX)

    def _write(self) -> None:
        from packflow_core.relax.state import write_states

        try:
            self._file.parent.mkdir(exist_ok=True)
            write_states(self._file, self._states.values())
        except OSError as error:
            # Without it a kill costs more time, and nothing else.
            if not self._refused:
                logger.warning("states of relaxations cannot be kept: %s", error)
            self._refused = True
        self._changed = False
        self._written = time.monotonic()


def _passed_through(row: Row) -> Row:
    """Row of the hydrogens' relaxation for a crystal whose hydrogens were not added by us."""
    return next_row(
        row,
        status=Status.OK,
        detail=f"passed through: {row.get('method')} packs molecules with their hydrogens",
        n_steps=0,
    )


def _start(row: Row, molecule: Molecule) -> Crystal:
    start = crystal_of(row)
    if start.numbers.tolist() != molecule.numbers_h.tolist() * start.z:
        raise ValueError(f"atoms are not {start.z} times {molecule.formula} in its atom order")
    return start


def _earlier(packed: dict[str, Any] | None) -> RelaxState | None:
    """State of an earlier attempt; None, for a new beginning, where there is none to use."""
    from packflow_core.relax.state import unpack

    if packed is None:
        return None
    try:
        return unpack(packed)
    except ValueError:
        logger.warning("a damaged state was passed over", exc_info=True)
        return None


def _judged(done: Relaxation, molecule: Molecule, params: RelaxParams) -> Relaxation:
    """A relaxation that came to its end, rejected where it made something else of the crystal.

    What has become another molecule may lie far below the crystals of this one, where it would
    set the minimum that the window of a refinement counts from.
    """
    from packflow_core.analysis.validity import find_invalidity
    from packflow_core.stages.density_window import expected_molecular_volume

    if not params.moves_cell or done.status not in (Status.OK, Status.UNCONVERGED):
        return done
    invalid = find_invalidity(done.crystal, molecule, params, expected_molecular_volume(molecule))
    if invalid is None:
        return done
    return replace(done, status=Status.REJECTED, reason=invalid.reason, detail=invalid.detail)


def _row_of(row: Row, done: Relaxation, common: dict[str, Any]) -> Row:
    first, last = done.first, done.last
    return next_row(
        row,
        status=done.status,
        reason=done.reason,
        detail=done.detail,
        crystal=done.crystal,
        energy_eV=last.energy if last else None,
        fmax_eV_A=last.fmax if last else None,
        stress_GPa=last.stress if last else None,
        n_steps=done.n_steps,
        energy_start_eV=first.energy if first else None,
        fmax_start_eV_A=first.fmax if first else None,
        density_start_g_cm3=row.get("density_g_cm3"),
        replicas=list(done.replicas) if done.replicas else None,
        wall_s=done.elapsed_s,
        trace_step=[step.number for step in done.trace],
        trace_energy_eV=[step.energy for step in done.trace],
        trace_fmax_eV_A=[step.fmax for step in done.trace],
        trace_stress_GPa=[step.stress for step in done.trace],
        trace_volume_A3=[step.volume for step in done.trace],
        **common,
    )


@lru_cache(maxsize=8)
def _molecule(smiles: str) -> Molecule:
    from packflow_core.chem.molecule import Molecule

    return Molecule.from_smiles(smiles)
