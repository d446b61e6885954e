"""Task of the stage `rank`."""

from __future__ import annotations

from prefect import task

from packflow_core.stages.chunk import ChunkResult, run_chunk
from tasks.policy import OPTIONS, Work


@task(name="rank", **OPTIONS)
def analyse_chunk(
    run_folder: str,
    work: Work,
    workers: int | None,
    timeout_s: float | None = None,
    device: str = "auto",
) -> ChunkResult:
    """Analyse a chunk of relaxed candidates; see `packflow_core.stages.chunk.run_chunk`."""
    return run_chunk(run_folder, "rank", work, workers, timeout_s, device=device)
