"""What `csp compare` does: look at finished runs, or race generators and look at those."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from flows.commands import short
from flows.compare_legs import check_legs, default_folder, race_legs
from flows.console import CommandInterrupted, Terminal, interruptible
from flows.how import How
from packflow_core import progress
from packflow_core.errors import (
    EXIT_OK,
    EXIT_TOO_MANY_FAILURES,
    PackflowError,
    TooManyFailuresError,
    UserInputError,
)
from packflow_core.race import tables
from packflow_core.race.comparison import LOG, compare_runs
from packflow_core.race.report import JSON, write_comparison
from packflow_core.race.settings import CompareSettings
from packflow_core.race.tables import Document
from packflow_core.spec import RunSpec
from packflow_core.stages.pipeline import NothingRankedError
from packflow_core.stages.pools import close_pools
from packflow_core.stages.run_store import RUN_JSON
from packflow_core.store.atomic import make_folder, storage_errors

DEFAULT_OUT = Path("comparison")


class RaceInterrupted(CommandInterrupted):
    """The person at the terminal ended the race."""

    def __init__(self) -> None:
        PackflowError.__init__(
            self,
            "Interrupted; everything finished so far is kept. The same command continues the race.",
        )


def settings_from_options(values: dict[str, Any]) -> CompareSettings:
    """Settings of the comparison; None stands for the default.

    Raises:
        UserInputError: one sentence about the first value that is not allowed.
    """
    try:
        return CompareSettings.model_validate(
            {name: value for name, value in values.items() if value is not None}
        )
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        option = {"compute_s": "compute", "window_kJ_mol": "window"}
        field = ".".join(str(part) for part in fault["loc"])
        reason = str(fault["msg"]).removeprefix("Value error, ")
        where = f"--{option.get(field, field)} {fault['input']}" if field else "The budget"
        reason = reason.replace("compute_s", "--compute").replace("give n or", "give --n or")
        raise UserInputError(f"{where} is not allowed: {reason}.") from error


def folders_of(targets: Sequence[str], options: dict[str, Any]) -> list[Path]:
    """Run folders of the command line.

    Args:
        targets: the arguments.
        options: options of a race and their values, None where not given.

    Raises:
        UserInputError: they are no folders, or an option of a race was given.
    """
    folders = [Path(target) for target in targets]
    if not any(folder.is_dir() for folder in folders):
        raise UserInputError(
            f"'{targets[0]}' is no folder; give run folders, or name the generators that shall "
            "race, for example --generators packflow-open,random+press."
        )
    given = [option for option, value in options.items() if value is not None]
    if given:
        raise UserInputError(
            f"{given[0]} belongs to a race of generators and cannot change finished runs; leave "
            "it out."
        )
    return folders


def check_race_options(
    targets: Sequence[str],
    compute: float | None,
    n: int | None,
    seconds: float | None,
    pilot: int | None,
) -> None:
    """Refuse options that do not go together in a race.

    Raises:
        UserInputError: one sentence about the first of them.
    """
    if len(targets) > 1:
        raise UserInputError(
            f"--generators takes one molecule, not {len(targets)} arguments; give a SMILES or a "
            "target file."
        )
    if compute is not None:
        raise UserInputError("--compute is for finished runs; a race takes --seconds.")
    if n is not None and seconds is not None:
        raise UserInputError("A race has one budget; give --n or --seconds, not both.")
    if pilot is not None and seconds is None:
        raise UserInputError("--pilot is the first step towards --seconds; give both.")


def compare_folders(
    terminal: Terminal, folders: Sequence[Path], settings: CompareSettings, out: Path | None
) -> int:
    """Compare run folders; returns the exit code."""
    out = DEFAULT_OUT if out is None else out
    if (out / RUN_JSON).exists():
        raise UserInputError(
            f"The folder {out} holds a run; choose another with --out for the comparison."
        )

    def tell(text: str) -> None:
        if not terminal.quiet:
            terminal.say(text)

    try:
        race = compare_runs(folders, settings, out, tell)
        tell("drawing")
        document = write_comparison(race, out)
    finally:
        close_pools()
    return _show(terminal, document, None)


def race_generators(
    terminal: Terminal,
    spec: RunSpec,
    generators: Sequence[str],
    *,
    seconds: float | None,
    pilot: int | None,
    out: Path | None,
    settings: CompareSettings,
    how: How,
) -> int:
    """Race generators on a target; returns the exit code.

    Every check of the input comes before Prefect starts.
    """
    from flows import local_api

    out = default_folder(spec) if out is None else out
    legs = race_legs(spec, generators, out)
    check_legs(legs, seconds, how)
    make_folder(out)
    local_api.prepare()
    with storage_errors(out):
        terminal.open_log(out / LOG)
    parameters = {
        "spec": spec, "generators": list(generators), "seconds": seconds, "pilot": pilot,
        "out": str(out), "settings": settings, **asdict(how),
    }  # fmt: skip
    del parameters["rerank"]
    with terminal.captured():
        try:
            with interruptible(out), progress.use(terminal.progress()):
                document, problem = _in_prefect(terminal, out, parameters)
        except CommandInterrupted as error:
            raise RaceInterrupted from error
        finally:
            close_pools()
    return _show(terminal, document, problem)


def _in_prefect(
    terminal: Terminal, out: Path, parameters: dict[str, Any]
) -> tuple[Document, PackflowError | None]:
    """Start Prefect's API while the flow is imported, then run the flow."""
    from flows import local_api

    assert terminal.handler is not None
    with local_api.starting(terminal.handler):
        from flows.compare import compare
    try:
        with local_api.shared():
            document: Document = compare(**parameters)
        return document, None
    except (TooManyFailuresError, NothingRankedError) as error:
        # The flow run ends as failed, which is right; the comparison is written all the same.
        return json.loads((out / JSON).read_text(encoding="utf-8")), error


