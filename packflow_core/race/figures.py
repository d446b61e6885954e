"""Figures of a race: all panels in one, after Fig. 5 of the PackFlow paper, and each by itself.

Only matplotlib's object interface is used (no pyplot), as for the landscape of a run.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from packflow_core.race.bar_panels import basins_panel, outcomes_panel, rate_panel
from packflow_core.race.comparison import Comparison
from packflow_core.race.curve_panels import compute_panel, samples_panel
from packflow_core.race.landscape_panel import landscape_panel
from packflow_core.race.style import FAINT, TEXT
from packflow_core.race.violins import density_panel, energy_panel
from packflow_core.store.atomic import write_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_Draw = Callable[["Axes", Comparison], None]


def _hits(axes: Axes, race: Comparison) -> None:
    rate_panel(axes, race, "hits", "finding the known form", "hit")


def _low_energy(axes: Axes, race: Comparison) -> None:
    window = race.settings.window_kJ_mol
    rate_panel(axes, race, "low_energy", f"structures within {window:g} kJ/mol", "structure")


#: Panels by name, with their place in the figure of all: row, first column, columns of four.
_PANELS: dict[str, tuple[_Draw, tuple[int, int, int]]] = {
    "density_before": (lambda a, r: density_panel(a, r, after=False), (0, 0, 1)),
    "density_after": (lambda a, r: density_panel(a, r, after=True), (0, 1, 1)),
    "energy_before": (lambda a, r: energy_panel(a, r, after=False), (0, 2, 1)),
    "energy_after": (lambda a, r: energy_panel(a, r, after=True), (0, 3, 1)),
    "landscape": (landscape_panel, (1, 0, 2)),
    "samples": (samples_panel, (1, 2, 1)),
    "compute": (compute_panel, (1, 3, 1)),
    "outcomes": (outcomes_panel, (2, 0, 1)),
    "hits": (_hits, (2, 1, 1)),
    "low_energy": (_low_energy, (2, 2, 1)),
    "basins": (basins_panel, (2, 3, 1)),
}

FIGURE = "race"
NAMES = (FIGURE, *(f"race_{name}" for name in _PANELS))


def write_figures(race: Comparison, folder: Path) -> dict[str, Path]:
    """Write every figure as PNG and SVG.

    Returns:
        Paths of the PNG files by name.

    Raises:
        StorageFullError: no space left.
    """
    written = {}
    figures = {FIGURE: race_figure(race)}
    figures |= {f"race_{name}": panel_figure(race, name) for name in _PANELS}
    for name, figure in figures.items():
        for kind in ("png", "svg"):
            write_bytes(folder / f"{name}.{kind}", figure_bytes(figure, kind))
        written[name] = folder / f"{name}.png"
    return written


def race_figure(race: Comparison) -> Figure:
    """All panels, 15 x 12 inches or higher with many legs."""
    from matplotlib.figure import Figure

    rows = 2.4 + 0.45 * max(len(race.legs), 2)
    figure = Figure(figsize=(15.5, 8.6 + rows), facecolor="white", layout="constrained")
    grid = figure.add_gridspec(3, 4, height_ratios=[4.2, 4.4, rows])
    for letter, (draw, (row, first, width)) in zip("abcdefghijk", _PANELS.values(), strict=True):
        axes = figure.add_subplot(grid[row, first : first + width])
        draw(axes, race)
        title = f"({letter}) {axes.get_title(loc='left')}"
        axes.set_title(title, loc="left", fontsize=10.5, fontweight="bold", color=TEXT)
        if row == 2 and first:  # the legs stand in the same rows as in the first panel
            axes.tick_params(axis="y", labelleft=False)
    figure.suptitle(
        f"{race.target}, {race.engine}\n{race.budget.describe()}", x=0.01, ha="left",
        fontsize=11.5, color=TEXT, parse_math=False,
    )  # fmt: skip
    return figure


def panel_figure(race: Comparison, name: str) -> Figure:
    """One panel by itself.

    Raises:
        KeyError: no such panel.
    """
    from matplotlib.figure import Figure

    draw, (_, _, width) = _PANELS[name]
    size = (7.6, 5.0) if width > 1 else (5.6, 4.4)
    figure = Figure(figsize=size, facecolor="white", layout="constrained")
    draw(figure.add_subplot(), race)
    figure.suptitle(race.target, x=0.01, ha="left", fontsize=9.5, color=FAINT, parse_math=False)
    return figure


def figure_bytes(figure: Figure, kind: str) -> bytes:
    """A figure as PNG or SVG; the same figure gives the same bytes."""
    import matplotlib as mpl

    buffer = io.BytesIO()
    metadata = {"Software": None} if kind == "png" else {"Date": None, "Creator": None}
    with mpl.rc_context({"svg.hashsalt": "race", "svg.fonttype": "path"}):
        figure.savefig(buffer, format=kind, dpi=130, metadata=metadata)
    return buffer.getvalue()
