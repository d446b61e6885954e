"""How each stage is run: its function, its arguments, and how its work is cut into chunks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from packflow_core.stages.functions import run_analyse, run_hydrogenate, run_relax
from packflow_core.stages.run_store import RunStore
from packflow_core.store.rows import Row

#: Tasks of one stage at most: the flow stays far below what Prefect's database digests.
MAX_CHUNKS = 180

#: Candidates of one Z that the sampler integrates together; work that ends elsewhere is right
#: too, but integrates a block twice.
_SAMPLER_BLOCK = 16


@dataclass(frozen=True)
class StageWork:
    """How a stage is run.

    Attributes:
        function: called in a worker as function(row, *arguments); None for the generator, which
            works on whole blocks in the parent process.
        chunk: candidates in a chunk, as long as this gives at most `MAX_CHUNKS` chunks.
        timeout_s: time limit of the first attempt at one candidate, s; doubles with each attempt.
    """

    function: Callable[..., Row] | None
    chunk: int
    timeout_s: float


#: Chunks are sized by cost: a hydrogenation takes tens of milliseconds, a relaxation 1 to 60 s.
WORK: dict[str, StageWork] = {
    "generate": StageWork(None, 256, 0.0),
    "hydrogenate": StageWork(run_hydrogenate, 250, 300.0),
    "relax_h": StageWork(run_relax, 100, 600.0),
    "relax": StageWork(run_relax, 50, 3600.0),
    "rank": StageWork(run_analyse, 100, 600.0),
}


def arguments(stage: str, run: RunStore) -> tuple[Any, ...]:
    """What a stage's function takes after the row.

    Raises:
        ValueError: the stage has no function per candidate.
    """
    spec = run.plan.spec
    if stage == "hydrogenate":
        return (spec.smiles, spec.hydrogenate)
    if stage in ("relax_h", "relax"):
        return (spec.smiles, spec.engine, getattr(spec, stage))
    if stage == "rank":
        return (spec.smiles, spec.rank, str(run.reference) if run.reference else None)
    raise ValueError(f"stage '{stage}' does not work candidate by candidate")


def block_size(z_values: Sequence[int]) -> int:
    """Consecutive candidates that are sampled, and written, together."""
    return _SAMPLER_BLOCK * len(z_values)


def chunks(
    stage: str, work: Sequence[tuple[int, int]], z_values: Sequence[int]
) -> list[list[tuple[int, int]]]:
    """Cut the pending work of a stage, pairs (index, attempt) by index, into chunks.

    Chunks of the generator end at block boundaries. Where a chunk ends never changes a result.
    """
    size = max(WORK[stage].chunk, math.ceil(len(work) / MAX_CHUNKS))
    if stage != "generate":
        return [list(work[i : i + size]) for i in range(0, len(work), size)]
    block = block_size(z_values)
    span = math.ceil(size / block) * block
    cut: dict[int, list[tuple[int, int]]] = {}
    for item in work:
        cut.setdefault(item[0] // span, []).append(item)
    return list(cut.values())
