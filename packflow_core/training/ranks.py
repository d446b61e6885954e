"""Processes that train together: each has batches of its own, the gradients are averaged."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from packflow_core.errors import RunFailedError, UserInputError

#: How long a rank waits for another, which may read large tables or validate. Whoever started the
#: ranks ends them when one dies, much earlier.
_PATIENCE = timedelta(hours=2)


@dataclass(frozen=True)
class Ranks:
    """The processes of a training, seen from one of them.

    Attributes:
        rank: number of this one.
        size: how many there are.
        device: where this one computes.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def leads(self) -> bool:
        """Whether this process writes, logs and validates."""
        return self.rank == 0

    def average_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Replace gradients by their mean over the ranks.

        They travel as one vector of fixed order, so that the order in which the ranks are summed
        never changes and a resumed training repeats an unbroken one.
        """
        if self.size == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([g.flatten() for g in gradients])
        dist.all_reduce(flat)
        flat /= self.size
        parts = flat.split([g.numel() for g in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))

    def mean(self, values: Sequence[Tensor | float]) -> list[float]:
        """Means over the ranks of a few numbers; all ranks get the same."""
        if self.size == 1:
            return [float(v) for v in values]
        vector = torch.stack([torch.as_tensor(v, device=self.device).double() for v in values])
        dist.all_reduce(vector)
        return [float(v) for v in (vector / self.size).cpu()]

    def wait(self) -> None:
        """Wait until every rank is here."""
        if self.size > 1:
            dist.barrier()

    def check_same(self, facts: Mapping[str, object]) -> None:
        """Check that all ranks start from the same state.

        Raises:
            RunFailedError: they differ.
        """
        if self.size == 1:
            return
        everyone: list[Mapping[str, object] | None] = [None] * self.size
        dist.all_gather_object(everyone, facts)
        if any(other != everyone[0] for other in everyone):
            raise RunFailedError(
                "The ranks of the training do not see the same folder or data; put both on a disk "
                "that all of them share."
            )


def join(rank: int, size: int, device: str, meeting: str, local_rank: int | None = None) -> Ranks:
    """Join the other processes of a training; `leave` ends it.

    Args:
        rank: number of this process.
        size: how many there are.
        device: cpu or cuda.
        meeting: where they meet, `file:///...` or `env://`.
        local_rank: number of this process on its machine, which is the number of its GPU.
    """
    where = torch.device(device)
    if where.type == "cuda":
        where = torch.device("cuda", rank if local_rank is None else local_rank)
        torch.cuda.set_device(where)
    if size == 1:
        return Ranks(rank, size, where)
    dist.init_process_group(
        "nccl" if where.type == "cuda" else "gloo",
        init_method=meeting,
        rank=rank,
        world_size=size,
        timeout=_PATIENCE,
        device_id=where if where.type == "cuda" else None,
    )
    return Ranks(rank, size, where)


def leave(ranks: Ranks) -> None:
    """End what `join` began."""
    if ranks.size > 1 and dist.is_initialized():
        dist.destroy_process_group()


def launched_outside() -> tuple[int, int, int] | None:
    """Rank, number of ranks and rank on this machine, where torchrun started this process.

    Raises:
        UserInputError: its variables are not numbers.
    """
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    if not all(name in os.environ for name in (*names, "MASTER_ADDR", "MASTER_PORT")):
        return None
    try:
        rank, size, local = (int(os.environ[name]) for name in names)
    except ValueError as error:
        raise UserInputError(
            "RANK, WORLD_SIZE and LOCAL_RANK are set and are not numbers; unset them, or start "
            "with torchrun."
        ) from error
    return rank, size, local
