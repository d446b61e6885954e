"""What `csp train` and `csp models measure` do."""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from flows.console import CommandInterrupted, Terminal
from packflow_core.errors import PackflowError, UserInputError

if TYPE_CHECKING:
    from packflow_core.training.job import Job, Outcome
    from packflow_core.training.params import TrainParams


class TrainingInterrupted(CommandInterrupted):
    """A training that was stopped by the person at the terminal, or by the machine's manager."""

    def __init__(self, step: int) -> None:
        PackflowError.__init__(
            self, f"Interrupted at step {step}; it is saved, and the same command continues."
        )


def train(
    terminal: Terminal,
    data: Sequence[str],
    out: Path,
    settings: dict[str, Any],
    *,
    device: str,
    threads: int | None,
    minutes: float | None,
    init: str | None = None,
    ranks: int = 1,
    tensorboard: bool = False,
) -> None:
    """Train, or continue a training, in the folder `out`.

    Args:
        terminal: where to write.
        data: folders, each as FOLDER or FOLDER=WEIGHT.
        out: folder of the training.
        settings: fields of `TrainParams`.
        device: auto, cpu or cuda.
        threads: of the CPU, for each process; None for PyTorch's choice.
        minutes: when to stop; None for never.
        init: model whose weights a new training starts from.
        ranks: processes that train together; under torchrun its number counts.
        tensorboard: log for TensorBoard too.

    Raises:
        UserInputError: bad data, settings, device or folder.
        RunFailedError: a process of the training died.
        TrainingInterrupted: it was stopped; what it had learned is saved.
    """
    from packflow_core.stages.generate import resolve_device
    from packflow_core.training.job import Job
    from packflow_core.training.launch import check_ranks
    from packflow_core.training.logs import require_tensorboard
    from packflow_core.training.mixture import parse_source
    from packflow_core.training.ranks import launched_outside

    outside = launched_outside()
    if outside and ranks > 1:
        raise UserInputError(
            "torchrun starts the ranks of this training already; leave --ranks and --gpus away."
        )
    if outside and outside[0] > 0:
        terminal.quiet, terminal.json = True, False
    if tensorboard:
        require_tensorboard()
    sources = tuple(parse_source(text) for text in data)
    where = resolve_device(device)
    check_ranks(ranks, where)
    params = training_params(settings, init)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserInputError(
            f"{out} cannot be written ({error.strerror}); choose another --out."
        ) from error
    terminal.open_log(out / "train.log")
    job = Job(sources, out, params, where, threads, minutes, init, tensorboard)
    with stoppable() as stopping:
        outcome = _train(terminal, job, ranks, outside, stopping.is_set)
    if outside and outside[0] > 0:
        return
    if stopping.is_set() and outcome.step < params.steps:
        raise TrainingInterrupted(outcome.step)
    facts = {
        "checkpoint": str(job.checkpoint),
        "step": outcome.step,
        "of": params.steps,
        "seconds": outcome.seconds,
    }
    if terminal.json:
        terminal.document(facts)
    else:
        terminal.write(
            f"{facts['checkpoint']}: step {outcome.step} of {params.steps}; "
            f"try it with 'csp run SMILES --generator {facts['checkpoint']}'."
        )


def training_params(settings: dict[str, Any], init: str | None) -> TrainParams:
    """Settings of a training; the shape of a network that starts from a checkpoint is its own.

    Args:
        settings: fields of `TrainParams` that are given.
        init: model whose weights a new training starts from.

    Raises:
        UserInputError: one sentence about the first setting that is wrong.
    """
    from pydantic import ValidationError

    from packflow_core.training.params import TrainParams
    from packflow_core.training.start import load_start

    if init and not settings.get("preset"):
        start = load_start(init)
        shape = {k: v for k, v in start.config.items() if k in TrainParams.model_fields}
        settings = {"architecture": start.architecture} | shape | settings
    try:
        return TrainParams.model_validate(settings)
    except ValidationError as error:
        first = error.errors()[0]
        message = first["msg"].removeprefix("Value error, ")
        if not first["loc"]:
            raise UserInputError(f"The training settings do not fit: {message}.") from error
        field = ".".join(str(part) for part in first["loc"])
        raise UserInputError(
            f"The training setting {field}={first['input']!r} is wrong: {message}."
        ) from error


def _train(
    terminal: Terminal,
    job: Job,
    size: int,
    outside: tuple[int, int, int] | None,
    stop: Callable[[], bool],
) -> Outcome:
    """Run a training with a bar: here, in processes of its own, or as a rank of torchrun's."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    from packflow_core.training.job import run_job
    from packflow_core.training.launch import launch
    from packflow_core.training.ranks import join, leave

    columns = (
        TextColumn("training"), BarColumn(), MofNCompleteColumn(),
        TextColumn("{task.fields[loss]}"), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(
        *columns, console=terminal.console(terminal.err), disable=terminal.quiet
    ) as progress:
        # Not to be seen before there is a training: a refusal stands alone.
        bar = progress.add_task("", total=job.params.steps, loss="", visible=False)

        def on_step(step: int, loss: float) -> None:
            shown = "" if math.isnan(loss) else f"loss {loss:.4f}"
            progress.update(bar, completed=step, loss=shown, visible=True)

        if size > 1:
            return launch(job, size, on_step, stop, terminal.log)
        if outside is None:
            return run_job(job, on_step=on_step, stop=stop)
        rank, world, local = outside
        ranks = join(rank, world, job.device, "env://", local)
        try:
            return run_job(job, ranks, on_step, stop)
        finally:
            leave(ranks)


@contextmanager
def stoppable() -> Iterator[threading.Event]:
    """Ctrl-C and SIGTERM ask a training to save and stop; a second Ctrl-C ends it at once."""
    asked = threading.Event()

    def ask(number: int, _frame: FrameType | None) -> None:
        if asked.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.set()

    previous = {s: signal.signal(s, ask) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


#: Times from which `csp models measure` draws again, when it does.
RESTARTS = (0.7, 0.6, 0.5, 0.4, 0.3, 0.2)


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
    # The network by itself: symmetry and press would hide what it has learned. The fine schedule
    # keeps the numbers of different versions comparable.
    sampler = GenerateParams(
        symmetry=False, steps=30, solver="euler", power=1.5, restart_steps=10,
        restarts=RESTARTS if restarts else (),
    )  # fmt: skip
    if steps is not None:
        sampler = sampler.model_copy(update={"steps": steps})
    quality = evaluate(
        loaded.model, open_split(data, split, data), samples=samples,
        schedule=schedule_of(sampler, loaded.preset), max_molecules=molecules, seed=seed,
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
