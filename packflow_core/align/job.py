"""A whole alignment as one description, and what a process does with it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packflow_core.align.gain import RewardGain
from packflow_core.align.molecules import read_molecules
from packflow_core.align.params import AlignParams
from packflow_core.align.rollouts import usable
from packflow_core.align.trainer import Aligner
from packflow_core.align.validation import RawQuality, Validations
from packflow_core.devices import make_seats
from packflow_core.engines.registry import engine_traits, fetch_engine
from packflow_core.errors import UserInputError
from packflow_core.stages.generate import resolve_device
from packflow_core.store.atomic import make_folder
from packflow_core.training.data import TrainingSet
from packflow_core.training.logs import require_tensorboard
from packflow_core.workers import WorkerPool


@dataclass(frozen=True)
class AlignJob:
    """An alignment.

    Attributes:
        molecules: see `packflow_core.align.molecules`.
        out: its folder.
        params: settings; their engine may be used, see `packflow_core.engines.trust`.
        generator: model to begin with, which is the reference.
        validation: molecules to watch, like `molecules`; None for the val split of a folder.
        device: auto, cpu or cuda, of the network.
        workers: processes for the rewards; None for one per processor.
        minutes: when to stop; None for never.
        tensorboard: log for TensorBoard too.
    """

    molecules: Path
    out: Path
    params: AlignParams
    generator: str = "packflow-open"
    validation: Path | None = None
    device: str = "auto"
    workers: int | None = None
    minutes: float | None = None
    tensorboard: bool = False


def run_alignment(
    job: AlignJob,
    on_step: Callable[[int, dict[str, float]], None] = lambda step, row: None,
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Align, or continue an alignment.

    Args:
        job: the alignment.
        on_step, stop: see `Aligner.run`.

    Returns:
        The checkpoint and where the alignment stands.

    Raises:
        UserInputError: bad molecules, settings, engine, device or folder.
    """
    if job.tensorboard:
        require_tensorboard()
    fetch_engine(job.params.engine)
    where = resolve_device(job.device)
    chemistry = read_molecules(job.molecules)
    watched = _watched(job)
    seats = make_seats(job.workers, job.device, gpu=engine_traits(job.params.engine).gpu)
    make_folder(job.out)
    with WorkerPool(seats, log=job.out / "workers.log") as pool:
        aligner = Aligner(
            job.params, job.generator, chemistry, job.out, pool, where,
            tensorboard=job.tensorboard,
        )  # fmt: skip
        if watched is not None:
            aligner.validation = Validations(
                RawQuality(watched, aligner.preset, job.params),
                RewardGain(watched, aligner.preset, job.params, aligner.reference, pool),
            )
        aligner.run(on_step, math.inf if job.minutes is None else 60.0 * job.minutes, stop)
    return {
        "checkpoint": str(aligner.checkpoint.resolve()),
        "step": aligner.step,
        "of": job.params.steps,
        "ended": aligner.ended,
        "seconds": round(aligner.seconds, 1),
    }


def _watched(job: AlignJob) -> TrainingSet | None:
    """Molecules whose raw samples are watched."""
    params = job.params
    if not params.validate_every:
        return None
    if job.validation is not None:
        found = read_molecules(job.validation, "val")
    elif job.molecules.is_dir():
        found = read_molecules(job.molecules, "val")
    else:
        return None
    if not usable(found, params):
        raise UserInputError(
            f"No molecule to validate on fits into a cell of {params.max_heavy} heavy atoms with "
            f"Z = {min(params.z)}; name smaller ones, raise max_heavy, or set validate_every=0."
        )
    return found
