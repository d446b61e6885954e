"""Panels with a violin for each leg: densities and energies before and after relaxation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from packflow_core.race.comparison import Comparison
from packflow_core.race.style import (
    FAINT,
    TEXT,
    frame,
    known_line,
    legend,
    limits,
    short_name,
    style,
    with_known,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FloatArray = NDArray[np.float64]

#: A violin of fewer values would be a guess; they are drawn as points.
_VIOLIN_MIN = 8
_POINTS_MAX = 250


def density_panel(axes: Axes, race: Comparison, *, after: bool) -> None:
    """Densities before or after relaxation, with that of the known form."""
    frame(axes, "density after relaxation" if after else "density before relaxation")
    values = [leg.density if after else leg.density_start for leg in race.legs]
    axes.set_ylabel("density / g cm$^{-3}$", color=TEXT, fontsize=9.5)
    everything = [leg.density_start for leg in race.legs] + [leg.density for leg in race.legs]
    scale = race.scale
    low, high = limits(everything, both_ends=True)
    for known in (scale.known_density, scale.density_after):
        low, high = with_known(low, high, known)
    _violins(axes, race, values, low, high)
    relaxed = ", relaxed" if scale.known_relaxed_density is not None else ""
    if after:
        known_line(axes, scale.density_after, f"known form{relaxed}")
    else:
        known_line(axes, scale.known_density, "known form")
    legend(axes)


def energy_panel(axes: Axes, race: Comparison, *, after: bool) -> None:
    """Energies above the common zero before or after relaxation."""
    frame(axes, "energy after relaxation" if after else "energy before relaxation")
    scale = race.scale
    values = [
        scale.above_zero(leg.energy) if after else scale.start_above_zero(leg.energy_start)
        for leg in race.legs
    ]
    axes.set_ylabel("relative energy / kJ mol$^{-1}$", color=TEXT, fontsize=9.5)
    known = scale.known_energy if after else None
    low, high = with_known(*limits(values, [0.0]), known)
    _violins(axes, race, values, low, high)
    known_line(axes, known, "known form, relaxed")
    legend(axes)


def _violins(
    axes: Axes, race: Comparison, values: list[FloatArray], low: float, high: float
) -> None:
    for k, group in enumerate(values):
        look = style(k)
        known = group[np.isfinite(group)]
        inside = known[(known >= low) & (known <= high)]
        if len(inside) >= _VIOLIN_MIN and np.ptp(inside) > 1e-9 * (high - low):
            _violin(axes, k, inside, look.colour)
        if len(inside) <= _POINTS_MAX:
            axes.scatter(
                k + _jitter(len(inside)), np.sort(inside), s=9, marker=look.marker,
                color=look.colour, alpha=0.75, linewidths=0, zorder=3,
            )  # fmt: skip
        if len(known):
            first, median, third = np.percentile(known, [25, 50, 75])
            axes.plot([k, k], np.clip([first, third], low, high), color=TEXT, lw=3.2, zorder=4,
                      solid_capstyle="butt")  # fmt: skip
            if low <= median <= high:
                axes.plot(k, median, "o", ms=5.5, color="white", mec=TEXT, mew=1.2, zorder=5)
        else:
            axes.text(
                k, 0.5, "none", transform=axes.get_xaxis_transform(), ha="center", va="center",
                color=FAINT, fontsize=9, rotation=90,
            )  # fmt: skip
        hidden = int((known > high).sum()), int((known < low).sum())
        for count, at, side in ((hidden[0], 0.995, "top"), (hidden[1], 0.005, "bottom")):
            if count:
                arrow = "↑" if side == "top" else "↓"
                axes.text(
                    k, at, f"{count} {arrow}", transform=axes.get_xaxis_transform(), ha="center",
                    va=side, fontsize=8, color=FAINT,
                )  # fmt: skip
    axes.set_xlim(-0.6, len(values) - 0.4)
    axes.set_ylim(low, high)
    axes.grid(False, axis="x")
    crowded = len(values) > 3
    axes.set_xticks(
        range(len(values)),
        [
            f"{short_name(leg.name)}\n({int(np.isfinite(group).sum())})"
            for leg, group in zip(race.legs, values, strict=True)
        ],
        rotation=35 if crowded else 0,
        ha="right" if crowded else "center",
    )


def _violin(axes: Axes, place: int, values: FloatArray, colour: str) -> None:
    from scipy.stats import gaussian_kde

    grid = np.linspace(values.min(), values.max(), 160)
    width = gaussian_kde(values)(grid)
    width *= 0.4 / width.max()
    axes.fill_betweenx(
        grid, place - width, place + width, facecolor=colour, alpha=0.28, edgecolor=colour,
        linewidth=1.1, zorder=2,
    )  # fmt: skip


def _jitter(n: int) -> FloatArray:
    """[n] offsets inside a violin: even, and the same every time."""
    return np.asarray(0.22 * (np.mod(np.arange(n) * 0.6180339887, 1.0) - 0.5), dtype=np.float64)
