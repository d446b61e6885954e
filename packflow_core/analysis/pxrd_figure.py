"""Powder patterns, one above the other: the measured one at the top, simulated ones below."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from packflow_core.analysis.pxrd_measured import MeasuredPattern
from packflow_core.analysis.pxrd_patterns import PxrdParams
from packflow_core.store.atomic import atomic_path
from packflow_core.store.rows import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FloatArray = NDArray[np.float64]

#: Simulated patterns of a figure; the others are in the table.
MOST_PATTERNS = 8
_MEASURED, _SIMULATED, _FAINT = "#D55E00", "#0072B2", "#8a939d"


def pattern_figure(
    rows: Sequence[Row],
    params: PxrdParams,
    measured: MeasuredPattern | None = None,
    title: str = "",
) -> Figure:
    """Draw the first patterns of a table.

    Args:
        rows: of `pxrd_table.SCHEMA`, the best first; where a measured pattern was compared, the
            profiles are moved to the scaled cell that fits best.
        params: with which the rows were made.
        measured: the pattern at the top.
        title: above the figure.
    """
    from matplotlib.figure import Figure

    shown = [row for row in rows if row.get("intensity")][:MOST_PATTERNS]
    grid = params.grid()
    lines = len(shown) + (measured is not None)
    figure = Figure(figsize=(8.0, 1.4 + 0.72 * max(lines, 1)), layout="constrained")
    axes = figure.add_subplot()
    level = float(lines)
    if measured is not None:
        level -= 1.0
        values = np.where(measured.covered, measured.intensity, np.nan)
        axes.plot(grid, level + values / 115.0, color=_MEASURED, lw=0.9)
        _label(axes, grid[-1], level, "measured")
    for row in shown:
        level -= 1.0
        factor = float(row.get("volume_factor") or 1.0)
        axes.plot(
            _moved(grid, factor), level + np.asarray(row["intensity"]) / 115.0,
            color=_SIMULATED, lw=0.9,
        )  # fmt: skip
        text = f"rank {row['rank']}, {row['lattice_energy_rel_kJ_mol']:.1f} kJ/mol"
        if row.get("similarity_scaled") is not None:
            text += f"\nS = {row['similarity_scaled']:.3f}, V × {factor:.3f}"
        _label(axes, grid[-1], level, text)
    axes.set_xlim(params.low_deg, params.high_deg)
    axes.set_ylim(-0.08, lines + 0.02)
    axes.set_yticks([])
    axes.set_xlabel(f"2θ / degrees (λ = {params.wavelength_A:g} Å)")
    axes.set_ylabel("intensity")
    if any(row.get("volume_factor") for row in shown):
        title += "; simulated patterns of the cells scaled to fit best"
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    if title:
        # No mathtext: a name may hold a dollar.
        figure.suptitle(title, fontsize=11, x=0.01, ha="left", parse_math=False)
    if not lines:
        axes.text(0.5, 0.5, "no patterns", transform=axes.transAxes, ha="center", color=_FAINT)
    return figure


def write_figures(figure: Figure, png: Path, svg: Path) -> None:
    """Write a figure as PNG and SVG, atomically and without dates."""
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": "pxrd"}):
        with atomic_path(png) as temporary:
            figure.savefig(temporary, format="png", dpi=150, metadata={"Software": None})
        with atomic_path(svg) as temporary:
            figure.savefig(temporary, format="svg", metadata={"Date": None, "Creator": None})


def _moved(grid: FloatArray, volume_factor: float) -> FloatArray:
    """Angles of the points of a profile after the cell was scaled."""
    sine = np.sin(np.radians(grid / 2.0)) / volume_factor ** (1.0 / 3.0)
    return np.asarray(2.0 * np.degrees(np.arcsin(np.clip(sine, 0.0, 1.0))))


def _label(axes: Axes, x: float, level: float, text: str) -> None:
    axes.annotate(
        text, (x, level + 0.5), xytext=(6, 0), textcoords="offset points", va="center",
        fontsize=8, annotation_clip=False,
    )  # fmt: skip
