"""A pilot: the first candidates of a run, through its real stages, with a stopwatch.

The candidates are those that the run itself would begin with, so a pilot whose folder is kept is a
beginning of the run, and `csp run --out` with that folder continues it.
"""

from __future__ import annotations

import math
import sys
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from packflow_core.baselines.names import family_of
from packflow_core.devices import make_seats, usable_cpus
from packflow_core.engines.registry import engine_traits
from packflow_core.process_memory import MemoryWatch
from packflow_core.spec import RunSpec, engine_of
from packflow_core.stages.chunk import ChunkResult, run_chunk
from packflow_core.stages.finish import RANKED, RANKED_CSV, STRUCTURES, write_results
from packflow_core.stages.pipeline import run_stage
from packflow_core.stages.plan import device_of, z_of
from packflow_core.stages.registry import work_of
from packflow_core.stages.run_store import OpenRun, RunStore, plan_for
from packflow_core.store.schema import Reason

#: Attempts that the limit of a candidate's time may be spent on: the second has twice the time.
_TIME_OF_ALL_ATTEMPTS = 3.0


@dataclass(frozen=True)
class StagePilot:
    """What a pilot measured in one stage.

    Attributes:
        stage: its name.
        seconds: working time of each measured candidate by Z, s.
        tried: candidates that were attempted, the unmeasured first ones of the workers, too.
        passed: those of them that went on to the next stage.
        limit_s: longest that a candidate may take, s; infinity where there is no limit.
        seats: processes that share the work.
        batched: whether many candidates at once cost less than one by one.
        row_bytes: what one more row adds to a Parquet part.
        part_bytes: what a part with a single row takes.
        parent_mb, worker_mb: largest resident memory of this process and of a worker, MB.
    """

    stage: str
    seconds: dict[int, list[float]]
    tried: int
    passed: int
    limit_s: float
    seats: int
    batched: bool
    row_bytes: float
    part_bytes: float
    parent_mb: float
    worker_mb: float

    @property
    def measured(self) -> int:
        """Candidates with a time."""
        return sum(map(len, self.seconds.values()))


@dataclass(frozen=True)
class Pilot:
    """What a pilot measured.

    Attributes:
        spec: of the whole run, not of the pilot.
        candidates: of the pilot, with those that only warmed the workers up.
        elapsed_s: of the pilot, s.
        stages: in their order.
        fixed_bytes: result files whose size does not grow with the candidates.
        cif_bytes: mean size of a CIF of the results.
        csv_bytes: of a line of the ranked table.
        ranked_row_bytes: memory of a ranked candidate as a Python row, bytes.
        results_s: ordering the pilot's candidates and writing the results, s.
        results_memory_mb: largest resident memory meanwhile, parent and one worker, MB.
    """

    spec: RunSpec
    candidates: int
    elapsed_s: float
    stages: tuple[StagePilot, ...]
    fixed_bytes: float
    cif_bytes: float
    csv_bytes: float
    ranked_row_bytes: float
    results_s: float
    results_memory_mb: float


def run_pilot(
    spec: RunSpec,
    folder: Path,
    candidates: int,
    workers: int | None = None,
    device: str = "auto",
    timeout_s: float | None = None,
) -> Pilot:
    """Run the first candidates of a spec and measure every stage.

    Args:
        spec: the whole run.
        folder: of the pilot's run; should be empty, or every stage that is done there already
            counts with the times that were recorded.
        candidates: how many to measure; one more for each worker comes before them.
        workers: worker processes of the whole run; one per processor or GPU when None. The pilot
            starts no more than there are processors here.
        device: where engines compute that can use a GPU.
        timeout_s: time limit of a candidate's first relaxation, s; the stage's own when None.

    Raises:
        UserInputError: an input is wrong.
        RunFailedError: the pilot broke.
    """
    began = time.perf_counter()
    here = None if workers is None else min(workers, usable_cpus())
    # The first candidate of a worker pays for libraries and conformers: it is not measured.
    warm = min(len(make_seats(here, "cpu", gpu=False)), max(0, spec.n - candidates))
    stages: list[StagePilot] = []
    for count in (warm, min(warm + candidates, spec.n)):
        if not count:
            continue
        small = spec.model_copy(update={"n": count})
        with OpenRun(folder, plan_for(small, folder), workers=here) as run:
            for stage in run.plan.stage_names:
                with MemoryWatch() as watch:
                    _work(run, stage, here, device, timeout_s)
                if count > warm:
                    seats = _seats(spec, stage, workers, device)
                    stages.append(_measured(run, stage, warm, timeout_s, seats, watch))
            run.end_session("finished")
    # What went on from a stage is what the next one tried.
    after = [following.tried for following in stages[1:]]
    after.append(run.stage_ledger("rank").ok)
    stages = [replace(s, passed=count) for s, count in zip(stages, after, strict=True)]
    results_began = time.perf_counter()
    with MemoryWatch() as watch:
        write_results(folder, here)
    results_s = time.perf_counter() - results_began
    files = _result_files(folder)
    ranked = run.stage("rank").rows()
    return Pilot(
        spec=spec,
        candidates=small.n,
        elapsed_s=time.perf_counter() - began,
        stages=tuple(stages),
        fixed_bytes=files["fixed"],
        cif_bytes=files["cif"],
        csv_bytes=files["csv"],
        ranked_row_bytes=sum(map(python_bytes, ranked)) / max(1, len(ranked)),
        results_s=results_s,
        results_memory_mb=watch.own_mb + watch.child_mb,
    )


