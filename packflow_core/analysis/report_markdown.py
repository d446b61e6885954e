"""The Markdown twin of the report, for wikis, pull requests and the Prefect UI."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from packflow_core.analysis.report_content import content_of, duration, seconds
from packflow_core.analysis.report_context import ReportContext

if TYPE_CHECKING:
    from jinja2 import Environment

#: What would begin markup, a table cell, a link or HTML. Letters, digits and the rest stay.
_SPECIAL = re.compile(r"([\\`*_{}\[\]|~#!$])")


class Code(str):
    """Text that is shown as code."""

    __slots__ = ()


def render_markdown(context: ReportContext, landscape: str = "landscape.png", top: int = 25) -> str:
    """The report as Markdown (tables as GitHub has them), pictures beside it.

    Args:
        context: as for the HTML.
        landscape: address of the picture, relative to the file; empty for none.
        top: lines of the ranked table.
    """
    content = content_of(context)
    listed = content["table"]
    kept = [row for k, row in enumerate(listed) if k < top or row["matched"]]
    if len(kept) < len(listed):
        content["table_note"] = f"The first {top} of the structures in report.html."
    content["table"] = kept
    return _environment().get_template("report.md.j2").render(**content, landscape=landscape)


def escape_markdown(value: Any) -> str:
    """Text that no Markdown renderer takes for markup or HTML, on one line."""
    text = " ".join(str(value).split())
    if isinstance(value, Code):
        # A run of backticks longer than any inside; HTML and markup mean nothing in code, but
        # a bar still ends a cell of a table.
        fence = "`" * (1 + max((len(run) for run in re.findall(r"`+", text)), default=0))
        space = " " if "`" in text else ""
        return f"{fence}{space}{text.replace('|', chr(92) + '|')}{space}{fence}" if text else ""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _SPECIAL.sub(r"\\\1", text).replace("://", ":&#47;/")


def _block(text: str) -> Any:
    """Lines of code between fences that the text cannot end."""
    from markupsafe import Markup

    fence = "`" * max(3, 1 + max((len(run) for run in re.findall(r"`+", text)), default=0))
    return Markup(f"{fence}\n{text.rstrip()}\n{fence}")  # nothing ends the fence


def _finalize(value: Any) -> str:
    from markupsafe import Markup

    return str(value) if isinstance(value, Markup) else escape_markdown(value)


@lru_cache(maxsize=1)
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(  # what is written passes `_finalize`, not HTML's rules
        loader=PackageLoader("packflow_core.analysis", "templates"),
        undefined=StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(code=Code, block=_block, seconds=seconds, duration=duration)
    return environment
