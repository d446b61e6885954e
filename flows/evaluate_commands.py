"""What `csp evaluate` does: draw, measure, and show the table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flows.commands import short
from flows.console import CommandInterrupted, Terminal, interruptible
from flows.run_commands import parse_setting
from packflow_core import progress
from packflow_core.errors import EXIT_OK, EXIT_TOO_MANY_FAILURES, PackflowError, UserInputError
from packflow_core.evaluation.evaluation import LOG, evaluate
from packflow_core.evaluation.report import metric_table, outcome_table, write_report
from packflow_core.evaluation.settings import SPEC_FIELDS, EvaluationSettings, make_settings
from packflow_core.evaluation.summary import Document
from packflow_core.stages.pools import close_pools
from packflow_core.stages.run_store import RUN_JSON
from packflow_core.store.atomic import make_folder, storage_errors

DEFAULT_OUT = Path("evaluation")

#: Problems that are listed one by one on the terminal; all are in the files.
_SHOWN = 5


class EvaluationInterrupted(CommandInterrupted):
    """The person at the terminal ended the evaluation."""

    def __init__(self) -> None:
        PackflowError.__init__(
            self,
            "Interrupted; everything finished so far is kept. The same command continues the "
            "evaluation.",
        )


def settings_from_options(values: dict[str, Any], fields: Sequence[str]) -> EvaluationSettings:
    """Settings of the command line.

    Args:
        values: by the names of `EvaluationSettings`; None stands for the default.
        fields: texts FIELD=VALUE for the runs.

    Raises:
        UserInputError: one sentence about the first thing that is wrong.
    """
    z = values.get("z")
    if isinstance(z, str):
        try:
            values = {**values, "z": [int(part) for part in z.split(",") if part.strip()]}
        except ValueError as error:
            raise UserInputError(
                f"--z {z} is not a list of whole numbers; write for example --z 2,4."
            ) from error
    spec: dict[str, Any] = {}
    for text in fields:
        field, value = parse_setting(text)
        group, dot, name = field.partition(".")
        if not dot or "." in name or group not in SPEC_FIELDS:
            raise UserInputError(
                f"--set {text} does not say how proposals are drawn or repaired; fields are those "
                f"of {', '.join(SPEC_FIELDS)}, for example generate.steps=50."
            )
        spec.setdefault(group, {})[name] = value
    return make_settings({**values, "spec": spec})


def run(terminal: Terminal, settings: EvaluationSettings, out: Path, workers: int | None) -> int:
    """Evaluate and show the result; returns the exit code.

    Raises:
        UserInputError: an input is wrong, or the folder holds something else.
    """
    if (out / RUN_JSON).exists():
        raise UserInputError(
            f"The folder {out} holds a run; choose another with --out for the evaluation."
        )
    make_folder(out)
    with storage_errors(out):
        terminal.open_log(out / LOG)

    def tell(sentence: str) -> None:
        if not terminal.quiet:
            terminal.say(sentence)

    with terminal.captured():
        try:
            with interruptible(out), progress.use(terminal.progress()):
                evaluation = evaluate(settings, out, workers, tell)
            tell("drawing the figures")
            document = write_report(evaluation, out)
        except CommandInterrupted as error:
            raise EvaluationInterrupted from error
        finally:
            close_pools()
    return _show(terminal, document)


def _show(terminal: Terminal, document: Document) -> int:
    """Print an evaluation; returns the exit code."""
    nothing = all(line["measured"] == 0 for line in document["results"])
    code = EXIT_TOO_MANY_FAILURES if nothing else EXIT_OK
    if terminal.json:
        status = "too_many_failures" if nothing else "finished"
        terminal.document({"status": status, "exit_code": code, **document})
    elif not terminal.quiet:
        _print(terminal, document)
    if nothing:
        terminal.say("csp: Not one proposal could be measured; the tables say why.")
    return code


def _print(terminal: Terminal, document: Document) -> None:
    terminal.write(
        f"{document['molecules']} molecules, {document['targets']} targets, "
        f"{document['known_forms']} known forms"
    )
    _print_table(
        terminal,
        f"means over targets; near: within {document['settings']['near_A']:g} Å",
        *metric_table(document, intervals=False),
    )
    _print_table(terminal, "proposals", *outcome_table(document))
    problems: list[dict[str, Any]] = [*document["refused"], *document["impossible"]]
    for problem in problems[:_SHOWN]:
        name = problem.get("name") or f"{problem['molecule']} ({problem['generator']})"
        terminal.write(f"not evaluated: {name}: {problem['reason']}")
    if len(problems) > _SHOWN:
        terminal.write(f"and {len(problems) - _SHOWN} more, see {document['files']['table']}")
    terminal.write("")
    for name, path in document["files"].items():
        terminal.write(f"{name:<17} {short(Path(path))}")


def _print_table(terminal: Terminal, title: str, titles: list[str], rows: list[list[str]]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", title_style="bold", header_style="bold")
    for name, cells in zip(titles, zip(*rows, strict=True), strict=True):
        numeric = all(cell.replace(".", "", 1).isdigit() or not cell for cell in cells)
        table.add_column(
            name, justify="right" if numeric else "left", overflow="fold",
            no_wrap=name in ("generator", "variant"),
        )  # fmt: skip
    for row in rows:
        table.add_row(*map(Text, row))
    terminal.write("")
    terminal.console().print(table)
