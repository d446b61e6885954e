"""What `csp align` does."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from flows.console import Terminal
from flows.train_commands import TrainingInterrupted, stoppable
from packflow_core.errors import UserInputError


def align(
    terminal: Terminal,
    molecules: Path,
    out: Path,
    settings: dict[str, Any],
    *,
    generator: str,
    validation: Path | None,
    device: str,
    workers: int | None,
    threads: int | None,
    minutes: float | None,
    tensorboard: bool,
) -> None:
    """Align a generator, or continue an alignment, in the folder `out`.

    Args:
        terminal: where to write.
        molecules: see `packflow_core.align.molecules`.
        out: folder of the alignment.
        settings: fields of `AlignParams`.
        generator: model to begin with.
        validation: molecules to watch, like `molecules`; None for the val split of a folder.
        device: auto, cpu or cuda, of the network.
        workers: processes for the rewards; None for the processors.
        threads: of the CPU, of the network; None for PyTorch's choice.
        minutes: when to stop; None for never.
        tensorboard: log for TensorBoard too.

    Raises:
        UserInputError: bad molecules, settings, engine, device or folder.
        TrainingInterrupted: it was stopped; what it had learned is saved.
    """
    import torch

    from packflow_core.align.molecules import read_molecules
    from packflow_core.align.trainer import Aligner
    from packflow_core.align.validation import RawQuality
    from packflow_core.devices import make_seats
    from packflow_core.engines import trust
    from packflow_core.engines.registry import engine_traits, fetch_engine
    from packflow_core.stages.generate import resolve_device
    from packflow_core.training.logs import require_tensorboard
    from packflow_core.workers import WorkerPool

    if tensorboard:
        require_tensorboard()
    params = _params(settings)
    trust.allow(params.engine)
    fetch_engine(params.engine)
    where = resolve_device(device)
    chemistry = read_molecules(molecules)
    watched = None
    if params.validate_every:
        if validation is not None:
            watched = read_molecules(validation)
        elif molecules.is_dir():
            watched = read_molecules(molecules, "val")
    seats = make_seats(workers, device, gpu=engine_traits(params.engine).gpu)
    if threads:
        torch.set_num_threads(threads)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserInputError(
            f"{out} cannot be written ({error.strerror}); choose another --out."
        ) from error
    terminal.open_log(out / "align.log")
    with WorkerPool(seats, log=out / "workers.log") as pool, stoppable() as stopping:
        aligner = Aligner(params, generator, chemistry, out, pool, where, tensorboard=tensorboard)
        if watched is not None:
            aligner.validation = RawQuality(watched, aligner.preset, params)
        _run(terminal, aligner, minutes, stopping.is_set)
        stopped = stopping.is_set()
    if stopped and aligner.step < params.steps and not aligner.ended:
        raise TrainingInterrupted(aligner.step)
    facts = {
        "checkpoint": str(aligner.checkpoint),
        "step": aligner.step,
        "of": params.steps,
        "ended": aligner.ended,
        "seconds": round(aligner.seconds, 1),
    }
    if terminal.json:
        terminal.document(facts)
        return
    early = f", ended early: {aligner.ended}" if aligner.ended else ""
    terminal.write(
        f"{facts['checkpoint']}: step {aligner.step} of {params.steps}{early}; compare it with "
        f"'csp evaluate --generator {generator} --generator {facts['checkpoint']}'."
    )


def _params(settings: dict[str, Any]) -> Any:
    from packflow_core.align.params import AlignParams

    try:
        return AlignParams.model_validate(settings)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        raise UserInputError(
            f"The alignment setting {field}={first['input']!r} is wrong: {message}."
        ) from error


def _run(terminal: Terminal, aligner: Any, minutes: float | None, stop: Any) -> None:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("alignment"), BarColumn(), MofNCompleteColumn(),
        TextColumn("{task.fields[shown]}"), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(
        *columns, console=terminal.console(terminal.err), disable=terminal.quiet
    ) as progress:
        bar = progress.add_task("", total=aligner.params.steps, shown="", completed=aligner.step)

        def on_step(step: int, row: dict[str, float]) -> None:
            shown = f"sound {row['sound']:.0%}, divergence {row.get('divergence', 0.0):.2g}"
            progress.update(bar, completed=step, shown=shown)

        aligner.run(on_step, math.inf if minutes is None else 60.0 * minutes, stop)
