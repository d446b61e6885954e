"""Panels with the lowest energy so far, by candidates and by compute."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from packflow_core.race.comparison import Comparison
from packflow_core.race.curves import Curve
from packflow_core.race.style import (
    TEXT,
    frame,
    known_line,
    legend,
    short_name,
    style,
    with_known,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Where fewer orders than this found something, a curve is drawn thin and broken.
_MOST = 0.95


def samples_panel(axes: Axes, race: Comparison) -> None:
    """Expected lowest energy after so many candidates."""
    frame(axes, "lowest energy by candidates")
    axes.set_xlabel("candidates", color=TEXT, fontsize=9.5)
    _curves(axes, race, [s.by_samples for s in race.statistics], 1.0)


def compute_panel(axes: Axes, race: Comparison) -> None:
    """Expected lowest energy after so much work."""
    frame(axes, "lowest energy by compute")
    longest = max((c.x[-1] for s in race.statistics if len((c := s.by_compute).x)), default=1.0)
    unit, name = (3600.0, "hours") if longest > 7200 else (60.0, "minutes")
    if longest < 300:
        unit, name = 1.0, "seconds"
    where = "CPU and GPU" if race.uses_gpu else "CPU"
    axes.set_xlabel(f"{where} {name}", color=TEXT, fontsize=9.5)
    _curves(axes, race, [s.by_compute for s in race.statistics], unit)


def _curves(axes: Axes, race: Comparison, curves: list[Curve], unit: float) -> None:
    axes.set_ylabel("lowest energy / kJ mol$^{-1}$", color=TEXT, fontsize=9.5)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
    axes.xaxis.set_minor_formatter(lambda *_: "")
    top = 0.0
    for k, (leg, curve) in enumerate(zip(race.legs, curves, strict=True)):
        look, label = style(k), short_name(leg.name)
        drawn = np.isfinite(curve.value)
        if not drawn.any():
            axes.plot([], [], color=look.colour, ls=look.line, label=f"{label}: none ranked")
            continue
        x = curve.x / unit
        likely = curve.found >= _MOST
        axes.fill_between(
            x[drawn], curve.low[drawn], curve.high[drawn], color=look.colour, alpha=0.16, lw=0,
            zorder=2,
        )  # fmt: skip
        axes.plot(x[drawn], curve.value[drawn], color=look.colour, lw=1.0, ls=":", zorder=3)
        axes.plot(
            x[drawn & likely], curve.value[drawn & likely], color=look.colour, lw=2.0,
            ls=look.line, zorder=4, label=label,
            marker=look.marker, markevery=[-1], ms=6,
        )  # fmt: skip
        top = max(top, float(np.nanmax(curve.value[drawn])))
    margin = 0.06 * top or 0.5
    axes.set_ylim(*with_known(-margin, top + margin, race.scale.known_energy))
    known_line(axes, race.scale.known_energy, "known form, relaxed")
    legend(axes)
