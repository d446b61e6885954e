"""Tables, figures and the text of an evaluation, as files."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from packflow_core.evaluation import figures, summary
from packflow_core.evaluation.evaluation import Evaluation
from packflow_core.evaluation.schema import EFFICIENCY, PROPOSALS, TARGETS, Row
from packflow_core.evaluation.style import figure_bytes, make_series
from packflow_core.evaluation.summary import (
    Document,
    efficiency_rows,
    efficiency_table,
    groups,
    summarise,
    target_rows,
)
from packflow_core.store.atomic import atomic_path, storage_errors, write_bytes, write_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure

logger = logging.getLogger(__name__)

JSON = "evaluation.json"
MARKDOWN = "evaluation.md"

_COLUMNS = {
    "density_error_percent": ("density %", 2),
    "clash_percent": ("clash %", 2),
    "amd_linf_A": ("AMD Å", 3),
    "rdf_wasserstein_A": ("RDF Å", 3),
    "rdf_wasserstein_short_A": ("short Å", 3),
}


def write_report(evaluation: Evaluation, out: Path) -> Document:
    """Write proposals, targets and efficiency as Parquet, the figures, the table and its text.

    Returns:
        The document that `evaluation.json` holds, with the written files by name.

    Raises:
        StorageFullError: no space left.
    """
    rows = target_rows(evaluation)
    efficiency = efficiency_rows(evaluation)
    document = summarise(evaluation, rows)
    written: dict[str, str] = {}
    proposals = pa.Table.from_pandas(
        evaluation.proposals[PROPOSALS.names], schema=PROPOSALS, preserve_index=False
    )
    tables = {
        "proposals": proposals,
        "targets": pa.Table.from_pylist(rows, schema=TARGETS),
        "efficiency": pa.Table.from_pylist(efficiency, schema=EFFICIENCY),
    }
    with storage_errors(out):
        for name, table in tables.items():
            written[name] = str(out / f"{name}.parquet")
            with atomic_path(Path(written[name])) as temporary:
                pq.write_table(table, temporary, compression="zstd")
        for name, figure in _figures(evaluation, rows, efficiency, document).items():
            for kind in ("png", "svg"):
                write_bytes(out / f"{name}.{kind}", figure_bytes(figure, kind))
            written[name] = str(out / f"{name}.png")
        written["table"] = str(out / MARKDOWN)
        document["files"] = written
        write_bytes(out / MARKDOWN, markdown(document, rows).encode())
        write_json(out / JSON, document)
    return document


def _figures(
    evaluation: Evaluation, rows: list[Row], efficiency: list[Row], document: Document
) -> dict[str, Figure]:
    series = make_series([(generator, variant) for generator, variant, _ in groups(evaluation)])
    return {
        "geometry": figures.geometry_figure(evaluation, series),
        "sample_efficiency": figures.efficiency_figure(
            evaluation, series, efficiency_table(efficiency)
        ),
        "metrics": figures.metrics_figure(evaluation, series, document),
        "best_proposals": figures.targets_figure(evaluation, series, summary.target_table(rows)),
    }


def markdown(document: Document, rows: Sequence[Row]) -> str:
    """The tables of an evaluation as Markdown."""
    settings = document["settings"]
    parts = [
        "# Evaluation",
        f"{document['molecules']} molecules, {document['targets']} targets, "
        f"{document['known_forms']} known forms; {settings['n']} proposals of a molecule and seed, "
        f"seeds {', '.join(map(str, settings['seeds']))}. Means over targets of means over "
        f"proposals; in brackets the {settings['confidence']:.0%} interval over molecules. "
        f"near: targets with a proposal within {settings['near_A']:g} Å (AMD) of a known form. "
        "docs/evaluation.md explains every number.",
        _table(*metric_table(document, intervals=True)),
        "## What became of the proposals",
        _table(*outcome_table(document)),
        "## The paper's own test set",
        "Table 2 of the paper: other molecules, experimental crystals of the CSD, a V100 GPU.",
        _table(*paper_table(document)),
        "## Targets",
        _table(*target_table(rows)),
    ]
    problems = [f"- {r['name']}: {r['reason']}" for r in document["refused"]]
    problems += [
        f"- {r['molecule']} ({r['generator']}): {r['reason']}" for r in document["impossible"]
    ]
    if problems:
        parts += ["## Not evaluated", "\n".join(problems)]
    parts += ["## Figures", "\n".join(f"![{n}]({n}.png)" for n in _FIGURES)]
    return "\n\n".join(parts) + "\n"


_FIGURES = ("metrics", "sample_efficiency", "geometry", "best_proposals")

#: Titles of columns and cells of rows.
Cells = tuple[list[str], list[list[str]]]


def metric_table(document: Document, *, intervals: bool) -> Cells:
    """The metrics of every generator and variant."""
    show = _with_interval if intervals else _mean_alone
    n = max((line["proposals_per_target"] for line in document["results"]), default=0)
    titles = ["generator", "variant", *(title for title, _ in _COLUMNS.values()),
              f"best of {n} Å", "near", "time s"]  # fmt: skip
    rows = [
        [
            line["generator"],
            line["variant"],
            *(show(line[name], digits) for name, (_, digits) in _COLUMNS.items()),
            show(line["best_amd_linf_A"], 3),
            f"{line['targets_near']} of {line['targets']}",
            _number(line["wall_s"], 3),
        ]
        for line in document["results"]
    ]
    return titles, rows


def outcome_table(document: Document) -> Cells:
    """How many proposals could be measured, how sound their molecules are, and what repair took."""
    titles = ["generator", "variant", "targets", "measured", "why not", "bonds %", "sound %",
              "repair s", "device"]  # fmt: skip
    rows = [
        [
            line["generator"],
            line["variant"],
            f"{line['targets_measured']} of {line['targets']}",
            f"{line['measured']} of {line['proposals']}",
            ", ".join(f"{name}: {count}" for name, count in line["reasons"].items()),
            _percent(line["bonds_ok"]["mean"]),
            _percent(line["molecules_sound"]["mean"]),
            _number(line["repair_s"], 3),
            ", ".join(line["devices"]),
        ]
        for line in document["results"]
    ]
    return titles, rows


def paper_table(document: Document) -> Cells:
    """What the paper reports."""
    titles = ["model", *(title for title, _ in _COLUMNS.values()), "time s"]
    rows = [
        [
            line["name"],
            *(_number(line[name], digits) for name, (_, digits) in _COLUMNS.items()),
            _number(line["wall_s"], 3),
        ]
        for line in document["paper"]
    ]
    return titles, rows


def target_table(rows: Sequence[Row]) -> Cells:
    """The targets one by one."""
    titles = ["target", "generator", "variant", "Z", "measured", "density %", "clash %",
              "AMD Å", "best Å", "nearest form", "why not"]  # fmt: skip
    cells = [
        [
            row["target"],
            row["generator"],
            row["variant"],
            ", ".join(map(str, row["z"])),
            f"{row['measured']} of {row['proposals']}",
            _number(row.get("density_error_percent"), 2),
            _number(row.get("clash_percent"), 2),
            _number(row.get("amd_linf_A"), 3),
            _number(row.get("best_amd_linf_A"), 3),
            str(row.get("best_form") or ""),
            str(row.get("detail") or ""),
        ]
        for row in rows
    ]
    return titles, cells


def _table(titles: list[str], rows: list[list[str]]) -> str:
    clean: Callable[[str], str] = lambda text: " ".join(text.split()).replace("|", "\\|")  # noqa: E731
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join("| " + " | ".join(map(clean, line)) + " |" for line in lines)


def _mean_alone(value: dict[str, Any], digits: int) -> str:
    return _number(value["mean"], digits)


def _with_interval(value: dict[str, Any], digits: int) -> str:
    if value["low"] is None or value["high"] is None:
        return _number(value["mean"], digits)
    low, high = _number(value["low"], digits), _number(value["high"], digits)
    return f"{_number(value['mean'], digits)} [{low}, {high}]"


def _number(value: float | None, digits: int) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100.0 * value:.1f}"
