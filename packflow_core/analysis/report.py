"""The report of a run: one HTML file that needs nothing else, not even a network.

It takes plain data (rows, numbers, strings), so it can be written from a finished run, from a
store, or from a test. Everything that comes from outside is escaped by the template engine; the
only markup that is inserted as it stands are the pictures this package draws itself. Scripts run
by their hash alone, so that nothing else in the page ever does.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import re
from collections.abc import Sequence
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packflow_core.analysis.landscape import LandscapeOptions
from packflow_core.analysis.landscape_svg import landscape_svg
from packflow_core.analysis.pictures import molecule_svg, packing_svg
from packflow_core.analysis.pxrd_svg import pxrd_svg
from packflow_core.analysis.report_content import (
    content_of,
    duration,
    molecule_of,
    seconds,
    table_row,
)
from packflow_core.analysis.report_context import (
    FailureGroup,
    ReportContext,
    StageSummary,
    group_failures,
    summarise_stage,
)
from packflow_core.analysis.report_markdown import render_markdown
from packflow_core.analysis.report_views import view_of
from packflow_core.store.rows import Row, crystal_of

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

__all__ = [
    "FailureGroup",
    "ReportContext",
    "StageSummary",
    "group_failures",
    "render_markdown",
    "render_report",
    "summarise_stage",
    "write_report",
]

logger = logging.getLogger(__name__)


def write_report(path: str | Path, context: ReportContext) -> Path:
    """Write the report as HTML to `path` and return it."""
    out = Path(path)
    out.write_text(render_report(context), encoding="utf-8")
    return out


def render_report(context: ReportContext) -> str:
    """The report as HTML text."""
    from markupsafe import Markup

    content = content_of(context)
    molecule = molecule_of(context.smiles)
    drawn = landscape_svg(
        context.rows,
        LandscapeOptions(
            reference_density=context.reference_density,
            reference_label=context.reference_label or "reference",
            window_kJ_mol=context.window_kJ_mol,
        ),
    )
    pictures, views = _pictures(content["drawn"])
    scripts = [_file("3Dmol-min.js")] if views else []
    if drawn.data or views:
        scripts.append(_file("report.js"))
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            **content,
            formula=_formula_parts(molecule.formula) if molecule else [],
            # Drawn by this package from numbers alone, hence safe to insert as they are.
            molecule_svg=Markup(molecule_svg(molecule)) if molecule else "",
            pictures=pictures,
            landscape=drawn.svg,
            pxrd=pxrd_svg(context.pxrd),
            data=_json({"points": drawn.data, "views": views}),
            scripts=[Markup(script) for script in scripts],  # files of this package
            script_source=" ".join(map(_hash, scripts)) or "'none'",
        )
    )


def _pictures(rows: Sequence[Row]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Flat pictures with their captions, and the data of those that can be turned."""
    from markupsafe import Markup

    pictures, views = [], []
    for row in rows:
        try:
            svg = packing_svg(crystal_of(row))
        except ValueError as error:  # a report without a picture is better than no report
            logger.warning("no packing picture of %s: %s", row.get("candidate_id"), error)
            continue
        view = view_of(row)
        if view is not None:
            views.append(view)
        number = len(views) - 1 if view is not None else None
        pictures.append({**table_row(row), "svg": Markup(svg), "view": number})
    return pictures, views


def _json(value: Any) -> Markup:
    """JSON that can stand inside of a script element: no text in it can end the element."""
    from markupsafe import Markup

    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)  # see above


@lru_cache(maxsize=4)
def _file(name: str) -> str:
    return (resources.files("packflow_core.analysis") / "templates" / name).read_text("utf-8")


def _hash(script: str) -> str:
    digest = hashlib.sha256(script.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _formula_parts(formula: str) -> list[tuple[str, str]]:
    """Hill formula as (symbol, count) for subscripts."""
    return re.findall(r"([A-Z][a-z]?)(\d*)", formula)


def _hm(symbol: str) -> Any:
    """Hermann-Mauguin symbol as HTML: ``P2_1/c`` with an index, ``P-1`` with a bar."""
    from markupsafe import Markup, escape

    text = str(escape(symbol))
    text = re.sub(r"-(\d)", '<span style="text-decoration: overline">\\1</span>', text)
    return Markup(re.sub(r"_(\d)", r"<sub>\1</sub>", text))


@lru_cache(maxsize=1)
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("packflow_core.analysis", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    environment.filters.update(hm=_hm, seconds=seconds, duration=duration)
    return environment
