"""Task of the stage `generate`."""

from __future__ import annotations

from prefect import task

from packflow_core.stages.chunk import ChunkResult, run_chunk
from tasks.policy import OPTIONS, Work


@task(name="generate", **OPTIONS)
def generate_chunk(
    run_folder: str,
    work: Work,
    workers: int | None,
    timeout_s: float | None = None,
    device: str = "auto",
    ranks: int | None = None,
) -> ChunkResult:
    """Make a chunk of candidates; see `packflow_core.stages.chunk.run_chunk`."""
    return run_chunk(run_folder, "generate", work, workers, timeout_s, device, ranks)
