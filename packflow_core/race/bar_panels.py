"""Panels with a row for each leg: outcomes, rates, basins."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from packflow_core.race.comparison import Comparison
from packflow_core.race.legs import Outcome
from packflow_core.race.style import FAINT, TEXT, frame, short_name, style
from packflow_core.race.tables import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Fills of the ways a candidate can end, dark to light; the last is hatched.
_OUTCOMES = {
    Outcome.RANKED: ("#3b4754", ""),
    Outcome.UNCONVERGED: ("#8fa0b3", ""),
    Outcome.REJECTED: ("#d5dce4", ""),
    Outcome.FAILED: ("#ffffff", "////"),
}


def outcomes_panel(axes: Axes, race: Comparison) -> None:
    """What became of the candidates, as shares of all that were attempted."""
    frame(axes, "what became of the candidates")
    left = np.zeros(len(race.legs))
    for outcome, (face, hatch) in _OUTCOMES.items():
        share = np.array(
            [100.0 * leg.counts()[outcome] / len(leg) if len(leg) else 0.0 for leg in race.legs]
        )
        axes.barh(
            range(len(race.legs)), share, left=left, height=0.62, facecolor=face, hatch=hatch,
            edgecolor="#3b4754", linewidth=0.7, label=outcome.value,
        )  # fmt: skip
        for k, value in enumerate(share):
            if value >= 9:
                axes.text(
                    left[k] + value / 2, k, f"{race.legs[k].counts()[outcome]}", ha="center",
                    va="center", fontsize=8.5,
                    color="white" if outcome is Outcome.RANKED else TEXT,
                    bbox=None if not hatch else {"fc": "white", "ec": "none", "pad": 1.0},
                )  # fmt: skip
        left += share
    axes.set_xlim(0, 100)
    axes.set_xlabel("% of the candidates", color=TEXT, fontsize=9.5)
    _leg_rows(axes, race, [f"({len(leg)})" for leg in race.legs])
    axes.legend(
        fontsize=8, ncols=2, frameon=False, loc="upper center", bbox_to_anchor=(0.5, 0.0),
        borderaxespad=4.5, labelcolor=TEXT, handlelength=1.4, columnspacing=1.2,
    )  # fmt: skip


def rate_panel(axes: Axes, race: Comparison, metric: str, title: str, noun: str) -> None:
    """Events per hour of each leg with their intervals; `metric` is "hits" or "low_energy"."""
    device = "gpu" if race.uses_gpu else "cpu"
    frame(axes, title)
    axes.set_xlabel(f"per {device.upper()} hour", color=TEXT, fontsize=9.5)
    right = 0.0
    notes: list[tuple[float, int, str]] = []
    for k, leg in enumerate(race.legs):
        look = style(k)
        rate = race.metric(leg.name, f"{metric}_per_{device}_hour")
        count = race.metric(leg.name, metric)
        if rate is None or count is None or not math.isfinite(rate.high):
            axes.text(
                0.02, k, "no time spent" if count else "no reference", fontsize=8.5, color=FAINT,
                transform=axes.get_yaxis_transform(), va="center",
            )  # fmt: skip
            continue
        right = max(right, rate.high)
        if count.value:
            axes.plot([rate.low, rate.high], [k, k], color=look.colour, lw=2.2, zorder=3)
            axes.plot(rate.value, k, look.marker, color=look.colour, ms=8, zorder=4)
            text = f"{count.value:g} {noun}{'s' if count.value != 1 else ''}"
        else:
            axes.plot([0, rate.high], [k, k], color=look.colour, lw=1.4, ls=":", zorder=3)
            axes.plot(rate.high, k, "<", color=look.colour, ms=8, mfc="white", zorder=4)
            text = f"none: below {number(rate.high)}"
        notes.append((rate.value if count.value else rate.high, k, text))
    limit = 1.15 * right if right > 0 else 1.0
    for x, k, text in notes:
        side = "left" if x < 0.25 * limit else "right" if x > 0.75 * limit else "center"
        axes.annotate(
            text, (x, k), xytext=(0, 9), textcoords="offset points", fontsize=8.5, color=TEXT,
            ha=side, annotation_clip=False,
        )  # fmt: skip
    axes.set_xlim(0, limit)
    _leg_rows(axes, race)


def basins_panel(axes: Axes, race: Comparison) -> None:
    """Distinct structures inside the window, shared with another leg or not."""
    frame(axes, f"basins within {race.settings.window_kJ_mol:g} kJ/mol")
    axes.set_xlabel("distinct structures; hatched: found here alone", color=TEXT, fontsize=9.5)
    largest = 0.0
    for k, leg in enumerate(race.legs):
        total = race.metric(leg.name, "basins")
        alone = race.metric(leg.name, "basins_only_here")
        if total is None or alone is None:
            continue
        both = total.value - alone.value
        colour = style(k).colour
        label = {"also elsewhere": (both, 0.0, ""), "only here": (alone.value, both, "////")}
        for value, left, hatch in label.values():
            axes.barh(
                k, value, left=left, height=0.58, facecolor=colour if not hatch else "white",
                edgecolor=colour, hatch=hatch, linewidth=1.0, alpha=0.85,
            )  # fmt: skip
        if math.isfinite(total.low):
            axes.plot([total.low, total.high], [k + 0.38, k + 0.38], color=TEXT, lw=1.2)
        axes.annotate(
            f"{total.value:g} ({both:g} shared)", (total.value, k), xytext=(4, 0),
            textcoords="offset points", va="center", fontsize=8.5, color=TEXT,
        )  # fmt: skip
        largest = max(largest, total.value, total.high if math.isfinite(total.high) else 0.0)
    axes.set_xlim(0, 1.45 * largest if largest else 1.0)
    _leg_rows(axes, race)


def _leg_rows(axes: Axes, race: Comparison, extra: list[str] | None = None) -> None:
    names = [short_name(leg.name) for leg in race.legs]
    if extra:
        names = [f"{name}\n{more}" for name, more in zip(names, extra, strict=True)]
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.45, -0.6)
    axes.grid(False, axis="y")