def _work(
    run: RunStore, stage: str, workers: int | None, device: str, timeout_s: float | None
) -> None:
    """Attempt what is pending in a stage."""
    limit = timeout_s if work_of(stage).grouped else None
    where = device_of(run.plan.spec, stage, device)

    def one_by_one(name: str, cut: list[list[tuple[int, int]]]) -> list[ChunkResult]:
        return [run_chunk(run.folder, name, work, workers, limit, where) for work in cut]

    run_stage(run, stage, one_by_one)


def _measured(
    run: RunStore,
    stage: str,
    first: int,
    timeout_s: float | None,
    seats: int,
    watch: MemoryWatch,
) -> StagePilot:
    """What the candidates from index `first` on came to in a stage."""
    spec = run.plan.spec
    kind = work_of(stage)
    store = run.stage(stage)
    factor = _padding(spec, first) if stage == "generate" else 1.0
    seconds: dict[int, list[float]] = defaultdict(list)
    tried = 0
    for row in store.table(("index", "reason", "wall_s")).to_pylist():
        tried += row["reason"] != Reason.WINDOW
        if row["index"] >= first and row["wall_s"] is not None:
            seconds[z_of(row["index"], spec.z_cycle)].append(row["wall_s"] * factor)
    limit = (timeout_s if kind.grouped else None) or kind.timeout_s or math.inf
    row_bytes, part_bytes = parquet_cost(store.table())
    return StagePilot(
        stage=stage,
        seconds=dict(seconds),
        tried=tried,
        passed=0,
        limit_s=limit * _TIME_OF_ALL_ATTEMPTS,
        seats=seats,
        batched=kind.grouped and engine_traits(engine_of(spec, stage)).batched,
        row_bytes=row_bytes,
        part_bytes=part_bytes,
        parent_mb=watch.own_mb,
        worker_mb=watch.child_mb,
    )


def _seats(spec: RunSpec, stage: str, workers: int | None, device: str) -> int:
    """Processes that share the work of a stage; see `packflow_core.stages.chunk`."""
    if stage == "generate" and family_of(spec.generator) != "random":
        return 1  # a PackFlow model samples in the parent, Genarris is one program
    if work_of(stage).grouped:
        gpu = engine_traits(engine_of(spec, stage)).gpu
        return len(make_seats(workers, device_of(spec, stage, device) if gpu else "cpu", gpu=gpu))
    return len(make_seats(workers, "cpu", gpu=False))


def _padding(spec: RunSpec, first: int) -> float:
    """Candidates that were sampled over those that the blocks had room for.

    The sampler integrates blocks of a fixed shape: a block that is not full takes as long as a
    full one, which says too much of what a candidate costs in a long run.
    """
    if family_of(spec.generator) != "packflow":
        return 1.0
    from packflow_core.chem.molecule import Molecule
    from packflow_core.model.sampler import block_size
    from packflow_core.stages.generate import resolve_device, z_of_index

    heavy = Molecule.from_smiles(spec.smiles).n_heavy
    kind = resolve_device(spec.generate.device)
    blocks: set[tuple[int, int, int]] = set()
    for index in range(first, spec.n):
        z, number = z_of_index(index, spec.z_cycle)
        size = block_size(z * heavy, kind)
        blocks.add((z, number // size, size))
    return (spec.n - first) / sum(size for *_, size in blocks)


def parquet_cost(table: pa.Table) -> tuple[float, float]:
    """Bytes that one more row adds to a part, and bytes of a part with one row."""
    if not len(table):
        return 0.0, 0.0
    first, whole = _parquet_bytes(table.slice(0, 1)), _parquet_bytes(table)
    if len(table) == 1:
        return float(table.nbytes), float(first)
    return (whole - first) / (len(table) - 1), float(first)


def _parquet_bytes(table: pa.Table) -> int:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return int(sink.getvalue().size)


def python_bytes(value: Any) -> int:
    """Memory of a row of plain Python values, lists and dictionaries included, bytes."""
    size = sys.getsizeof(value)
    if isinstance(value, Mapping):
        return size + sum(map(python_bytes, value.values()))  # the names are shared by all rows
    if isinstance(value, list):
        return size + sum(map(python_bytes, value))
    return size


def _result_files(folder: Path) -> dict[str, float]:
    """Bytes of what `write_results` wrote."""
    cifs = [path.stat().st_size for path in (folder / STRUCTURES).glob("*.cif")]
    lines = len((folder / RANKED_CSV).read_bytes().splitlines())
    csv = (folder / RANKED_CSV).stat().st_size / max(1, lines)
    growing = {RANKED, RANKED_CSV}
    fixed = sum(
        path.stat().st_size
        for path in folder.iterdir()
        if path.is_file() and path.name not in growing
    )
    return {"fixed": fixed, "cif": sum(cifs) / max(1, len(cifs)), "csv": csv}
