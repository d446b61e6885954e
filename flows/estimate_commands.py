"""What `csp estimate` does: a pilot for each target, its forecast, and the sum of all."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from flows.console import CommandInterrupted, Terminal, interruptible
from flows.how import How
from flows.run_commands import parse_setting, put_field, spec_from_options, typed_engines
from packflow_core import progress
from packflow_core.campaign import find_campaign, read_campaign, shipped_campaigns
from packflow_core.engines import trust
from packflow_core.errors import UserInputError
from packflow_core.estimate import Forecast, Range, forecast, total
from packflow_core.estimate_pilot import run_pilot
from packflow_core.spec import RunSpec
from packflow_core.stages.plan import check_device
from packflow_core.stages.pools import close_pools
from packflow_core.stages.run_store import LOG
from packflow_core.store.atomic import make_folder


def estimate(
    terminal: Terminal,
    targets: Sequence[str],
    given: dict[str, object],
    settings: Sequence[str],
    pilot: int,
    how: How,
    keep: Path | None,
    only: Sequence[str] = (),
) -> None:
    """Forecast the runs of some targets and show what they will cost.

    Args:
        terminal: where to.
        targets: SMILES, target files, campaign files, or names of campaigns that come with us.
        given: fields of the specs that options name.
        settings: further ones, `FIELD=VALUE`.
        pilot: candidates to make of each.
        how: workers, device and time limit of the run.
        keep: folder of the pilot of a single target; a temporary one when None.
        only: targets of the campaigns, by name, label or refcode; all when empty.

    Raises:
        UserInputError: an input is wrong.
        RunFailedError: a pilot broke.
    """
    specs = [spec for t in targets for spec in _specs(t, given, settings, only)]
    if len(specs) > 1 and (keep is not None or "name" in given):
        raise UserInputError(
            "--keep and --name belong to a single target; leave them out, or give one target."
        )
    for spec in specs:
        check_device(spec, how.workers, how.device)
    found = [_one(terminal, spec, pilot, how, keep) for spec in specs]
    if terminal.json:
        document: dict[str, Any] = {"runs": [run.as_dict() for run in found], "total": total(found)}
        terminal.document(document)
        return
    for run in found:
        _show(terminal, run)
    if len(found) > 1:
        _show_total(terminal, total(found))
    if keep is not None:
        terminal.write(f"The pilot is in {keep}; 'csp run' with --out {keep} continues it.")


def _specs(
    target: str, given: dict[str, object], settings: Sequence[str], only: Sequence[str]
) -> list[RunSpec]:
    """The run of a target, or the runs of a campaign."""
    path = Path(target)
    if target in shipped_campaigns():
        path = find_campaign(target)
    elif not (path.suffix in (".yaml", ".yml") and _has_targets(path)):
        return [spec_from_options(target, dict(given), settings)]
    changes: dict[str, Any] = {}
    for field, value in [*given.items(), *map(parse_setting, settings)]:
        put_field(changes, field, value)
    for name in typed_engines(changes):
        trust.allow(name)
    campaign = read_campaign(path)
    return [campaign.spec_of(member, changes) for member in campaign.select(only)]


def _has_targets(path: Path) -> bool:
    """Whether a YAML file is of a campaign; one that cannot be read is for others to refuse."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return False
    return isinstance(content, dict) and "targets" in content


def _one(terminal: Terminal, spec: RunSpec, pilot: int, how: How, keep: Path | None) -> Forecast:
    with tempfile.TemporaryDirectory(prefix="packflow-pilot-") as temporary:
        folder = keep if keep is not None else Path(temporary) / "pilot"
        make_folder(folder)
        terminal.open_log(folder / LOG)
        with terminal.captured():
            try:
                with interruptible(folder), progress.use(terminal.progress()):
                    measured = run_pilot(
                        spec, folder, pilot, how.workers, how.device, how.timeout_s
                    )
            except CommandInterrupted as error:
                if keep is None:  # the temporary folder goes away
                    raise CommandInterrupted from error
                raise
            finally:
                close_pools()
    return forecast(measured)


def _show(terminal: Terminal, run: Forecast) -> None:
    from rich.table import Table

    terminal.write(
        f"{run.target}, n = {run.n}: forecast from {run.pilot_candidates} candidates made in "
        f"{_time(run.pilot_s / 3600.0)}; 5 % to 95 %"
    )
    table = Table(header_style="bold")
    for title in ("stage", "candidates", "s each", "core hours", "elapsed", "workers", "disk MB",
                  "memory MB"):  # fmt: skip
        table.add_column(title, justify="left" if title == "stage" else "right")
    for stage in run.stages:
        table.add_row(
            stage.stage, _span(stage.candidates), _span(stage.seconds_each),
            _span(stage.core_hours), _times(stage.elapsed_hours), str(stage.seats),
            _span(stage.disk_mb), _short(stage.memory_mb),
        )  # fmt: skip
    table.add_section()
    table.add_row(
        "run", "", "", _span(run.core_hours), _times(run.elapsed_hours), "",
        _span(run.disk_mb), _short(run.memory_mb),
    )  # fmt: skip
    terminal.console().print(table)
    for note in run.notes:
        terminal.write(f"- {note}")


def _show_total(terminal: Terminal, summed: dict[str, Any]) -> None:
    terminal.write(
        f"{summed['runs']} runs, {summed['n']} candidates, one run after the other: "
        f"{_span(summed['core_hours'])} core hours, {_times(summed['elapsed_hours'])}, "
        f"{_span(summed['disk_mb'])} MB of disk, {_short(summed['memory_mb'])} MB of memory."
    )


def _span(values: Range) -> str:
    low, _, high = map(_short, values)
    return low if low == high else f"{low} - {high}"


def _times(hours: Range) -> str:
    low, _, high = map(_time, hours)
    return low if low == high else f"{low} - {high}"


def _short(value: float) -> str:
    if value >= 100:
        return f"{value:.0f}" if value < 1e6 else f"{value:.2g}"
    return f"{value:.2g}"


def _time(hours: float) -> str:
    if hours >= 48:
        return f"{hours / 24:.3g} days"
    if hours >= 1:
        return f"{hours:.3g} h"
    return f"{hours * 60:.2g} min" if hours >= 1 / 60 else f"{hours * 3600:.2g} s"
