"""Colours, line styles and small helpers that the figures share.

Only matplotlib's object interface is used (no pyplot), as for the landscape of a run.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from packflow_core.evaluation.settings import VARIANTS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TEXT, FAINT, GRID = "#1b1f24", "#6b737c", "#e4e7eb"
KNOWN = "#c9ced4"

#: Colour-blind-safe hues (Okabe and Ito, 2008), one for each generator.
_HUES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_LINES = {"raw": ":", "restarts": "--", "repaired": "-"}
_MARKERS = {"raw": "o", "restarts": "s", "repaired": "D"}


@dataclass(frozen=True)
class Series:
    """How a generator and variant are drawn.

    Attributes:
        generator, variant: what it is.
        label: in legends.
        colour, line, marker: as matplotlib takes them.
    """

    generator: str
    variant: str
    label: str
    colour: str
    line: str
    marker: str


def make_series(pairs: Sequence[tuple[str, str]]) -> list[Series]:
    """A look for every pair (generator, variant); a generator has one colour."""
    generators = list(dict.fromkeys(generator for generator, _ in pairs))
    series = []
    for generator, variant in pairs:
        alone = sum(other == generator for other, _ in pairs) == 1
        series.append(
            Series(
                generator,
                variant,
                generator if alone else f"{generator}, {variant}",
                _HUES[generators.index(generator) % len(_HUES)],
                "-" if alone else _LINES[variant],
                _MARKERS[variant],
            )
        )
    assert all(s.variant in VARIANTS for s in series)
    return series


def make_figure(width: float, height: float) -> Figure:
    """An empty figure in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), facecolor="white", layout="constrained")


def dress(axes: Axes, title: str, x: str, y: str) -> None:
    """Title, labels and a light grid."""
    axes.set_title(title, loc="left", fontsize=10, color=TEXT)
    axes.set_xlabel(x, fontsize=9, color=TEXT)
    axes.set_ylabel(y, fontsize=9, color=TEXT)
    axes.tick_params(labelsize=8, colors=FAINT)
    axes.grid(color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(GRID)


def plain_log(axes: Axes) -> None:
    """A logarithmic x axis with plain numbers, where there is anything to show on it."""
    if not math.isfinite(axes.dataLim.minposx):
        return
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=12))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def figure_bytes(figure: Figure, kind: str) -> bytes:
    """A figure as PNG or SVG; the same figure gives the same bytes."""
    import matplotlib as mpl

    buffer = io.BytesIO()
    metadata = {"Software": None} if kind == "png" else {"Date": None, "Creator": None}
    with mpl.rc_context({"svg.hashsalt": "evaluation", "svg.fonttype": "path"}):
        figure.savefig(buffer, format=kind, dpi=140, metadata=metadata)
    return buffer.getvalue()
