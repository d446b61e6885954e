"""Tasks of the stages `relax_h` and `relax`."""

from __future__ import annotations

from prefect import task

from packflow_core.stages.chunk import ChunkResult, run_chunk
from tasks.policy import OPTIONS, Work


@task(name="relax_h", **OPTIONS)
def relax_h_chunk(
    run_folder: str, work: Work, workers: int, timeout_s: float | None = None
) -> ChunkResult:
    """Relax the hydrogens of a chunk; see `packflow_core.stages.chunk.run_chunk`."""
    return run_chunk(run_folder, "relax_h", work, workers, timeout_s)


@task(name="relax", **OPTIONS)
def relax_chunk(
    run_folder: str, work: Work, workers: int, timeout_s: float | None = None
) -> ChunkResult:
    """Relax atoms and cells of a chunk; see `packflow_core.stages.chunk.run_chunk`."""
    return run_chunk(run_folder, "relax", work, workers, timeout_s)