def _show(terminal: Terminal, document: Document, problem: PackflowError | None) -> int:
    """Print a comparison; returns the exit code."""
    code = EXIT_OK if problem is None else problem.exit_code
    if terminal.json:
        status = {EXIT_OK: "finished", EXIT_TOO_MANY_FAILURES: "too_many_failures"}
        found = {"status": status.get(code, "failed"), "exit_code": code, **document}
        terminal.document(found if problem is None else {**found, "error": str(problem)})
    elif not terminal.quiet:
        _print_tables(terminal, document)
    if problem is not None:
        terminal.say(f"csp: {problem}")
    return code


def _print_tables(terminal: Terminal, document: Document) -> None:
    from rich.table import Table
    from rich.text import Text

    numbers = tables.Numbers(document)
    terminal.write(f"{document['target']}, {document['engine']}")
    terminal.write(document["budget"]["description"])
    parts = {
        "candidates": tables.outcome_table(numbers),
        "energies, kJ/mol per molecule": tables.energy_table(numbers),
        "densities, g/cm3": tables.density_table(numbers),
        "found": tables.found_table(numbers),
        f"basins within {numbers.window}": tables.basin_table(numbers),
        "basins that two legs share": tables.overlap_table(numbers),
    }
    for title, (titles, rows) in parts.items():
        table = Table(title=title, title_justify="left", title_style="bold", header_style="bold")
        for name, cells in zip(titles, zip(*rows, strict=True), strict=True):
            table.add_column(
                name, justify="right" if tables.numeric(cells) else "left", overflow="fold"
            )
        for row in rows:
            table.add_row(*map(Text, row))
        terminal.write("")
        terminal.console().print(table)
    for remark in document["remarks"]:
        terminal.write(f"\n{remark}")
    terminal.write("")
    for name, path in document["files"].items():
        terminal.write(f"{name:<10} {short(Path(path))}")
