"""What the subcommands of `csp` do that work on a run: run, resume, rank --rerank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from flows.commands import print_table, short
from flows.console import Terminal, interruptible
from flows.how import How
from flows.object_folder import at_hand
from packflow_core import progress
from packflow_core.engines import trust
from packflow_core.errors import (
    EXIT_OK,
    EXIT_TOO_MANY_FAILURES,
    TooManyFailuresError,
    UserInputError,
)
from packflow_core.spec import RunSpec, make_spec, read_target, refinements_by_stage
from packflow_core.stages.finish import Summary, read_ranked, summarise
from packflow_core.stages.generation import check_ranks
from packflow_core.stages.pipeline import NothingRankedError, verdict
from packflow_core.stages.plan import check_device
from packflow_core.stages.pools import close_pools
from packflow_core.stages.run_store import LOG, RunStore, check_same_run, plan_for
from packflow_core.store.atomic import make_folder, storage_errors
from packflow_core.store.lock import RunLock


def spec_from_options(target: str, given: dict[str, object], settings: Sequence[str]) -> RunSpec:
    """Spec of the command line: a target file or SMILES, and what the options say.

    An engine that is named on the command line, not in a file, is trusted from here on.

    Raises:
        UserInputError: one sentence about the first thing that is wrong.
    """
    path = Path(target)
    is_file = target.endswith((".yaml", ".yml")) or path.is_file()
    values = read_target(path) if is_file else {"smiles": target}
    typed: dict[str, Any] = {}
    for field, value in [*given.items(), *map(parse_setting, settings)]:
        put_field(values, field, value)
        put_field(typed, field, value)
    spec = make_spec(values, target if is_file else "")
    for name in typed_engines(typed):
        trust.allow(name)
    return spec


def run(terminal: Terminal, spec: RunSpec, out: Path | None, how: How) -> int:
    """Run a spec in its folder; returns the exit code."""
    folder = out if out is not None else spec.default_folder()
    with at_hand(folder, write=True, terminal=terminal) as here:
        return _flow(terminal, spec, here, how)


def resume(terminal: Terminal, folder: Path, how: How) -> int:
    """Continue the run in a folder; returns the exit code."""
    with at_hand(folder, write=True, terminal=terminal) as here:
        return _flow(terminal, RunStore(here).spec_to_resume(), here, how)


def rerank(
    terminal: Terminal,
    folder: Path,
    reference: Path | None,
    settings: Sequence[str],
    workers: int | None,
) -> int:
    """Rank the relaxed candidates of a folder anew; returns the exit code."""
    values = RunStore(folder).spec_to_resume().model_dump(mode="json")
    if reference is not None:
        values["reference"] = str(reference)
    for setting in settings:
        field, value = parse_setting(setting)
        if not field.startswith("rank."):
            raise UserInputError(
                f"--set {setting} does not belong to the ranking; only fields of rank can change, "
                "for example rank.duplicate_rmsd_A=0.3."
            )
        put_field(values, field, value)
    return _flow(terminal, make_spec(values), folder, How(workers, rerank=True))


def _flow(terminal: Terminal, spec: RunSpec, folder: Path, how: How) -> int:
    """Run the Prefect flow on a folder. Every check of the input comes before Prefect starts."""
    from flows import local_api

    plan = plan_for(spec, folder, how.rerank)
    if not how.rerank:
        check_device(spec, how.workers, how.device)
        check_ranks(spec, how.ranks)
    make_folder(folder)
    with RunLock(folder):
        check_same_run(folder, plan, how.rerank)
    local_api.prepare()
    with storage_errors(folder):
        terminal.open_log(folder / LOG)
    with terminal.captured():
        try:
            with interruptible(folder), progress.use(terminal.progress()):
                summary = _in_prefect(terminal, plan.spec, folder, how)
        finally:
            close_pools()
    return _show_result(terminal, RunStore(folder), summary)


def _in_prefect(terminal: Terminal, spec: RunSpec, folder: Path, how: How) -> Summary:
    """Start Prefect's API while the flow is imported, then run the flow."""
    from flows import local_api

    assert terminal.handler is not None
    with local_api.starting(terminal.handler):
        from flows.csp import csp
    try:
        with local_api.shared():
            summary: Summary = csp(spec, out=str(folder), **asdict(how))
        return summary
    except (TooManyFailuresError, NothingRankedError):
        # The flow run ends as failed, which is right; the results are there all the same.
        return summarise(RunStore(folder), read_ranked(folder))


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
            print_table(terminal, run, 10)
        terminal.write("")
        for name, path in summary.files.items():
            terminal.write(f"{name:<10} {short(Path(path))}")
    if error:
        terminal.say(f"csp: {error}")
    return code


def put_field(values: dict[str, Any], field: str, value: object) -> None:
    """Set a dotted field in nested dictionaries."""
    *parents, last = field.split(".")
    if parents[:1] == ["refine"]:
        values["refine"] = refinements_by_stage(values.get("refine", {}))
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


def typed_engines(typed: Mapping[str, Any]) -> list[str]:
    """Engines that options name."""
    steps = refinements_by_stage(typed.get("refine", {}))
    named = [typed.get("engine"), *(step.get("engine") for step in steps.values())]
    return [str(name) for name in named if name is not None]
