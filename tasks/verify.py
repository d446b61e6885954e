"""Task that checks the best structures of a finished run."""

from __future__ import annotations

from typing import Any

from prefect import task

from packflow_core.trust.run_verify import verify_folder
from tasks.policy import OPTIONS


@task(name="verify", **OPTIONS)
def verify_best(
    run_folder: str,
    top: int,
    relax: bool,
    workers: int | None,
    device: str = "auto",
    timeout_s: float | None = None,
) -> dict[str, Any]:
    """Other cells, tighter relaxations; see `packflow_core.trust.run_verify.verify_folder`."""
    return verify_folder(run_folder, top, relax, workers, device, timeout_s)
