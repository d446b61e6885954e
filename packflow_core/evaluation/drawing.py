"""Drawing and repairing proposals: the first two stages of many runs, by one pool of workers.

Blocks of all runs share the workers, so that small runs leave nobody idle. A model samples on a
GPU where there is one, in this process; on CPUs each worker samples with one thread, so the time
of a proposal is that of one thread. A finished block becomes a part of its stage at once: a kill
costs only the blocks in the air.
"""

from __future__ import annotations

import itertools
import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packflow_core import progress
from packflow_core.baselines.names import family_of
from packflow_core.errors import PackflowError
from packflow_core.evaluation.settings import EvaluationSettings
from packflow_core.evaluation.units import Unit, open_unit
from packflow_core.stages.functions import run_hydrogenate
from packflow_core.stages.generators import block_size, completed, make_rows, unmade
from packflow_core.stages.pools import StoppedError, go_on
from packflow_core.stages.recording import ERRORS, row_of, shorten
from packflow_core.stages.run_store import OpenRun, RunStore
from packflow_core.store.atomic import StorageFullError
from packflow_core.store.rows import Row
from packflow_core.store.schema import Reason, Status

if TYPE_CHECKING:
    from packflow_core.workers import WorkerPool

logger = logging.getLogger(__name__)

#: Silence after which a worker is taken for stuck, s; doubles with each attempt.
_DRAW_TIMEOUT_S = 4 * 3600.0
_REPAIR_TIMEOUT_S = 600.0
#: Candidates that a worker repairs before their rows are written.
_REPAIR_BLOCK = 16
#: Attempts at what failed for a reason that may pass; `RETRY` allows fewer.
_PASSES = 3

#: Pairs (candidate index, number of the attempt).
Work = list[tuple[int, int]]


def draw(units: Sequence[Unit], settings: EvaluationSettings, pool: WorkerPool) -> dict[Unit, str]:
    """Draw and, where wanted, repair the proposals of units that do not have them yet.

    Args:
        units: of one generator.
        settings: of the evaluation.
        pool: worker processes.

    Returns:
        Units that could not be drawn at all, with the reason.

    Raises:
        StorageFullError: no space left; what is recorded is kept.
        StoppedError: somebody wants it to end.
        UserInputError: a folder holds proposals of other settings.
    """
    runs: dict[Unit, RunStore] = {}
    refused: dict[Unit, str] = {}
    for unit in units:
        go_on()
        if unit.folder.exists():
            runs[unit] = open_unit(unit, settings)
            continue
        try:
            runs[unit] = open_unit(unit, settings)
        except (StorageFullError, StoppedError):
            raise
        except PackflowError as error:
            refused[unit] = str(error)
    if runs:
        name = units[0].generator.method
        _stage(runs, "generate", settings.n, f"draw {name}", pool)
        repaired = {unit: run for unit, run in runs.items() if unit.repaired}
        if repaired:
            _stage(repaired, "hydrogenate", settings.n, f"repair {name}", pool)
    return refused


def proposals(unit: Unit, stage: str, n: int) -> dict[int, Row]:
    """Rows of the first `n` proposals of a unit after a stage, by index.

    Raises:
        RunFailedError: a part is damaged.
    """
    return {int(row["index"]): row for row in RunStore(unit.folder).stage(stage).rows(range(n))}


def _stage(runs: dict[Unit, RunStore], stage: str, n: int, label: str, pool: WorkerPool) -> None:
    """Attempt what is pending in one stage among the first `n` candidates of all runs."""
    sink = progress.current()
    for _ in range(_PASSES):
        work: dict[Unit, Work] = {}
        done: Counter[str] = Counter()
        total = 0
        for unit, run in runs.items():
            pending = _pending(run, stage, n)
            again = {index for index, _ in pending}
            kept = {i: a for i, a in run.attempts(stage, range(n)).items() if i not in again}
            done.update(attempt.status for attempt in kept.values())
            total += len(kept) + len(pending)
            if pending:
                work[unit] = pending
        sink.start(label, total, done)
        try:
            if stage == "hydrogenate":
                _repair(runs, work, label, pool)
            else:
                _draw(runs, work, label, pool)
        finally:
            sink.finish(label)
        if not any(_pending(run, stage, n) for run in runs.values()):
            break


def _pending(run: RunStore, stage: str, n: int) -> Work:
    """Work left among the first `n` candidates; the folder may have begun with more."""
    return [(index, attempt) for index, attempt in run.pending(stage) if index < n]


# -- generate ---------------------------------------------------------------------------------
def _draw(runs: dict[Unit, RunStore], work: dict[Unit, Work], label: str, pool: WorkerPool) -> None:
    if not work:
        return
    first = next(iter(work))
    family = family_of(first.generator.name)
    if family == "genarris":
        for unit, pending in work.items():
            _by_genarris(unit, runs[unit], pending, label)
        return
    if family == "packflow" and _on_gpu(runs[first]):
        for unit, pending in work.items():
            for block in _blocks(runs[unit], pending):
                go_on()
                _write(runs[unit], "generate", _made(runs[unit], block), label)
        return
    owners: list[tuple[RunStore, dict[int, int]]] = []

    def groups() -> Iterator[tuple[list[tuple[Any, int]], tuple[str]]]:
        for unit, pending in work.items():
            run = runs[unit]
            if (sentence := _unprepared(run)) is not None:
                _write(run, "generate", _undrawn(run, pending, sentence), label)
                continue
            for block in _blocks(run, pending):
                members = [((len(owners), index), attempt) for index, attempt in block]
                owners.append((run, dict(block)))
                yield members, (str(unit.folder),)

    waiting: defaultdict[int, list[Row]] = defaultdict(list)
    longest = max(attempt for pending in work.values() for _, attempt in pending)
    seconds = _DRAW_TIMEOUT_S * 2 ** (longest - 1)
    for outcome in pool.map_groups(draw_members, groups(), timeout_s=seconds):
        go_on()  # the outcomes of a stopped pool say nothing about the candidates
        number, index = _key(outcome.key)
        run, attempts = owners[number]
        row = outcome.value
        if not isinstance(row, dict):
            reason = ERRORS.get(outcome.error or "", Reason.INTERNAL)
            row = unmade(run, index, reason, outcome.detail or "")
            completed(run, row, attempts[index], outcome.wall_s)
        waiting[number].append(row)
        if len(waiting[number]) == len(attempts):
            _write(run, "generate", waiting.pop(number), label)


