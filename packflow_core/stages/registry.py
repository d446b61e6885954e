"""How each stage is run: its function, its arguments, and how its work is cut into chunks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from packflow_core.engines.registry import engine_traits
from packflow_core.spec import RunSpec, engine_of, relax_params_of
from packflow_core.stages.conformers import conformers_file
from packflow_core.stages.functions import run_analyse, run_hydrogenate, run_relax
from packflow_core.stages.run_store import RunStore
from packflow_core.store.schema import STAGES, stage_kind

#: Tasks of a run at most: far below what Prefect's database digests.
MAX_TASKS = 900
#: Tasks of one stage at most, in a run without refinements.
MAX_CHUNKS = MAX_TASKS // len(STAGES)

#: Candidates of a chunk that an engine relaxes in batches.
_BATCHED_CHUNK = 1000


@dataclass(frozen=True)
class StageWork:
    """How a stage is run.

    Attributes:
        function: called in a worker as function(row, *arguments), or, where `grouped`, with a
            group of candidates; None for the generator, which works on whole blocks in the
            parent process.
        chunk: candidates in a chunk, as long as this gives at most `MAX_CHUNKS` chunks.
        timeout_s: time limit of the first attempt at one candidate, s; doubles with each attempt.
        grouped: whether a worker takes several candidates at once, and its engine decides how many.
        group: candidates that a worker takes at once where no engine decides; above one the
            function is called with a group of candidates, too.
    """

    function: Callable[..., Any] | None
    chunk: int
    timeout_s: float
    grouped: bool = False
    group: int = 1


#: Stages by kind (`stage_kind`). Chunks are sized by cost: a hydrogenation takes tens of
#: milliseconds, a relaxation 1 to 60 s.
WORK: dict[str, StageWork] = {
    "generate": StageWork(None, 256, 0.0),  # see `generation`
    "hydrogenate": StageWork(run_hydrogenate, 250, 300.0, group=16),
    "relax_h": StageWork(run_relax, 100, 600.0, grouped=True),
    "relax": StageWork(run_relax, 50, 3600.0, grouped=True),
    "rank": StageWork(run_analyse, 100, 600.0),
}


def work_of(stage: str) -> StageWork:
    """How a stage is run.

    Raises:
        ValueError: not a known stage.
    """
    return WORK[stage_kind(stage)]


def arguments(stage: str, run: RunStore) -> tuple[Any, ...]:
    """What a stage's function takes after the row.

    Raises:
        ValueError: the stage has no function per candidate.
    """
    spec = run.plan.spec
    if stage == "hydrogenate":
        return (spec.smiles, spec.hydrogenate)
    if stage_kind(stage) in ("relax_h", "relax"):
        return (spec.smiles, engine_of(spec, stage), relax_params_of(spec, stage))
    if stage == "rank":
        pool = conformers_file(run)
        return (
            spec.smiles,
            spec.rank,
            str(run.reference) if run.reference else None,
            str(pool) if pool else None,
        )
    raise ValueError(f"stage '{stage}' does not work candidate by candidate")


def batched(spec: RunSpec, stage: str) -> bool:
    """Whether a stage's engine takes many candidates in one call."""
    return work_of(stage).grouped and engine_traits(engine_of(spec, stage)).batched


def chunks(
    stage: str,
    work: Sequence[tuple[int, int]],
    block: int = 1,
    at_most: int = MAX_CHUNKS,
    batched: bool = False,
    whole: bool = False,
) -> list[list[tuple[int, int]]]:
    """Cut the pending work of a stage, pairs (index, attempt) by index, into chunks.

    Chunks of the generator end at block boundaries. Where a chunk ends never changes a result.
    One that is started as a program of its own, Genarris or ranks of MPI, gets all in one chunk.

    Args:
        stage: its name.
        work: what is pending.
        block: candidates that the generator makes together.
        at_most: about so many chunks.
        batched: whether the stage's engine takes many candidates in one call: then chunks are
            large, because batches are full until the last candidates of a chunk.
        whole: everything in one chunk.
    """
    if whole:
        return [list(work)] if work else []
    least = _BATCHED_CHUNK if batched and work_of(stage).grouped else work_of(stage).chunk
    size = max(least, math.ceil(len(work) / at_most))
    if stage != "generate":
        return [list(work[i : i + size]) for i in range(0, len(work), size)]
    span = math.ceil(size / block) * block
    cut: dict[int, list[tuple[int, int]]] = {}
    for item in work:
        cut.setdefault(item[0] // span, []).append(item)
    return list(cut.values())
