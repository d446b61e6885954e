"""What the subcommands of `csp` do; imported once an option parser has seen its input."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from flows.console import Terminal, interruptible
from packflow_core import progress
from packflow_core.errors import EXIT_OK, EXIT_RUN_FAILED, EXIT_TOO_MANY_FAILURES, UserInputError
from packflow_core.spec import RunSpec, make_spec, read_target
from packflow_core.stages.chunk import close_pools, default_workers
from packflow_core.stages.finish import Summary, read_ranked, summarise, write_results
from packflow_core.stages.pipeline import verdict
from packflow_core.stages.run_store import LOG, REFERENCE, RunStore, check_same_run, plan_for
from packflow_core.store.atomic import make_folder, storage_errors
from packflow_core.store.lock import RunLock
from packflow_core.store.schema import STAGES, Status


# -- run and resume ---------------------------------------------------------------------------
def spec_from_options(target: str, given: dict[str, object], settings: Sequence[str]) -> RunSpec:
    """Spec of the command line: a target file or SMILES, and what the options say.

    Raises:
        UserInputError: one sentence about the first thing that is wrong.
    """
    path = Path(target)
    is_file = target.endswith((".yaml", ".yml")) or path.is_file()
    values = read_target(path) if is_file else {"smiles": target}
    for field, value in given.items():
        _put(values, field, _z_values(str(value)) if field == "z" else value)
    for setting in settings:
        _put(values, *parse_setting(setting))
    return make_spec(values, target if is_file else "")


def run(
    terminal: Terminal,
    spec: RunSpec,
    out: Path | None,
    workers: int | None,
    timeout_s: float | None,
    retry_failed: bool,
) -> int:
    """Run a spec in its folder; returns the exit code."""
    folder = out if out is not None else spec.default_folder()
    return _flow(terminal, spec, folder, workers, timeout_s=timeout_s, retry_failed=retry_failed)


def resume(
    terminal: Terminal,
    folder: Path,
    workers: int | None,
    timeout_s: float | None,
    retry_failed: bool,
) -> int:
    """Continue the run in a folder; returns the exit code."""
    spec = _recorded_spec(RunStore(folder))
    return _flow(terminal, spec, folder, workers, timeout_s=timeout_s, retry_failed=retry_failed)


def rerank(
    terminal: Terminal,
    folder: Path,
    reference: Path | None,
    settings: Sequence[str],
    workers: int | None,
) -> int:
    """Rank the relaxed candidates of a folder anew; returns the exit code."""
    values = _recorded_spec(RunStore(folder)).model_dump(mode="json")
    if reference is not None:
        values["reference"] = str(reference)
    for setting in settings:
        field, value = parse_setting(setting)
        if not field.startswith("rank."):
            raise UserInputError(
                f"--set {setting} does not belong to the ranking; only fields of rank can change, "
                "for example rank.duplicate_rmsd_A=0.3."
            )
        _put(values, field, value)
    return _flow(terminal, make_spec(values), folder, workers, rerank=True)


def _flow(
    terminal: Terminal,
    spec: RunSpec,
    folder: Path,
    workers: int | None,
    timeout_s: float | None = None,
    retry_failed: bool = False,
    rerank: bool = False,
) -> int:
    """Run the Prefect flow on a folder. Every check of the input comes before Prefect starts."""
    from flows import local_api

    plan = plan_for(spec, folder, rerank)
    make_folder(folder)
    with RunLock(folder):
        check_same_run(folder, plan, rerank)
    local_api.prepare()
    count = workers or default_workers()
    with storage_errors(folder):
        terminal.open_log(folder / LOG)
    with terminal.captured():
        try:
            with interruptible(folder), progress.use(terminal.progress()):
                summary = _in_prefect(
                    terminal, plan.spec, folder, count, timeout_s, retry_failed, rerank
                )
        finally:
            close_pools()
    return _show_result(terminal, RunStore(folder), summary)


def _in_prefect(
    terminal: Terminal,
    spec: RunSpec,
    folder: Path,
    workers: int,
    timeout_s: float | None,
    retry_failed: bool,
    rerank: bool,
) -> Summary:
    """Start Prefect's API while the flow is imported, then run the flow."""
    from flows import local_api

    assert terminal.handler is not None
    local_api.redirect_logging(terminal.handler)
    failure: list[BaseException] = []

    def start() -> None:
        try:
            local_api.start_server()
        except BaseException as error:
            failure.append(error)

    starting = threading.Thread(target=start)
    starting.start()
    from flows.csp import csp

    starting.join()
    if failure:
        raise failure[0]
    return csp(
        spec,
        out=str(folder),
        workers=workers,
        retry_failed=retry_failed,
        timeout_s=timeout_s,
        rerank=rerank,
    )


