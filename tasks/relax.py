"""Tasks of the stages `relax_h`, `relax` and the refinements."""

from __future__ import annotations

from prefect import task

from packflow_core.stages.chunk import ChunkResult, run_chunk
from tasks.policy import OPTIONS, Work


@task(name="relax_h", **OPTIONS)
def relax_h_chunk(
    run_folder: str,
    work: Work,
    workers: int | None,
    timeout_s: float | None = None,
    device: str = "auto",
) -> ChunkResult:
    """Relax the hydrogens of a chunk; see `packflow_core.stages.chunk.run_chunk`."""
    return run_chunk(run_folder, "relax_h", work, workers, timeout_s, device=device)


@task(name="relax", **OPTIONS)
def relax_chunk(
    run_folder: str,
    work: Work,
    workers: int | None,
    timeout_s: float | None = None,
    device: str = "auto",
    stage: str = "relax",
) -> ChunkResult:
    """Relax atoms and cells of a chunk; `stage` may be a refinement. See `run_chunk`."""
    return run_chunk(run_folder, stage, work, workers, timeout_s, device=device)
