"""What `csp synthesise` does."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from flows.console import Terminal
from packflow_core.errors import UserInputError


def synthesise(
    terminal: Terminal,
    data: Path,
    out: Path,
    settings: dict[str, Any],
    *,
    workers: int,
    minutes: float | None,
) -> None:
    """Make synthetic training crystals, or go on making them, in the folder `out`.

    Args:
        terminal: where to write.
        data: folder with the training molecules, and those kept apart.
        out: folder of the result.
        settings: fields of `SyntheticParams`.
        workers: processes.
        minutes: when to begin no more; None for never.

    Raises:
        UserInputError: bad data, settings or folder.
    """
    from pydantic import ValidationError
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    from packflow_core.training.synthetic import SET_FILE, SyntheticParams
    from packflow_core.training.synthetic import synthesise as make
    from packflow_core.training.synthetic_sources import open_molecules

    try:
        params = SyntheticParams.model_validate(settings)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise UserInputError(
            f"The setting {field}={first['input']!r} is wrong: {first['msg']}."
        ) from error
    if out.resolve() == data.resolve():
        raise UserInputError(
            f"{out} holds the real crystals, and its train.npz would be lost; choose another --out."
        )
    sources = open_molecules(data)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserInputError(
            f"{out} cannot be written ({error.strerror}); choose another --out."
        ) from error
    terminal.open_log(out / "synthesise.log")
    columns = (
        TextColumn("synthesis"), BarColumn(), MofNCompleteColumn(), TextColumn("blocks"),
        TimeRemainingColumn(),
    )  # fmt: skip
    with Bars(*columns, console=terminal.console(terminal.err), disable=terminal.quiet) as bars:
        bar = bars.add_task("", total=None)
        done = make(
            sources.training, out, params,
            avoid=sources.avoid, workers=workers,
            time_limit=math.inf if minutes is None else 60.0 * minutes,
            on_block=lambda blocks, of: bars.update(bar, completed=blocks, total=of),
        )  # fmt: skip
    path = str(out / SET_FILE) if done.made else None
    if terminal.json:
        terminal.document({"data": path, **asdict(done), "complete": done.complete})
        return
    if path:
        why = ", ".join(f"{reason}: {count}" for reason, count in done.failed.items())
        terminal.write(
            f"{path}: {done.made} crystals of {done.molecules} molecules, "
            f"{done.attempted} attempted{f' ({why})' if why else ''}."
        )
    if not done.complete:
        terminal.write(f"{done.blocks} of {done.of} blocks are there; the same command continues.")