def draw_members(
    members: Sequence[tuple[tuple[int, int], int]], run_folder: str
) -> Iterator[tuple[tuple[int, int], Row] | None]:
    """Draw a block as a worker process does; members are ((block, index), attempt)."""
    run = RunStore(Path(run_folder))
    for (key, _), row in zip(
        members, _made(run, [(key[1], attempt) for key, attempt in members]), strict=True
    ):
        yield key, row


def _made(run: RunStore, block: Work) -> list[Row]:
    """Rows of a block; a molecule that the generator cannot do has rows that say why."""
    try:
        _prime(run)
        return make_rows(run, block)
    except (StorageFullError, StoppedError):
        raise
    except PackflowError as error:
        return _undrawn(run, block, str(error))


def _undrawn(run: RunStore, block: Work, sentence: str) -> list[Row]:
    detail = shorten(sentence)
    return [
        completed(run, unmade(run, index, Reason.ENGINE, detail), attempt, 0.0)
        for index, attempt in block
    ]


def _unprepared(run: RunStore) -> str | None:
    """Make what the candidates of a run share, once for all workers; why not where it fails."""
    if family_of(run.plan.spec.generator) == "packflow":
        return None
    from packflow_core.stages.conformers import conformers_of

    try:
        conformers_of(run)
    except (StorageFullError, StoppedError):
        raise
    except PackflowError as error:
        return str(error)
    return None


def _prime(run: RunStore) -> None:
    """Load the model before the clock runs: it is loaded once, however many proposals follow."""
    if family_of(run.plan.spec.generator) == "packflow":
        from packflow_core.stages.generate import generator_identity

        generator_identity(run.plan.spec.generator)


def _by_genarris(unit: Unit, run: RunStore, pending: Work, label: str) -> None:
    from packflow_core.stages.genarris_runs import genarris_rows

    with OpenRun(unit.folder, run.plan) as held:
        try:
            for rows in genarris_rows(held, dict(pending), go_on):
                _write(held, "generate", rows, label)
        except (StorageFullError, StoppedError):
            raise
        except PackflowError as error:
            missing = {index for index, _ in held.pending("generate")}
            left = [(index, attempt) for index, attempt in pending if index in missing]
            rows = _undrawn(held, left, str(error))
            _write(held, "generate", rows, label)
        held.end_session("interrupted")


def _on_gpu(run: RunStore) -> bool:
    from packflow_core.stages.generate import resolve_device

    return resolve_device(run.plan.spec.generate.device).startswith("cuda")


def _blocks(run: RunStore, pending: Work) -> list[Work]:
    """Pending candidates in blocks that are best drawn together, whatever is done already."""
    size = block_size(run.plan.spec)
    blocks: defaultdict[int, Work] = defaultdict(list)
    for index, attempt in pending:
        blocks[index // size].append((index, attempt))
    return list(blocks.values())


# -- hydrogenate ------------------------------------------------------------------------------
def _repair(
    runs: dict[Unit, RunStore], work: dict[Unit, Work], label: str, pool: WorkerPool
) -> None:
    owners: dict[int, tuple[RunStore, dict[int, int], dict[int, Row]]] = {}
    numbers = itertools.count()  # never again, though finished blocks are forgotten

    def groups() -> Iterable[tuple[list[tuple[Any, Row]], tuple[Any, ...]]]:
        for unit, pending in work.items():
            run, spec = runs[unit], runs[unit].plan.spec
            for begin in range(0, len(pending), _REPAIR_BLOCK):
                block = dict(pending[begin : begin + _REPAIR_BLOCK])
                before = {int(r["index"]): r for r in run.stage("generate").rows(block)}
                number = next(numbers)
                owners[number] = run, block, before
                members = [((number, index), row) for index, row in before.items()]
                yield members, (spec.smiles, spec.hydrogenate)

    waiting: defaultdict[int, list[Row]] = defaultdict(list)
    for outcome in pool.map_groups(run_hydrogenate, groups(), timeout_s=_REPAIR_TIMEOUT_S):
        go_on()
        number, index = _key(outcome.key)
        run, block, before = owners[number]
        row = row_of(outcome, before[index], _REPAIR_TIMEOUT_S)
        row.update(stage_key=run.plan.key("hydrogenate"), attempt=block[index], device="cpu")
        if row.get("wall_s") is None:
            row["wall_s"] = outcome.wall_s
        waiting[number].append(row)
        if len(waiting[number]) == len(block):
            _write(run, "hydrogenate", waiting.pop(number), label)
            del owners[number]


def _key(key: Any) -> tuple[int, int]:
    number, index = key
    return int(number), int(index)


def _write(run: RunStore, stage: str, rows: list[Row], label: str) -> None:
    """Record a block as one part, all or nothing."""
    rows.sort(key=lambda row: int(row["index"]))
    run.stage(stage).write_part(rows)
    for status, count in Counter(str(row.get("status", Status.FAILED)) for row in rows).items():
        progress.current().advance(label, status, count)
