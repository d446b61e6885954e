"""What a run folder tells the report: its rows, counts and provenance as plain data."""

from __future__ import annotations

import datetime
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from packflow_core.stages.run_store import RunStore
from packflow_core.store.rows import Row
from packflow_core.store.schema import stage_kind

if TYPE_CHECKING:
    from packflow_core.analysis.report import ReportContext

logger = logging.getLogger(__name__)

#: Folder of the powder patterns in a run's folder.
PXRD = "pxrd"
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


def write_run_report(run: RunStore, rows: list[Row], page: Path, twin: Path) -> None:
    """Write the self-contained HTML report and its Markdown twin."""
    from packflow_core.analysis.report import render_markdown, write_report

    context = report_context(run, rows)
    write_report(page, context)
    twin.write_text(render_markdown(context), encoding="utf-8")


def report_context(run: RunStore, rows: list[Row]) -> ReportContext:
    """Everything the report shows of a run."""
    from packflow_core.analysis.report import ReportContext, group_failures, summarise_stage
    from packflow_core.stages.finish import trust_sentences
    from packflow_core.trust.run_verify import read_verification

    spec, content = run.plan.spec, run.content
    by_stage = {
        name: run.stage(name).table(_REPORT_COLUMNS).to_pylist() for name in run.plan.stage_names
    }
    host = content.get("host", {})
    verification = read_verification(run.folder, rows)
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
        command=_command(str(content.get("command", ""))),
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
        spec=yaml.safe_dump(spec.model_dump(mode="json"), sort_keys=False, allow_unicode=True),
        trust=trust_sentences(run, rows),
        verification=verification.rows if verification else (),
        pxrd=read_patterns(run.folder, rows),
    )


def _command(typed: str) -> str:
    """The command of a terminal, by its name; nothing for a worker of the orchestrator.

    What a worker was started with repeats nothing; the input beside it does.
    """
    program, _, rest = typed.partition(" ")
    return f"csp {rest}" if Path(program).name in ("csp", "cli.py") else ""


def read_patterns(folder: Path, ranked: list[Row]) -> list[Row]:
    """What the last `csp pxrd` wrote, best first; nothing where the ranking has changed since."""
    try:
        rows: list[Row] = pq.read_table(folder / PXRD / "pxrd.parquet").to_pylist()
    except (OSError, pa.ArrowException):
        return []
    now = {row["candidate_id"]: (row.get("rank"), row.get("density_g_cm3")) for row in ranked}
    if any(now.get(r.get("candidate_id")) != (r.get("rank"), r.get("density_g_cm3")) for r in rows):
        logger.info("the powder patterns are of an earlier ranking; 'csp pxrd' renews them")
        return []
    return rows


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
