"""The tables of a campaign as files: Parquet and CSV for programs, Markdown and HTML for people."""

from __future__ import annotations

import csv
import io
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from packflow_core import __version__
from packflow_core.campaign import Campaign
from packflow_core.campaign_cells import ANGLE_TOLERANCE, LENGTH_TOLERANCE, VOLUME_TOLERANCE
from packflow_core.campaign_table import FORM_SCHEMA, TARGET_SCHEMA, Row, TargetStatus
from packflow_core.progress import duration
from packflow_core.stages.finish import REPORT as RUN_REPORT
from packflow_core.stages.run_store import now
from packflow_core.store.atomic import atomic_path, storage_errors, write_bytes

TABLE = "campaign.parquet"
FORMS = "known_forms.parquet"
CSV = "campaign.csv"
MARKDOWN = "campaign.md"
REPORT = "campaign.html"

_NOTES = (
    "Energies are relative lattice energies within a target; they do not compare between targets.",
    "Working time is summed over all workers and candidates, so that several workers finish "
    "sooner.",
    "Densities are those of the lowest structure and of the densest known form.",
)
CELL_NOTE = (
    "A candidate is listed here when its reduced cell, scaled to the published volume, has the "
    f"published lengths within {LENGTH_TOLERANCE:.0%} and angles within {ANGLE_TOLERANCE:g}°, its "
    f"volume lies within {VOLUME_TOLERANCE:.0%} and it holds as many molecules. That is a hint, "
    "not a match: give a reference CIF to compare structures."
)

#: Column, title and decimals (None for text and whole numbers) of the tables for people.
_TARGET_COLUMNS: tuple[tuple[str, str, int | None], ...] = (
    ("target", "Target", None),
    ("label", "", None),
    ("tier", "Tier", None),
    ("status", "Status", None),
    ("n", "n", None),
    ("n_ranked", "Ranked", None),
    ("n_distinct", "Distinct", None),
    ("n_failed", "Failed", None),
    ("best_space_group", "Lowest: group", None),
    ("best_z", "Z", None),
    ("best_density_g_cm3", "g/cm³", 3),
    ("known_density_g_cm3", "Known g/cm³", 3),
    ("n_cells_found", "Cells found", None),
    ("reference_rank", "Reference rank", None),
    ("work_s", "Work", None),
)
_FORM_COLUMNS: tuple[tuple[str, str, int | None], ...] = (
    ("target", "Target", None),
    ("refcode", "Known form", None),
    ("space_group", "Space group", None),
    ("z", "Z", None),
    ("density_g_cm3", "g/cm³", 3),
    ("rank", "Same cell: rank", None),
    ("candidate_id", "Candidate", None),
    ("energy_kJ_mol", "kJ/mol", 2),
    ("candidate_density_g_cm3", "Its g/cm³", 3),
    ("same_space_group", "Group agrees", None),
)


def write_campaign(
    campaign: Campaign, targets: Sequence[Row], forms: Sequence[Row], folder: Path
) -> dict[str, str]:
    """Write all tables and pages of a campaign, each whole or not at all.

    Args:
        campaign: what was asked for.
        targets, forms: rows of `campaign_tables`.
        folder: where.

    Returns:
        Absolute paths of the files by name.

    Raises:
        UserInputError: the folder cannot be written.
        StorageFullError: no space left.
    """
    page = _Page(campaign, targets, forms)
    links = [_link(row, folder) for row in targets]
    with storage_errors(folder):
        for schema, rows, name in ((TARGET_SCHEMA, targets, TABLE), (FORM_SCHEMA, forms, FORMS)):
            with atomic_path(folder / name) as temporary:
                table = pa.Table.from_pylist(list(rows), schema=schema)
                pq.write_table(table, temporary, compression="zstd")
        write_bytes(folder / CSV, _csv(targets).encode())
        write_bytes(folder / MARKDOWN, page.markdown().encode())
        write_bytes(folder / REPORT, page.html(links).encode())
    names = {
        "table": TABLE, "forms": FORMS, "csv": CSV, "markdown": MARKDOWN, "report": REPORT,
    }  # fmt: skip
    return {name: str((folder / file).resolve()) for name, file in names.items()}


def campaign_markdown(campaign: Campaign, targets: Sequence[Row], forms: Sequence[Row]) -> str:
    """The page as Markdown, for an artifact of a flow run."""
    return _Page(campaign, targets, forms).markdown()


