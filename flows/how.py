"""How a run is worked on: what the command line hands to the flow, and the flow to its tasks."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class How:
    """How a run is worked on; but for `rerank`, nothing here changes a result.

    Attributes:
        workers: worker processes; one per processor or GPU when None.
        device: where engines compute that can use a GPU: auto, cpu, cuda, ...
        timeout_s: time limit of a candidate's first relaxation, s; generous when None.
        retry_failed: attempt failures again whose reason may pass.
        rerank: only analyse and rank what is relaxed.
        ranks: MPI ranks that make random packings; worker processes do when None.
    """

    workers: int | None = None
    device: str = "auto"
    timeout_s: float | None = None
    retry_failed: bool = False
    rerank: bool = False
    ranks: int | None = None
