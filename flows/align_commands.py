"""What `csp align` does."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from flows.console import Terminal
from flows.train_commands import TrainingInterrupted, stoppable
from packflow_core.errors import UserInputError
from packflow_core.store.atomic import make_folder

if TYPE_CHECKING:
    from packflow_core.align.job import AlignJob
    from packflow_core.align.params import AlignParams


def align_params(settings: dict[str, Any]) -> AlignParams:
    """Settings of an alignment.

    Args:
        settings: fields of `AlignParams` that are given.

    Raises:
        UserInputError: one sentence about the first setting that is wrong.
    """
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


def align(terminal: Terminal, job: AlignJob, threads: int | None) -> None:
    """Align a generator, or continue an alignment; its engine is trusted from here on.

    Args:
        terminal: where to write.
        job: the alignment.
        threads: of the CPU, of the network; None for PyTorch's choice.

    Raises:
        UserInputError: bad molecules, engine, device or folder.
        TrainingInterrupted: it was stopped; what it had learned is saved.
    """
    import torch

    from packflow_core.engines import trust

    trust.allow(job.params.engine)
    if threads:
        torch.set_num_threads(threads)
    make_folder(job.out)
    terminal.open_log(job.out / "align.log")
    with stoppable() as stopping:
        facts = _with_bar(terminal, job, stopping.is_set)
        stopped = stopping.is_set()
    if stopped and facts["step"] < facts["of"] and not facts["ended"]:
        raise TrainingInterrupted(facts["step"])
    if terminal.json:
        terminal.document(facts)
        return
    early = f", ended early: {facts['ended']}" if facts["ended"] else ""
    terminal.write(
        f"{facts['checkpoint']}: step {facts['step']} of {facts['of']}{early}; compare it with "
        f"'csp evaluate --generator {job.generator} --generator {facts['checkpoint']}'."
    )


def _with_bar(terminal: Terminal, job: AlignJob, stop: Callable[[], bool]) -> dict[str, Any]:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    from packflow_core.align.job import run_alignment

    columns = (
        TextColumn("alignment"), BarColumn(), MofNCompleteColumn(),
        TextColumn("{task.fields[shown]}"), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(
        *columns, console=terminal.console(terminal.err), disable=terminal.quiet
    ) as progress:
        # Not to be seen before there is an alignment: a refusal stands alone.
        bar = progress.add_task("", total=job.params.steps, shown="", visible=False)

        def on_step(step: int, row: dict[str, float]) -> None:
            shown = f"sound {row['sound']:.0%}, divergence {row.get('divergence', 0.0):.2g}"
            progress.update(bar, completed=step, shown=shown, visible=True)

        return run_alignment(job, on_step, stop)
