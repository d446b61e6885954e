"""What a run folder tells the report: its rows, counts and provenance as plain data."""

from __future__ import annotations

import datetime
import os
from pathlib import Path
from typing import TYPE_CHECKING

from packflow_core.stages.run_store import RunStore
from packflow_core.store.rows import Row
from packflow_core.store.schema import stage_kind

if TYPE_CHECKING:
    from packflow_core.analysis.report import ReportContext

_REPORT_COLUMNS = ("index", "candidate_id", "status", "reason", "detail", "wall_s")


def write_landscape(run: RunStore, rows: list[Row], path: Path) -> None:
    """Draw density against relative lattice energy to a PNG file."""
    from packflow_core.analysis.landscape import LandscapeOptions, landscape_png

    options = LandscapeOptions(
        title=run.plan.spec.name,
        subtitle=", ".join((run.plan.engine, run.plan.spec.method, f"n = {run.plan.spec.n}")),
        reference_density=reference_density(run),
    )
    landscape_png(rows, path, options)


def write_run_report(run: RunStore, rows: list[Row], path: Path) -> None:
    """Write the self-contained HTML report."""
    from packflow_core.analysis.report import write_report

    write_report(path, report_context(run, rows))


def report_context(run: RunStore, rows: list[Row]) -> ReportContext:
    """Everything the report shows of a run."""
    from packflow_core.analysis.report import ReportContext, group_failures, summarise_stage

    spec, content = run.plan.spec, run.content
    by_stage = {
        name: run.stage(name).table(_REPORT_COLUMNS).to_pylist() for name in run.plan.stage_names
    }
    host = content.get("host", {})
    return ReportContext(
        target=spec.name,
        smiles=spec.smiles,
        rows=rows,
        stages=[summarise_stage(name, found) for name, found in by_stage.items()],
        failures=[
            group for name, found in by_stage.items() for group in group_failures(name, found)
        ],
        campaign=spec.campaign,
        z=spec.z,
        generator=spec.method,
        checkpoint_hash=run.plan.generator.get("sha256", ""),
        engine=run.plan.engine,
        seed=spec.seed,
        reference_label=Path(spec.reference).stem if spec.reference else "",
        reference_density=reference_density(run),
        command=str(content.get("command", "")),
        versions=content.get("versions", {}),
        provenance={
            "run folder": str(run.folder.resolve()),
            "machine": f"{host.get('name')} ({host.get('cpus')} processors, {host.get('system')})",
            "sessions": str(len(content.get("sessions", []))),
            **{
                f"engine of {name}": stage.identity
                for name, stage in run.plan.stages.items()
                if stage_kind(name) in ("relax_h", "relax")
            },
            **{f"stage key of {name}": stage.key for name, stage in run.plan.stages.items()},
        },
        finished=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        wall_s=elapsed_s(run),
    )


def reference_density(run: RunStore) -> float | None:
    """Density of the reference crystal in g/cm3, all hydrogens of the molecule counted."""
    if run.reference is None:
        return None
    from packflow_core.chem.elements import AMU_PER_A3_TO_G_CM3
    from packflow_core.chem.molecule import Molecule
    from packflow_core.crystal.cif import read_cif

    crystal = read_cif(run.reference)
    mass = Molecule.from_smiles(run.plan.spec.smiles).mass * crystal.z
    return float(mass / crystal.volume * AMU_PER_A3_TO_G_CM3)


def elapsed_s(run: RunStore) -> float:
    """Elapsed time of all sessions together, this process's own until now, s.

    A session that was killed has no end and does not count.
    """
    total = 0.0
    sessions = run.content.get("sessions", [])
    for number, session in enumerate(sessions):
        end = session.get("ended")
        if end is None and number == len(sessions) - 1 and session.get("pid") == os.getpid():
            end = datetime.datetime.now(datetime.UTC).isoformat()
        if end is not None:
            began = datetime.datetime.fromisoformat(session["started"])
            total += (datetime.datetime.fromisoformat(end) - began).total_seconds()
    return total
