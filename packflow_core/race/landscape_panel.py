"""The panel with density against energy after relaxation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from packflow_core.race.comparison import Comparison
from packflow_core.race.style import (
    FAINT,
    TEXT,
    frame,
    known_label,
    limits,
    short_name,
    style,
    with_known,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Parts of a leg in which points are drawn.
_TURNS = 8


def landscape_panel(axes: Axes, race: Comparison) -> None:
    """Density against energy after relaxation, the known form marked."""
    frame(axes, "density and energy after relaxation")
    axes.set_xlabel("density / g cm$^{-3}$", color=TEXT, fontsize=9.5)
    axes.set_ylabel("relative energy / kJ mol$^{-1}$", color=TEXT, fontsize=9.5)
    scale = race.scale
    energies = [scale.above_zero(leg.energy) for leg in race.legs]
    low, high = with_known(*limits(energies, [0.0]), scale.known_energy)
    ranked = sum(int(np.isfinite(energy).sum()) for energy in energies)
    size = float(np.clip(5000 / max(ranked, 1), 7, 34))
    shown = [np.flatnonzero(np.isfinite(energy) & (energy <= high)) for energy in energies]
    look: dict[str, Any] = {
        "s": size, "alpha": 0.75 if ranked < 1000 else 0.45, "linewidths": 0, "zorder": 3,
        "rasterized": ranked > 2000,
    }  # fmt: skip
    # In turns, so that no leg hides another.
    for turn in range(_TURNS):
        for k, (leg, energy) in enumerate(zip(race.legs, energies, strict=True)):
            part = shown[k][turn::_TURNS]
            axes.scatter(
                leg.density[part], energy[part], marker=style(k).marker, color=style(k).colour,
                label="" if turn else f"{short_name(leg.name)} ({np.isfinite(energy).sum()})",
                **look,
            )  # fmt: skip
    for k, (leg, energy) in enumerate(zip(race.legs, energies, strict=True)):
        hit = shown[k][leg.match[shown[k]]]
        axes.scatter(
            leg.density[hit], energy[hit], s=170, marker="*", facecolors=style(k).colour,
            edgecolors="black", linewidths=0.9, zorder=5,
        )  # fmt: skip
    _known_form(axes, race)
    axes.set_ylim(low, high)
    if hidden := ranked - sum(map(len, shown)):
        axes.annotate(
            f"{hidden} higher, not shown", (1.0, 1.0), xycoords="axes fraction", xytext=(0, 4),
            textcoords="offset points", fontsize=8, color=FAINT, ha="right",
        )  # fmt: skip
    if not ranked:
        axes.set_xticks([])
        axes.set_yticks([])
        axes.text(
            0.5, 0.5, "no ranked candidates", transform=axes.transAxes, ha="center", va="center",
            color=FAINT, fontsize=11,
        )  # fmt: skip
    _landscape_legend(axes, race)


def _known_form(axes: Axes, race: Comparison) -> None:
    scale = race.scale
    if scale.known_density is not None:
        axes.axvline(scale.known_density, color=TEXT, lw=1.1, linestyle=(0, (5, 3)), zorder=1.5)
    if scale.known_energy is not None and scale.known_relaxed_density is not None:
        axes.scatter(
            [scale.known_relaxed_density], [scale.known_energy], s=240, marker="*",
            facecolors="#F0E442", edgecolors="black", linewidths=1.2, zorder=6,
        )  # fmt: skip


def _landscape_legend(axes: Axes, race: Comparison) -> None:
    from matplotlib.lines import Line2D

    handles, labels = axes.get_legend_handles_labels()
    entries: list[Any] = list(handles)

    def star(face: str, size: float, label: str) -> None:
        entries.append(
            Line2D([], [], linestyle="none", marker="*", markersize=size, markerfacecolor=face,
                   markeredgecolor="black")
        )  # fmt: skip
        labels.append(label)

    if any(leg.match.any() for leg in race.legs):
        star("white", 11, "matches the known form")
    if race.scale.known_energy is not None:
        star("#F0E442", 13, known_label(axes, race.scale.known_energy, "known form, relaxed"))
    if race.scale.known_density is not None:
        entries.append(Line2D([], [], color=TEXT, lw=1.1, linestyle=(0, (5, 3))))
        labels.append("its density in the CIF")
    axes.legend(
        entries, labels, fontsize=8, frameon=True, framealpha=0.85, edgecolor="none",
        loc="best", labelcolor=TEXT,
    )  # fmt: skip
