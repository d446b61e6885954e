"""Task that ranks what was analysed and writes the result files."""

from __future__ import annotations

from prefect import task

from packflow_core.stages.finish import Summary, write_results
from tasks.policy import OPTIONS


@task(name="report", **OPTIONS)
def report(run_folder: str, workers: int | None, device: str = "auto") -> Summary:
    """Order all candidates and write table, structures, picture and report."""
    return write_results(run_folder, workers, device)
