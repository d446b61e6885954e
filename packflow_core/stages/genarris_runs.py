"""Candidates by Genarris: one run of the program for each Z and conformer, read into rows.

The runs' folders stay in the run's folder `genarris/`, for they hold Genarris' own log. A run that
was cut off, with us, is put aside and made anew: a fixed seed and number of ranks gives the same
structures, so the rows are those of a run that was never cut off.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from packflow_core import progress
from packflow_core.baselines.genarris import (
    GenarrisOutcome,
    GenarrisParams,
    GenarrisProgress,
    GenarrisStructure,
    genarris_row,
    outcome,
    read_run,
    read_structures,
    run_genarris,
    shortlist,
    write_inputs,
)
from packflow_core.baselines.names import GENARRIS_PRESS
from packflow_core.chem.conformer_ensemble import ConformerEnsemble, choose_conformers
from packflow_core.chem.molecule import Molecule
from packflow_core.stages.conformers import conformers_of
from packflow_core.stages.generate_params import z_of_index
from packflow_core.stages.generators import completed, unmade
from packflow_core.stages.run_store import RunStore
from packflow_core.store.atomic import make_folder, storage_errors
from packflow_core.store.rows import Row
from packflow_core.store.schema import Reason

logger = logging.getLogger(__name__)

FOLDER = "genarris"

#: Between two lines about the progress of a run in the log, s.
_LOG_EVERY_S = 30.0


@dataclass(frozen=True)
class _Batch:
    """Candidates that one run of Genarris makes.

    Attributes:
        z: molecules per cell.
        conformer: its place in the pool.
        attempt: number of the attempt at them.
        members: pairs (index, number among those of this Z), ascending.
    """

    z: int
    conformer: int
    attempt: int
    members: tuple[tuple[int, int], ...]

    @property
    def label(self) -> str:
        """Name of the run's folder."""
        first, last = self.members[0][1], self.members[-1][1]
        again = f"-attempt{self.attempt}" if self.attempt > 1 else ""
        return f"z{self.z}-c{self.conformer}-{first:06d}-{last:06d}{again}"


def genarris_rows(
    run: RunStore, todo: dict[int, int], go_on: Callable[[], None]
) -> Iterator[list[Row]]:
    """Rows of candidates, the members of one run of Genarris at a time.

    K candidates of one Z and conformer are shortlisted from a pool of structures, equal shares for
    all space groups (PackFlow, appendix D). Where the pool is too small, the candidates without a
    structure get rows that say why.

    Args:
        run: the run, whose generator is one of Genarris'.
        todo: index to number of the attempt.
        go_on: called often; what it raises ends the run of Genarris and comes out here.

    Raises:
        UserInputError: Genarris is not there, or does not know the molecule's elements.
        ConformerError: the molecule has no conformer.
    """
    pool = conformers_of(run)
    chosen = choose_conformers(pool, run.plan.spec.genarris.n_conformers)
    for batch in _batches(run, todo, chosen.tolist()):
        go_on()
        params = _params(run, batch)
        folder = run.folder / FOLDER / batch.label
        _make(folder, pool.molecule, pool, params, batch, go_on)
        yield _rows(run, batch, folder, pool.molecule, params)


def _batches(run: RunStore, todo: dict[int, int], conformers: list[int]) -> list[_Batch]:
    """The work by attempt, Z and conformer; conformers take turns."""
    groups: defaultdict[tuple[int, int, int], list[tuple[int, int]]] = defaultdict(list)
    for index in sorted(todo):
        z, number = z_of_index(index, run.plan.spec.z_cycle)
        conformer = conformers[number % len(conformers)]
        groups[todo[index], z, conformer].append((index, number))
    return [
        _Batch(z, conformer, attempt, tuple(groups[attempt, z, conformer]))
        for attempt, z, conformer in sorted(groups)
    ]


def _params(run: RunStore, batch: _Batch) -> GenarrisParams:
    """Settings of the run of a batch."""
    spec = run.plan.spec
    settings = spec.genarris.model_dump(exclude={"structures_per_group"})
    k = len(batch.members)
    # Candidates that are asked for later, or again, must not be those of before.
    text = f"{spec.seed} {batch.members[0][1]} {batch.attempt}"
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
    settings["timeout_s"] *= 2 ** (batch.attempt - 1)
    per_group = spec.genarris.structures_per_group
    return GenarrisParams(
        **settings,
        method="rigid_press" if spec.generator == GENARRIS_PRESS else "plain",
        z_values=(batch.z,),
        structures_per_group=max(10, k) if per_group is None else per_group,
        seed=seed,
    )


