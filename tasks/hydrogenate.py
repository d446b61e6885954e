"""Task of the stage `hydrogenate`."""

from __future__ import annotations

from prefect import task

from packflow_core.stages.chunk import ChunkResult, run_chunk
from tasks.policy import OPTIONS, Work


@task(name="hydrogenate", **OPTIONS)
def hydrogenate_chunk(
    run_folder: str,
    work: Work,
    workers: int | None,
    timeout_s: float | None = None,
    device: str = "auto",
) -> ChunkResult:
    """Repair molecules and add hydrogens; see `packflow_core.stages.chunk.run_chunk`."""
    return run_chunk(run_folder, "hydrogenate", work, workers, timeout_s, device=device)
