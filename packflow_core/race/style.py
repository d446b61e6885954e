"""The look of a race's figures: one colour, marker and line for each leg, the same everywhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FloatArray = NDArray[np.float64]

#: Colour-blind-safe hues with a marker each (Okabe and Ito, 2008).
_SERIES = (
    ("#0072B2", "o"), ("#D55E00", "s"), ("#009E73", "^"), ("#CC79A7", "D"), ("#E69F00", "v"),
    ("#56B4E9", "P"), ("#7F7F7F", "X"),
)  # fmt: skip
_LINES = ("-", (0, (6, 2)), (0, (2, 1)))
TEXT, FAINT, GRID = "#1b1f24", "#6b747e", "#e4e7eb"
_NAME_LENGTH = 20


@dataclass(frozen=True)
class Style:
    """Look of one leg."""

    colour: str
    marker: str
    line: Any


def style(position: int) -> Style:
    """Look of leg number `position`; lines differ where colours come again."""
    colour, marker = _SERIES[position % len(_SERIES)]
    return Style(colour, marker, _LINES[position // len(_SERIES) % len(_LINES)])


def frame(axes: Axes, title: str) -> None:
    """Title, grid and spines that all panels share."""
    axes.set_title(title, loc="left", fontsize=10.5, color=TEXT, fontweight="bold")
    axes.grid(True, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(FAINT)
    axes.tick_params(colors=TEXT, labelsize=9)


def short_name(name: str, length: int = _NAME_LENGTH) -> str:
    """A leg's name for a label, its middle left out where it is long."""
    if len(name) > length:
        keep = (length - 1) // 2
        name = f"{name[:keep]}…{name[-keep:]}"
    return name.replace("$", r"\$")


def limits(
    values: list[FloatArray], extra: Sequence[float] = (), both_ends: bool = False
) -> tuple[float, float]:
    """Axis limits that leave far outliers out: beyond 1.5 times the 10 to 90 % range of a leg.

    Args:
        values: of each leg; NaN for those without one.
        extra: values that the axis holds in any case.
        both_ends: leave far outliers out below, too.
    """
    lows, highs = list(extra), list(extra)
    for group in values:
        known = group[np.isfinite(group)]
        if not len(known):
            continue
        tenth, ninetieth = np.percentile(known, [10, 90])
        reach = 1.5 * (ninetieth - tenth)
        highs.append(float(min(known.max(), ninetieth + reach)))
        lows.append(float(max(known.min(), tenth - reach) if both_ends else known.min()))
    if not highs:
        return 0.0, 1.0
    low, high = min(lows), max(highs)
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 0.5
    return low - margin, high + margin


def with_known(low: float, high: float, known: float | None) -> tuple[float, float]:
    """Axis limits that hold the known form, too, unless it is farther off than the axis is long."""
    if known is None or not 2 * low - high <= known <= 2 * high - low:
        return low, high
    margin = 0.05 * (high - low)
    return min(low, known - margin), max(high, known + margin)


def known_label(axes: Axes, value: float, label: str) -> str:
    """The label of the known form, with its value where the vertical axis does not reach it."""
    low, high = axes.get_ylim()
    return label if low <= value <= high else f"{label} ({value:.3g}, off the scale)"


def known_line(axes: Axes, value: float | None, label: str) -> None:
    """Broken horizontal line where the known form lies, for the legend; nothing for None.

    Call it when the limits of the vertical axis are set.
    """
    if value is not None:
        axes.axhline(
            value, color=TEXT, linewidth=1.1, linestyle=(0, (5, 3)), zorder=1.5,
            label=known_label(axes, value, label),
        )  # fmt: skip


def legend(axes: Axes) -> None:
    """Legend of what has a label, where it covers least; none where nothing has."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8, frameon=True, framealpha=0.85, edgecolor="none", labelcolor=TEXT)
