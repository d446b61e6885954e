"""A whole training as one description, and what each of its processes does with it."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from packflow_core.training.mixture import Source, open_sources
from packflow_core.training.params import TrainParams
from packflow_core.training.pretrain import MODEL_FILE, Trainer
from packflow_core.training.ranks import Ranks
from packflow_core.training.start import load_start


@dataclass(frozen=True)
class Job:
    """A training.

    Attributes:
        sources: of the data.
        out: its folder.
        params: settings.
        device: cpu or cuda.
        threads: of the CPU, for each process; None for PyTorch's choice, shared by the processes.
        minutes: when to stop; None for never.
        init: model whose weights a new training starts from.
        tensorboard: log for TensorBoard too.
    """

    sources: Sequence[Source]
    out: Path
    params: TrainParams
    device: str = "cpu"
    threads: int | None = None
    minutes: float | None = None
    init: str | None = None
    tensorboard: bool = False

    @property
    def checkpoint(self) -> Path:
        """The model that comes out."""
        return self.out / MODEL_FILE


@dataclass(frozen=True)
class Outcome:
    """Where a training stands when it ends or stops.

    Attributes:
        step: last step.
        seconds: of training in all, s.
        weights: digest of the weights, which are the same on all ranks.
    """

    step: int
    seconds: float
    weights: str


def run_job(
    job: Job,
    ranks: Ranks | None = None,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
    stop: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Train, or continue, as one process or as one of several.

    Args:
        job: the training.
        ranks: the processes; None for this one alone.
        on_step, stop: see `Trainer.run`. `on_step` is told once before the first step, with no
            loss.

    Raises:
        UserInputError: bad data, checkpoint or folder.
        RunFailedError: the ranks do not see the same folder or data.
    """
    ranks = ranks or Ranks(device=torch.device(job.device))
    if job.threads:
        torch.set_num_threads(job.threads)
    elif ranks.size > 1 and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // ranks.size))
    if not ranks.leads:  # tables are turned into splits once
        ranks.wait()
    data = open_sources(job.sources, job.out / "data")
    if ranks.leads:
        ranks.wait()
    trainer = Trainer(
        job.params, data.train, data.val, job.out,
        start=load_start(job.init) if job.init else None,
        data_facts=data.facts, ranks=ranks, tensorboard=job.tensorboard,
    )  # fmt: skip
    on_step(trainer.step, math.nan)
    trainer.run(
        on_step=on_step,
        time_limit=math.inf if job.minutes is None else 60.0 * job.minutes,
        stop=stop,
    )
    return Outcome(trainer.step, round(trainer.seconds, 1), trainer.digest())