class _Page:
    """What a page shows, in texts."""

    def __init__(self, campaign: Campaign, targets: Sequence[Row], forms: Sequence[Row]) -> None:
        self.campaign, self.targets = campaign, targets
        self.forms = [row for row in forms if row["has_cell"]]
        self.written = now()
        status = Counter(row["status"] for row in targets)
        known = sum(row["n_known"] for row in targets if row["n_ranked"])
        found = sum(row["n_cells_found"] or 0 for row in targets)
        self.cards = [
            (f"{status[TargetStatus.FINISHED]} of {len(targets)}", "targets finished"),
            (str(sum(row["n_ranked"] or 0 for row in targets)), "candidates ranked"),
            (str(sum(row["n_distinct"] or 0 for row in targets)), "distinct structures"),
            (f"{found} of {known}", "known cells among them"),
            (duration(sum(row["work_s"] or 0.0 for row in targets)), "of work"),
        ]

    @property
    def reasons(self) -> list[tuple[str, str]]:
        return [(row["target"], row["reason"]) for row in self.targets if row["reason"]]

    def markdown(self) -> str:
        campaign = self.campaign
        lines = [
            f"# {campaign.name}",
            "",
            *([f"{campaign.description}.", ""] if campaign.description else []),
            ", ".join(f"{value} {label}" for value, label in self.cards) + ".",
            "",
            *_markdown_table(_TARGET_COLUMNS, self.targets),
        ]
        if self.reasons:
            lines += ["## What is not finished", ""]
            lines += [f"- **{name}**: {_line(reason)}" for name, reason in self.reasons]
            lines += [""]
        if self.forms:
            lines += ["## Known forms", "", CELL_NOTE, ""]
            lines += _markdown_table(_FORM_COLUMNS, self.forms)
        lines += ["## Notes", "", *(f"- {note}" for note in _NOTES), ""]
        return "\n".join(lines)

    def html(self, links: Sequence[str]) -> str:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined

        templates = Path(__file__).parent / "analysis" / "templates"
        environment = Environment(
            loader=FileSystemLoader(templates), autoescape=True, undefined=StrictUndefined
        )
        tests = sorted({row["blind_test"] for row in self.targets if row["blind_test"]})
        citations = self.campaign.citations
        return environment.get_template("campaign.html.j2").render(
            c=self.campaign,
            written=self.written,
            cards=self.cards,
            target_table=_html_table(_TARGET_COLUMNS, self.targets)
            | {"status": [name for name, _, _ in _TARGET_COLUMNS].index("status"), "links": links},
            form_table=_html_table(_FORM_COLUMNS, self.forms)
            | {"found": [row["rank"] is not None for row in self.forms]},
            reasons=self.reasons,
            cell_note=CELL_NOTE,
            citations=[(number, citations[number]) for number in tests if number in citations],
            notes=_NOTES,
            version=__version__,
        )


def _link(row: Row, folder: Path) -> str:
    """Relative path from the page to the report of a run; empty where there is none."""
    report = Path(row["folder"]) / RUN_REPORT
    return Path(os.path.relpath(report, folder)).as_posix() if report.is_file() else ""


def _html_table(columns: Sequence[tuple[str, str, int | None]], rows: Sequence[Row]) -> Row:
    numeric = [_numeric(name) for name, _, _ in columns]
    return {
        "titles": [(title, is_n) for (_, title, _), is_n in zip(columns, numeric, strict=True)],
        "rows": [[_text(row[name], digits, name) for name, _, digits in columns] for row in rows],
    }


def _markdown_table(
    columns: Sequence[tuple[str, str, int | None]], rows: Sequence[Row]
) -> list[str]:
    return [
        "| " + " | ".join(title for _, title, _ in columns) + " |",
        "|" + "|".join("---:" if _numeric(name) else "---" for name, _, _ in columns) + "|",
        *(
            "| " + " | ".join(_line(_text(row[name], d, name)) for name, _, d in columns) + " |"
            for row in rows
        ),
        "",
    ]


def _csv(rows: Sequence[Row]) -> str:
    handle = io.StringIO()
    writer = csv.writer(handle, lineterminator="\n")
    writer.writerow(TARGET_SCHEMA.names)
    for row in rows:
        writer.writerow(
            f"{value:.6g}" if isinstance(value, float) else "" if value is None else value
            for value in (row[name] for name in TARGET_SCHEMA.names)
        )
    return handle.getvalue()


def _numeric(name: str) -> bool:
    schema = TARGET_SCHEMA if name in TARGET_SCHEMA.names else FORM_SCHEMA
    kind = schema.field(name).type
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _text(value: Any, digits: int | None, name: str) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if name == "work_s":
        return duration(value)
    return f"{value:.{digits}f}" if digits is not None else str(value)


def _line(text: str) -> str:
    """Text in a table: no column separators, one line."""
    return " ".join(text.split()).replace("|", "\\|")
