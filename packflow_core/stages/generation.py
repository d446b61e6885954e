"""A chunk of the stage `generate`: by the sampler in this process, by workers, by MPI ranks.

A PackFlow model samples here, block by block, for it fills the machine or its GPU by itself.
Random packings are made in worker processes or, on request, by ranks of MPI. Genarris is a program
of its own, with ranks of its own.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from packflow_core import progress
from packflow_core.baselines.names import family_of
from packflow_core.devices import make_seats
from packflow_core.errors import UserInputError
from packflow_core.spec import RunSpec
from packflow_core.stages.conformers import conformers_of
from packflow_core.stages.generators import block_size, completed, make_rows, unmade
from packflow_core.stages.pools import go_on, pool, stopping
from packflow_core.stages.recording import ERRORS, record
from packflow_core.stages.run_store import LOG, RunStore
from packflow_core.store.rows import Row
from packflow_core.store.schema import Reason

#: Silence after which a worker that packs is taken for stuck; doubles with each attempt.
_PACKING_TIMEOUT_S = 600.0

_generator_lock = threading.Lock()


@dataclass(frozen=True)
class Means:
    """What a chunk is worked on with; nothing here changes a result.

    Attributes:
        workers: worker processes; one per processor or GPU when None.
        timeout_s: time limit of a candidate's first attempt, s; the stage's own when None.
        device: where engines compute that can use a GPU.
        ranks: MPI ranks that pack at random; worker processes do when None.
    """

    workers: int | None
    timeout_s: float | None
    device: str
    ranks: int | None = None


def check_ranks(spec: RunSpec, ranks: int | None) -> None:
    """Refuse ranks of MPI where they cannot be had; nothing is started.

    Raises:
        UserInputError: the generator has no use for them, or MPI is not installed.
    """
    if ranks is None:
        return
    family = family_of(spec.generator)
    if family == "genarris":
        raise UserInputError(
            "--ranks is for the generators random and random+press; the structures of Genarris "
            "depend on its ranks, so write --set genarris.mpi_ranks=N."
        )
    if family != "random":
        raise UserInputError(
            f"--ranks is for the generators random and random+press; {spec.method} needs no MPI."
        )
    from packflow_core.mpi.launch import require_mpi

    require_mpi()


def generate_candidates(
    run: RunStore, todo: dict[int, int], means: Means, counts: Counter[str]
) -> None:
    """Make candidates and record them.

    Args:
        run: the run.
        todo: index to number of the attempt.
        means: who does it.
        counts: of rows by status, added to.

    Raises:
        PackflowError: no candidate can be made at all.
    """
    family = family_of(run.plan.spec.generator)
    if family != "packflow":
        conformers_of(run)  # made here once, read by workers and ranks
    if family == "random" and means.ranks is None:
        _in_workers(run, todo, means, counts)
        return
    # Two chunks at once would fight for the same processors.
    with _generator_lock:
        if family == "packflow":
            _here(run, todo, counts)
        elif family == "random":
            assert means.ranks is not None
            _in_ranks(run, todo, means.ranks, counts)
        else:
            _by_genarris(run, todo, counts)


def _here(run: RunStore, todo: dict[int, int], counts: Counter[str]) -> None:
    """Sample block by block; a block's rows are written as one part, all or none."""
    for work in _blocks(run.plan.spec, todo):
        go_on()
        _write(run, make_rows(run, work), counts)


def _in_workers(run: RunStore, todo: dict[int, int], means: Means, counts: Counter[str]) -> None:
    """Let worker processes have a block each; a lost one costs its block another attempt."""
    workers = pool(make_seats(means.workers, "cpu", gpu=False), run.folder / LOG)
    with run.stage("generate").open_journal(f"{min(todo):08d}-{max(todo):08d}") as journal:
        for attempt in sorted(set(todo.values())):
            seconds = _PACKING_TIMEOUT_S * 2 ** (attempt - 1)
            blocks = _blocks(run.plan.spec, {i: a for i, a in todo.items() if a == attempt})
            groups = [(block, (str(run.folder),)) for block in blocks]
            for outcome in workers.map_groups(run_make_rows, groups, timeout_s=seconds):
                go_on()  # the outcomes of a stopped pool say nothing about the candidates
                row = outcome.value
                if not isinstance(row, dict):
                    reason = ERRORS.get(outcome.error or "", Reason.INTERNAL)
                    row = unmade(run, int(str(outcome.key)), reason, outcome.detail or "")
                    completed(run, row, attempt, outcome.wall_s)
                record(journal, row, counts)


def run_make_rows(
    members: Sequence[tuple[int, int]], run_folder: str
) -> Iterator[tuple[int, Row] | None]:
    """`make_rows` as a worker process calls it; members are (index, attempt)."""
    for row in make_rows(RunStore(Path(run_folder)), members):
        yield int(row["index"]), row


def _in_ranks(run: RunStore, todo: dict[int, int], ranks: int, counts: Counter[str]) -> None:
    from packflow_core.mpi.launch import run_ranks

    def on_row(status: str) -> None:
        counts[status] += 1
        progress.current().advance("generate", status)

    run_ranks(run, "generate", sorted(todo.items()), ranks, on_row, stopping)
    go_on()


def _by_genarris(run: RunStore, todo: dict[int, int], counts: Counter[str]) -> None:
    from packflow_core.stages.genarris_runs import genarris_rows

    for rows in genarris_rows(run, todo, go_on):
        _write(run, rows, counts)


def _write(run: RunStore, rows: list[Row], counts: Counter[str]) -> None:
    run.stage("generate").write_part(rows)
    for row in rows:
        counts[row["status"]] += 1
        progress.current().advance("generate", row["status"])


def _blocks(spec: RunSpec, todo: dict[int, int]) -> list[list[tuple[int, int]]]:
    """The work in blocks whose limits do not depend on what is left to do."""
    size = block_size(spec)
    blocks: dict[int, list[tuple[int, int]]] = {}
    for index in sorted(todo):
        blocks.setdefault(index // size, []).append((index, todo[index]))
    return list(blocks.values())