def _make(
    folder: Path,
    molecule: Molecule,
    pool: ConformerEnsemble,
    params: GenarrisParams,
    batch: _Batch,
    go_on: Callable[[], None],
) -> None:
    """Run Genarris in the folder, unless a run came to its end there."""
    if folder.exists():
        if outcome(folder).state == "success":
            logger.info("the structures of %s are there", folder)
            return
        _put_aside(folder)
    make_folder(folder.parent)
    with storage_errors(folder.parent):
        write_inputs(
            folder, molecule, pool.positions[batch.conformer], params,
            z=batch.z, conformer_number=batch.conformer,
        )  # fmt: skip
    told = time.monotonic()

    def on_progress(now: GenarrisProgress) -> None:
        nonlocal told
        go_on()
        progress.current().note("generate", f"Genarris, Z={batch.z}: {describe(now)}")
        if time.monotonic() - told >= _LOG_EVERY_S:
            told = time.monotonic()
            logger.info("genarris %s: %s", folder.name, describe(now))

    run_genarris(folder, params, on_progress)


def describe(now: GenarrisProgress) -> str:
    """How far a run of Genarris is, in a few words."""
    if now.phase == "generation":
        return (
            f"space group {now.space_group} ({now.groups_tried} of {now.groups_total}), "
            f"{now.generated} structures"
        )
    if now.phase == "press":
        return f"press, {now.pressed} of {now.to_press} structures"
    return now.phase


def _put_aside(folder: Path) -> None:
    number = 1
    while (aside := folder.with_name(f"{folder.name}.unfinished{number}")).exists():
        number += 1
    folder.rename(aside)
    logger.warning("the unfinished run of Genarris in %s is kept as %s", folder, aside.name)


def _rows(
    run: RunStore,
    batch: _Batch,
    folder: Path,
    molecule: Molecule,
    params: GenarrisParams,
) -> list[Row]:
    spec = run.plan.spec
    ended = outcome(folder)
    logger.info("%s: %s", folder.name, ended.sentence)
    structures = read_structures(folder, molecule)
    chosen = shortlist(structures, len(batch.members), params.seed)
    faulty = [structure for structure in structures if not structure.ok]
    rows = []
    # The seconds of all ranks, so that the cost of a candidate compares with other generators'.
    ended_run = read_run(folder)
    seconds = ended_run.seconds if ended_run is not None else 0.0
    each = seconds * params.mpi_ranks / len(batch.members)
    made = [*chosen, *faulty][: len(batch.members)]
    for k, (index, _) in enumerate(batch.members):
        if k < len(made):
            row = _row(run, made[k], molecule, index)
        else:
            row = unmade(run, index, *_missing(ended, len(chosen), batch))
        row["conformer"] = batch.conformer
        rows.append(completed(run, row, batch.attempt, each))
    if spec.generator == GENARRIS_PRESS:
        plain = sum(structure.method != spec.generator for structure in chosen)
        if plain:
            logger.warning("%d structures of %s did not reach the press", plain, folder.name)
    return rows


def _row(run: RunStore, structure: GenarrisStructure, molecule: Molecule, index: int) -> Row:
    spec = run.plan.spec
    row = genarris_row(
        structure,
        molecule,
        target=spec.name,
        index=index,
        seed=spec.seed,
        engine=run.plan.stages["generate"].identity,
    )
    row["space_group_drawn"] = structure.attempted_space_group
    row["source_id"] = structure.original_id
    if structure.method != spec.generator:
        row["detail"] = "; ".join(filter(None, ["not pressed", row["detail"]]))
    return row


def _missing(ended: GenarrisOutcome, found: int, batch: _Batch) -> tuple[Reason, str]:
    """Why there is no structure for a candidate."""
    wanted = len(batch.members)
    if ended.state == "success":
        return Reason.OVERLAP, f"Genarris made {found} sound structures of the {wanted} wanted"
    late = "time limit" in ended.sentence
    return (Reason.TIMEOUT if late else Reason.ENGINE), ended.sentence
