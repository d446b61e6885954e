"""What `csp train` and `csp models measure` do."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from flows.console import Terminal
from packflow_core.errors import UserInputError


def train(
    terminal: Terminal,
    data: Path,
    out: Path,
    settings: dict[str, Any],
    *,
    device: str,
    threads: int | None,
    minutes: float | None,
) -> None:
    """Train, or continue a training, in the folder `out`.

    Raises:
        UserInputError: bad data, settings, device or folder.
    """
    import torch
    from pydantic import ValidationError
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    from packflow_core.stages.generate import resolve_device
    from packflow_core.training.folder import open_split
    from packflow_core.training.pretrain import Trainer, TrainParams

    try:
        params = TrainParams.model_validate(settings)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise UserInputError(
            f"The training setting {field}={first['input']!r} is wrong: {first['msg']}."
        ) from error
    where = resolve_device(device)
    if threads:
        torch.set_num_threads(threads)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserInputError(
            f"{out} cannot be written ({error.strerror}); choose another --out."
        ) from error
    terminal.open_log(out / "train.log")
    train_set, val_set = (open_split(data, split, out / "data") for split in ("train", "val"))
    trainer = Trainer(params, train_set, val_set, out, where)
    columns = (
        TextColumn("training"), BarColumn(), MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.4f}"), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(
        *columns, console=terminal.console(terminal.err), disable=terminal.quiet
    ) as progress:
        bar = progress.add_task("", total=params.steps, completed=trainer.step, loss=math.nan)
        trainer.run(
            on_step=lambda step, loss: progress.update(bar, completed=step, loss=loss),
            time_limit=math.inf if minutes is None else 60.0 * minutes,
        )
    facts = {
        "checkpoint": str(out / "model.pt"),
        "step": trainer.step,
        "of": params.steps,
        "seconds": round(trainer.seconds, 1),
    }
    if terminal.json:
        terminal.document(facts)
    else:
        terminal.write(
            f"{facts['checkpoint']}: step {trainer.step} of {params.steps}; "
            f"try it with 'csp run SMILES --generator {facts['checkpoint']}'."
        )


def measure(
    terminal: Terminal,
    model: str,
    data: Path,
    split: str,
    *,
    samples: int,
    steps: int | None,
    restarts: bool,
    molecules: int,
    seed: int,
) -> None:
    """Measure raw samples of a checkpoint on the molecules of a split.

    Raises:
        UserInputError: bad model or data.
    """
    from packflow_core.model.checkpoint import load_model
    from packflow_core.stages.generate import GenerateParams, schedule_of
    from packflow_core.training.evaluate import evaluate
    from packflow_core.training.folder import open_split

    loaded = load_model(model)
    sampler = GenerateParams()
    if steps is not None:
        sampler = sampler.model_copy(update={"steps": steps})
    if not restarts:
        sampler = sampler.model_copy(update={"restarts": ()})
    quality = evaluate(
        loaded.model, open_split(data, split, data), samples=samples,
        schedule=schedule_of(sampler), max_molecules=molecules, seed=seed,
    )  # fmt: skip
    facts = {
        "model": loaded.name, "sha256": loaded.sha256, "split": split,
        "restarts": restarts, **asdict(quality),
    }  # fmt: skip
    if terminal.json:
        terminal.document(facts)
        return
    for key, value in facts.items():
        terminal.write(
            f"{key:>16}  {value:.4g}" if isinstance(value, float) else f"{key:>16}  {value}"
        )