def _show_result(terminal: Terminal, run: RunStore, summary: Summary) -> int:
    error = verdict(run)
    code = error.exit_code if error else EXIT_OK
    if terminal.json:
        status = {EXIT_OK: "finished", EXIT_TOO_MANY_FAILURES: "too_many_failures"}
        document = {"status": status.get(code, "failed"), "exit_code": code, **summary.as_dict()}
        if error:
            document["error"] = str(error)
        terminal.document(document)
    elif not terminal.quiet:
        if summary.n_ranked:
            _print_table(terminal, run, 10)
        terminal.write("")
        for name, path in summary.files.items():
            terminal.write(f"{name:<10} {_short(Path(path))}")
    if error:
        terminal.say(f"csp: {error}")
    return code


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
    if run.status in ("interrupted", "failed"):
        terminal.write(f"Continue with: csp resume {folder}")


def failures(
    terminal: Terminal, folder: Path, stage: str | None, reason: str | None, every: bool
) -> None:
    """Show what did not end `ok`, grouped or one by one."""
    run = RunStore(folder)
    if stage is not None and stage not in STAGES:
        raise UserInputError(f"--stage {stage} is not a stage; stages are {', '.join(STAGES)}.")
    columns = ("index", "candidate_id", "status", "reason", "detail", "attempt")
    rows: list[dict[str, Any]] = []
    for name in [stage] if stage else STAGES:
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
        _print_table(terminal, run, top)
    return EXIT_OK


def report(terminal: Terminal, folder: Path) -> None:
    """Rank what is analysed and write the result files again."""
    run = RunStore(folder)
    with RunLock(folder):
        try:
            summary = write_results(folder, 1)
        finally:
            close_pools()
    if terminal.json:
        terminal.document({"status": run.status, **summary.as_dict()})
    else:
        for name, path in summary.files.items():
            terminal.write(f"{name:<10} {_short(Path(path))}")


def export(terminal: Terminal, folder: Path, top: int, to: Path | None, duplicates: bool) -> None:
    """Write the best structures and their table into a folder of their own."""
    from packflow_core.analysis.export import write_ranked_csv, write_structures

    run = RunStore(folder)
    rows = [row for row in read_ranked(folder) if row.get("rank") is not None]
    if not rows:
        raise UserInputError(
            f"{folder} holds no ranked structures yet (the run is {run.status}); finish it with "
            f"'csp resume {folder}'."
        )
    chosen = rows if duplicates else [row for row in rows if row.get("representative")]
    target = to if to is not None else folder / "export"
    make_folder(target)
    with storage_errors(target):
        paths = write_structures(chosen, target, top=top, representatives_only=False)
        write_ranked_csv(chosen[:top], target / "ranked.csv")
    if terminal.json:
        terminal.document({"folder": str(target.resolve()), "files": [str(p) for p in paths]})
    else:
        terminal.write(f"{len(paths)} structures and ranked.csv are in {target}")


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


# -- parts ------------------------------------------------------------------------------------
def _recorded_spec(run: RunStore) -> RunSpec:
    """Spec of a folder; its reference is the run's own copy, which nobody moves away."""
    spec = run.plan.spec
    if spec.reference is None:
        return spec
    return spec.model_copy(update={"reference": str((run.folder / REFERENCE).resolve())})


def _print_table(terminal: Terminal, run: RunStore, top: int) -> None:
    from packflow_core.analysis.export import ranked_table

    spec = run.plan.spec
    title = f"{spec.name}, {run.plan.stages['relax'].identity}"
    terminal.console().print(ranked_table(read_ranked(run.folder), top=top, title=title))


def _put(values: dict[str, Any], field: str, value: object) -> None:
    """Set a dotted field in nested dictionaries."""
    *parents, last = field.split(".")
    for parent in parents:
        inner = values.setdefault(parent, {})
        if not isinstance(inner, dict):
            raise UserInputError(f"{field} cannot be set: {parent} is not a group of fields.")
        values = inner
    values[last] = value


def parse_setting(text: str) -> tuple[str, object]:
    """Field and value of a `FIELD=VALUE` text, the value read as YAML.

    Raises:
        UserInputError: not of that form.
    """
    field, equals, value = text.partition("=")
    if not equals or not field.strip():
        raise UserInputError(f"--set {text} is not of the form FIELD=VALUE.")
    try:
        return field.strip(), yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise UserInputError(f"--set {text} has a value that cannot be read.") from error


def _z_values(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise UserInputError(
            f"--z {text} is not a list of whole numbers; write for example --z 2,4."
        ) from error


def _short(path: Path) -> str:
    """A path relative to the working folder where that is shorter."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
