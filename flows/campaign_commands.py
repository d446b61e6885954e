"""What `csp campaign` does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from flows.campaign_runs import CampaignEndedError, CampaignRun, Search, open_campaign
from flows.commands import short
from flows.console import CommandInterrupted, Terminal, interruptible
from flows.how import How
from packflow_core import progress
from packflow_core.campaign import find_campaign, read_campaign
from packflow_core.engines import trust
from packflow_core.errors import EXIT_OK, PackflowError, UserInputError
from packflow_core.spec import describe_validation_error, parse_refinement
from packflow_core.stages.pools import close_pools
from packflow_core.stages.run_store import LOG
from packflow_core.store.atomic import make_folder, storage_errors


class CampaignInterrupted(CommandInterrupted):
    """The person at the terminal ended the campaign."""

    def __init__(self) -> None:
        PackflowError.__init__(
            self,
            "Interrupted; everything finished so far is kept. The same command continues the "
            "campaign.",
        )


def list_targets(terminal: Terminal, file: str, names: Sequence[str]) -> int:
    """Show the targets of a campaign; returns the exit code."""
    targets = read_campaign(find_campaign(file)).select(names)
    if terminal.json:
        terminal.document({"targets": [t.model_dump(mode="json") for t in targets]})
        return EXIT_OK
    from rich.table import Table

    table = Table(header_style="bold")
    for title in ("target", "", "tier", "formula", "Z", "known forms"):
        table.add_column(title)
    for target in targets:
        forms = ", ".join(f"{f.refcode} {f.space_group or ''}".strip() for f in target.known)
        z = ",".join(map(str, target.z))
        row = (target.name, target.label, target.tier or "", target.formula, z, forms)
        table.add_row(*row)
    terminal.console().print(table)
    return EXIT_OK


def run(
    terminal: Terminal,
    file: str,
    names: Sequence[str],
    values: Mapping[str, Any],
    out: Path | None,
    how: How,
) -> int:
    """Run a campaign; returns the exit code. Every check comes before Prefect starts."""
    search = _search(values)
    for engine in [search.engine, *(step.engine for step in search.refine or [])]:
        if engine is not None:
            trust.allow(engine)  # typed on the command line, not read from a file
    runs = open_campaign(file, list(names), search, out)
    from flows import local_api

    make_folder(runs.folder)
    local_api.prepare()
    with storage_errors(runs.folder):
        terminal.open_log(runs.folder / LOG)
    with terminal.captured():
        try:
            with interruptible(runs.folder), progress.use(terminal.progress()):
                document, error = _in_prefect(terminal, runs, file, list(names), search, how)
        except CommandInterrupted as interruption:
            raise CampaignInterrupted from interruption
        finally:
            close_pools()
    return _show(terminal, document, error)


def _search(values: Mapping[str, Any]) -> Search:
    given = {name: value for name, value in values.items() if value is not None}
    if "refine" in given:
        given["refine"] = [parse_refinement(text) for text in given["refine"]]
    try:
        return Search.model_validate(given)
    except ValidationError as error:
        raise UserInputError(describe_validation_error(error)) from error


def _in_prefect(
    terminal: Terminal, runs: CampaignRun, file: str, names: list[str], search: Search, how: How
) -> tuple[dict[str, Any], PackflowError | None]:
    """Start Prefect's API while the flow is imported, then run the flow.

    Returns:
        The tables, and what is wrong with the campaign if anything is.
    """
    from flows import local_api

    assert terminal.handler is not None
    with local_api.starting(terminal.handler):
        from flows.campaign import campaign, read_state
    try:
        with local_api.shared():
            document: Any = campaign(
                str(find_campaign(file)), names, search, str(runs.folder), workers=how.workers,
                device=how.device, timeout_s=how.timeout_s, retry_failed=how.retry_failed,
            )  # fmt: skip
        return document, None
    except CampaignEndedError as error:
        # The flow run ends as failed, which is right; the table is there all the same.
        return read_state(runs.folder), error


def _show(terminal: Terminal, document: dict[str, Any], error: PackflowError | None) -> int:
    code = error.exit_code if error else EXIT_OK
    if terminal.json:
        told = {"error": str(error)} if error else {}
        terminal.document({"exit_code": code, **told, **document})
    elif not terminal.quiet:
        from rich.table import Table

        table = Table(header_style="bold")
        for title in ("target", "", "status", "ranked", "distinct", "lowest", "g/cm3", "cells"):
            table.add_column(title)
        for row in document["targets"]:
            density = row["best_density_g_cm3"]
            cells = (
                "" if row["n_cells_found"] is None else f"{row['n_cells_found']}/{row['n_known']}"
            )
            shown = (
                row["target"], row["label"], row["status"].replace("_", " "),
                "" if row["n_ranked"] is None else str(row["n_ranked"]),
                "" if row["n_distinct"] is None else str(row["n_distinct"]),
                row["best_space_group"] or "", f"{density:.3f}" if density else "", cells,
            )  # fmt: skip
            table.add_row(*shown)
        terminal.console().print(table)
        for name, path in document["files"].items():
            terminal.write(f"{name:<10} {short(Path(path))}")
    if error:
        terminal.say(f"csp: {error}")
    return code
