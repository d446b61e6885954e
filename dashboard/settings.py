"""What a dashboard shows and may do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Settings:
    """Settings of one dashboard.

    Attributes:
        roots: folders below which run folders are looked for.
        allow_actions: buttons that start work are there; without it everything is read only.
        prefect_url: API of the Prefect server that the buttons talk to; None for none.
        refresh_s: seconds between two looks at the store.
        cpu_hour_price: cost of an hour of one processor, in any currency; None for unknown.
        gpu_hour_price: cost of an hour of one GPU, in the same currency; None for unknown.
        host: address that the server listens on; requests must name it, or a loopback address.
        deployment: name of the deployment that resumes runs.
    """

    roots: tuple[Path, ...]
    allow_actions: bool = False
    prefect_url: str | None = None
    refresh_s: float = 5.0
    cpu_hour_price: float | None = None
    gpu_hour_price: float | None = None
    host: str = "127.0.0.1"
    deployment: str = "resume/relaxations"
