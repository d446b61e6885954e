"""What the subcommands of `csp` do that look at a run or at the installation.

Imported once an option parser has seen its input; `flows.run_commands` has those that work.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flows.console import Terminal
from packflow_core.errors import EXIT_OK, EXIT_RUN_FAILED, UserInputError
from packflow_core.stages.finish import (
    read_ranked,
    summarise,
    trust_sentences,
    write_results,
)
from packflow_core.stages.pipeline import verdict
from packflow_core.stages.pools import close_pools
from packflow_core.stages.run_store import RunStore
from packflow_core.store.lock import RunLock
from packflow_core.store.schema import Status


# -- looking at a run -------------------------------------------------------------------------
def status(terminal: Terminal, folder: Path) -> None:
    """Show the ledger."""
    run = RunStore(folder)
    ledger = run.ledger()
    if terminal.json:
        spec = run.plan.spec
        terminal.document(
            {
                "status": run.status,
                "target": spec.name,
                "smiles": spec.smiles,
                "n": spec.n,
                "folder": str(folder.resolve()),
                "stages": [stage.as_dict() for stage in ledger],
            }
        )
        return
    from rich.table import Table

    from packflow_core.progress import duration

    spec = run.plan.spec
    terminal.write(f"{spec.name}  {spec.smiles}  n = {spec.n}  {run.status}")
    table = Table(header_style="bold")
    for title in ("stage", "to do", "ok", "unconverged", "rejected", "failed", "s each", "work"):
        table.add_column(title, justify="left" if title == "stage" else "right")
    for stage in ledger:
        each = "" if stage.attempted == 0 else f"{stage.median_wall_s:.2f}"
        table.add_row(
            stage.stage, str(stage.pending), str(stage.ok), str(stage.unconverged),
            str(stage.rejected), str(stage.failed), each, duration(stage.wall_s),
        )  # fmt: skip
    terminal.console().print(table)
    state = run.status
    if state == "finished" and (error := verdict(run)):
        terminal.write(str(error))
    if state in ("interrupted", "failed") or (
        state != "running" and any(stage.pending for stage in ledger)
    ):
        terminal.write(f"Continue with: csp resume {folder}")


def failures(
    terminal: Terminal, folder: Path, stage: str | None, reason: str | None, every: bool
) -> None:
    """Show what did not end `ok`, grouped or one by one."""
    run = RunStore(folder)
    stages = run.stage_selection(stage)
    columns = ("index", "candidate_id", "status", "reason", "detail", "attempt")
    rows: list[dict[str, Any]] = []
    for name in stages:
        for row in run.stage(name).table(columns).to_pylist():
            if row["status"] != Status.OK and reason in (None, row["reason"]):
                rows.append({"stage": name, **row})
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["stage"], row["status"], row["reason"]), []).append(row)
    largest = sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))
    if terminal.json:
        found = [
            {
                "stage": s, "status": st, "reason": r, "count": len(members),
                "candidates": [m["candidate_id"] for m in members],
                "example": members[0]["detail"],
            }
            for (s, st, r), members in largest
        ]  # fmt: skip
        terminal.document({"folder": str(folder.resolve()), "groups": found})
        return
    if not rows:
        terminal.write("Every attempted candidate ended ok.")
        return
    from rich.table import Table
    from rich.text import Text

    table = Table(header_style="bold")
    titles = ("stage", "status", "reason", "candidate" if every else "count", "detail")
    for title in titles:
        table.add_column(title, justify="right" if title == "count" else "left")
    if every:
        for row in rows:
            cells = (row["stage"], row["status"], row["reason"], row["candidate_id"], row["detail"])
            table.add_row(*(Text(str(cell or "")) for cell in cells))
    else:
        for (s, st, r), members in largest:
            example = f"{members[0]['candidate_id']}: {members[0]['detail'] or ''}"
            table.add_row(*(Text(str(cell)) for cell in (s, st, r, len(members), example)))
    terminal.console().print(table)


def requeue(terminal: Terminal, folder: Path, reason: str, stage: str | None) -> None:
    """Mark the failures of one reason for another attempt."""
    from packflow_core.stages.requeue import requeue as queue_again

    queued = queue_again(RunStore(folder), reason, stage)
    if terminal.json:
        terminal.document(
            {
                "folder": str(folder.resolve()),
                "reason": queued.reason,
                "count": queued.count,
                "stages": queued.stages,
            }
        )
        return
    where = ", ".join(f"{len(indices)} in {name}" for name, indices in queued.stages.items())
    terminal.write(
        f"{queued.count} candidate{'s' if queued.count != 1 else ''} with the reason {reason} "
        f"({where}) wait{'s' if queued.count == 1 else ''} for another attempt; "
        f"'csp resume {folder}' makes it."
    )


def show_ranking(
    terminal: Terminal, folder: Path, reference: Path | None, settings: Sequence[str], top: int
) -> int:
    """Show the ranked table as it stands."""
    if reference is not None or settings:
        raise UserInputError("--reference and --set change the ranking; add --rerank.")
    run = RunStore(folder)
    if terminal.json:
        terminal.document(summarise(run, read_ranked(folder)).as_dict())
    else:
        print_table(terminal, run, top)
    return EXIT_OK


def report(terminal: Terminal, folder: Path) -> None:
    """Rank what is analysed and write the result files again."""
    run = RunStore(folder)
    with RunLock(folder):
        try:
            summary = write_results(folder, 1, compute=False)
        finally:
            close_pools()
    if terminal.json:
        terminal.document({"status": run.status, **summary.as_dict()})
    else:
        for name, path in summary.files.items():
            terminal.write(f"{name:<10} {short(Path(path))}")


def doctor(terminal: Terminal) -> int:
    """Run the checks; returns the exit code."""
    from packflow_core.doctor import check_all

    checks = check_all()
    failed = any(check.verdict == "fail" for check in checks)
    if terminal.json:
        terminal.document({"ok": not failed, "checks": [check.as_dict() for check in checks]})
        return EXIT_RUN_FAILED if failed else EXIT_OK
    from rich.table import Table
    from rich.text import Text

    table = Table(header_style="bold")
    for title in ("", "check", "what was found"):
        table.add_column(title)
    colours = {"ok": "green", "warn": "yellow", "fail": "bold red"}
    for check in checks:
        table.add_row(Text(check.verdict, colours[check.verdict]), check.name, Text(check.detail))
    terminal.console().print(table)
    return EXIT_RUN_FAILED if failed else EXIT_OK


# -- parts ----------------------------------------------------------------------------------
def print_table(terminal: Terminal, run: RunStore, top: int) -> None:
    """Print the best of the ranked table."""
    from packflow_core.analysis.export import ranked_table

    spec = run.plan.spec
    title = f"{spec.name}, {run.plan.engine}"
    rows = read_ranked(run.folder)
    terminal.console().print(ranked_table(rows, top=top, title=title))
    if any(row.get("rank") is not None for row in rows):
        for sentence in trust_sentences(run, rows):
            terminal.write(textwrap.fill(sentence, 100))


def short(path: Path) -> str:
    """A path relative to the working folder where that is shorter."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
