"""The energy landscape: density against relative lattice energy, drawn without a display.

Only matplotlib's object interface is used (no pyplot), so that drawing in a worker, a thread or a
web server leaves no state behind.
"""

from __future__ import annotations

import io
import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from packflow_core.store.rows import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Theme = Literal["light", "dark"]

#: Colour-blind-safe hues with a marker each, so that a grey print can be read as well
#: (Okabe and Ito, 2008).
_SERIES = (
    ("#0072B2", "o"), ("#D55E00", "s"), ("#009E73", "^"), ("#CC79A7", "D"), ("#E69F00", "v"),
)  # fmt: skip
_OTHERS = ("#888888", "P")
_THEMES: dict[Theme, dict[str, str]] = {
    "light": {"text": "#1b1f24", "faint": "#8a939d", "grid": "#e4e7eb", "back": "#ffffff"},
    "dark": {"text": "#e6e9ed", "faint": "#8d96a0", "grid": "#2d333b", "back": "#161a1f"},
}
_STAR: dict[Theme, str] = {"light": "#000000", "dark": "#F0E442"}
DEFAULT_WINDOW_KJ_MOL = 60.0
_LABEL_BOX = (0.34, 0.10)


@dataclass(frozen=True)
class LandscapeOptions:
    """What a landscape shows besides its candidates.

    Attributes:
        title: first line, for example the target.
        subtitle: second line, for example engine and generator.
        reference_density: of the known form in g/cm3, drawn as a vertical line.
        reference_label: name of the known form.
        window_kJ_mol: highest energy shown; candidates above are counted in a note.
        theme: colours for a light or a dark page.
    """

    title: str = ""
    subtitle: str = ""
    reference_density: float | None = None
    reference_label: str = "reference"
    window_kJ_mol: float = DEFAULT_WINDOW_KJ_MOL
    theme: Theme = "light"


def landscape_png(
    rows: Sequence[Row], path: str | Path, options: LandscapeOptions | None = None
) -> Path:
    """Draw the landscape of rank rows to a PNG file and return its path."""
    out = Path(path)
    out.write_bytes(landscape_bytes(rows, options))
    return out


def landscape_bytes(rows: Sequence[Row], options: LandscapeOptions | None = None) -> bytes:
    """The landscape of rank rows as PNG."""
    buffer = io.BytesIO()
    # No software and date stamps: the same rows give the same bytes.
    landscape_figure(rows, options).savefig(
        buffer, format="png", dpi=150, metadata={"Software": None}
    )
    return buffer.getvalue()


def landscape_figure(rows: Sequence[Row], options: LandscapeOptions | None = None) -> Figure:
    """The landscape of rank rows as a matplotlib figure, 8 x 5.4 inches.

    Ranked candidates only. The colour and marker tell the space group (the most frequent five;
    the rest is "other"), filled symbols are cluster representatives, hollow ones duplicates, a
    star is a candidate that matches the reference.
    """
    from matplotlib.figure import Figure

    chosen = options or LandscapeOptions()
    colours = _THEMES[chosen.theme]
    figure = Figure(figsize=(8.0, 5.4), facecolor=colours["back"], layout="constrained")
    axes = figure.add_subplot()
    _style(axes, colours)
    _titles(figure, chosen, colours)
    ranked = [row for row in rows if row.get("lattice_energy_rel_kJ_mol") is not None]
    shown = [r for r in ranked if r["lattice_energy_rel_kJ_mol"] <= chosen.window_kJ_mol]
    if not shown:
        axes.set_xticks([])
        axes.set_yticks([])
        axes.text(
            0.5, 0.5, "no ranked candidates", transform=axes.transAxes, ha="center", va="center",
            color=colours["faint"], fontsize=13,
        )  # fmt: skip
        return figure
    _limits(axes, shown, chosen)
    _reference_line(axes, chosen, colours)
    _points(axes, shown, colours)
    _matches(axes, shown, chosen, colours)
    _legend(axes, shown, chosen, colours)
    hidden = len(ranked) - len(shown)
    if hidden:
        axes.annotate(
            f"{hidden} candidate{'s' if hidden > 1 else ''} above "
            f"{chosen.window_kJ_mol:g} kJ/mol not shown",
            (0.0, 1.0), xycoords="axes fraction", xytext=(0, 5), textcoords="offset points",
            ha="left", va="bottom", fontsize=8.5, color=colours["faint"],
        )  # fmt: skip
    return figure


def _style(axes: Axes, colours: dict[str, str]) -> None:
    axes.set_facecolor(colours["back"])
    axes.grid(True, color=colours["grid"], linewidth=0.8)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(colours["faint"])
    axes.tick_params(colors=colours["text"], labelsize=10)
    axes.set_xlabel("density / g cm$^{-3}$", color=colours["text"], fontsize=11)
    axes.set_ylabel("relative lattice energy / kJ mol$^{-1}$", color=colours["text"], fontsize=11)


def _titles(figure: Figure, options: LandscapeOptions, colours: dict[str, str]) -> None:
    # User text: a dollar sign is a dollar sign, not mathematics.
    lines = textwrap.wrap(options.title, 78, max_lines=2, placeholder=" …")
    lines += textwrap.wrap(options.subtitle, 96, max_lines=2, placeholder=" …")
    if lines:
        figure.suptitle(
            "\n".join(lines), color=colours["text"], fontsize=11.5, x=0.02, ha="left",
            parse_math=False,
        )  # fmt: skip


def _limits(axes: Axes, rows: list[Row], options: LandscapeOptions) -> None:
    x = [float(row["density_g_cm3"]) for row in rows]
    if options.reference_density is not None:
        x.append(options.reference_density)
    margin = max(0.04 * (max(x) - min(x)), 0.01)
    axes.set_xlim(min(x) - margin, max(x) + margin)
    top = max(float(row["lattice_energy_rel_kJ_mol"]) for row in rows)
    top = max(top, min(5.0, options.window_kJ_mol))
    axes.set_ylim(-0.05 * top, 1.06 * top)


def space_group_series(rows: Sequence[Row]) -> list[tuple[str, tuple[str, str], list[Row]]]:
    """Label, (colour, marker) and rows by space group, the most frequent first, then others."""
    counts = Counter(str(row.get("space_group") or "unknown") for row in rows)
    names = sorted(counts, key=lambda name: (-counts[name], name))[: len(_SERIES)]
    groups = [
        (name, style, [r for r in rows if str(r.get("space_group") or "unknown") == name])
        for name, style in zip(names, _SERIES, strict=False)
    ]
    rest = [r for r in rows if str(r.get("space_group") or "unknown") not in names]
    return [*groups, ("other", _OTHERS, rest)] if rest else groups


def _points(axes: Axes, rows: list[Row], colours: dict[str, str]) -> None:
    size = float(np.clip(6000 / max(len(rows), 1), 14, 48))
    for _, (colour, marker), members in space_group_series(rows):
        for filled in (False, True):
            part = [r for r in members if bool(r.get("representative", True)) is filled]
            if not part:
                continue
            axes.scatter(
                [r["density_g_cm3"] for r in part],
                [r["lattice_energy_rel_kJ_mol"] for r in part],
                s=size if filled else 0.7 * size,
                marker=marker,
                facecolors=colour if filled else "none",
                edgecolors=colours["back"] if filled else colour,
                linewidths=0.6 if filled else 1.0,
                alpha=0.95 if filled else 0.7,
                zorder=4 if filled else 3,
            )


def _reference_line(axes: Axes, options: LandscapeOptions, colours: dict[str, str]) -> None:
    if options.reference_density is None:
        return
    axes.axvline(
        options.reference_density, color=colours["faint"], linewidth=1.2, linestyle=(0, (5, 4)),
        zorder=2,
    )  # fmt: skip


def _matches(
    axes: Axes, rows: list[Row], options: LandscapeOptions, colours: dict[str, str]
) -> None:
    found = [row for row in rows if row.get("matches_reference")]
    if not found:
        return
    star: dict[str, Any] = {"marker": "*", "facecolors": "#F0E442", "linewidths": 1.1}
    axes.scatter(
        [r["density_g_cm3"] for r in found],
        [r["lattice_energy_rel_kJ_mol"] for r in found],
        s=230, edgecolors=_STAR[options.theme], zorder=6, **star,
    )  # fmt: skip
    best = min(found, key=lambda row: float(row["lattice_energy_rel_kJ_mol"]))
    rank, rmsd = best.get("rank"), best.get("match_rmsd_A")
    name = textwrap.shorten(options.reference_label, 24, placeholder="…")
    text = f"matches {name}"
    text += f"\nrank {rank}" if rank is not None else ""
    text += f", RMSD {rmsd:.2f} Å" if rmsd is not None else ""
    _label(axes, text, best, rows, colours)


def _label(axes: Axes, text: str, row: Row, rows: list[Row], colours: dict[str, str]) -> None:
    """Text with a leader to a point, where it covers the fewest other points.

    All positions are fractions of the axes; `_LABEL_BOX` is about the size of three short lines.
    """
    x0, x1, y0, y1 = *axes.get_xlim(), *axes.get_ylim()
    points = np.array(
        [[r["density_g_cm3"], r["lattice_energy_rel_kJ_mol"]] for r in rows], dtype=np.float64
    )
    points = (points - [x0, y0]) / [x1 - x0, y1 - y0]
    own = (np.array([row["density_g_cm3"], row["lattice_energy_rel_kJ_mol"]]) - [x0, y0]) / [
        x1 - x0,
        y1 - y0,
    ]
    width, height = _LABEL_BOX
    grid = np.stack(
        np.meshgrid(np.arange(0.01, 1 - width, 0.03), np.arange(0.02, 1 - height, 0.03)), axis=-1
    ).reshape(-1, 2)
    inside = (points[None] >= grid[:, None] - 0.01) & (
        points[None] <= grid[:, None] + [width + 0.01, height + 0.01]
    )
    covered = inside.all(axis=-1).sum(axis=1)
    middle = np.add(grid, (width / 2, height / 2))
    away = np.hypot(*(middle - own).T)
    best = int(np.lexsort((away, covered + 50 * (away < 0.12)))[0])
    axes.annotate(
        text, (float(own[0]), float(own[1])), xycoords="axes fraction",
        xytext=(float(middle[best, 0]), float(middle[best, 1])),
        textcoords="axes fraction",
        ha="center", va="center", fontsize=9, fontweight="bold", color=colours["text"], zorder=7,
        parse_math=False,
        bbox={"boxstyle": "round,pad=0.3", "fc": colours["back"], "ec": colours["faint"],
              "lw": 0.8, "alpha": 0.92},
        arrowprops={"arrowstyle": "-", "color": colours["text"], "lw": 0.9, "shrinkB": 9},
    )  # fmt: skip


def _legend(
    axes: Axes, rows: list[Row], options: LandscapeOptions, colours: dict[str, str]
) -> None:
    """Outside of the axes, so that it covers no point."""
    from matplotlib.lines import Line2D

    def entry(label: str, colour: str, marker: str, *, filled: bool = True, **more: Any) -> Line2D:
        face = colour if filled else "none"
        return Line2D(
            [], [], linestyle="none", marker=marker, label=label, markersize=7,
            markerfacecolor=face, markeredgecolor=more.pop("edge", colour), **more,
        )  # fmt: skip

    handles = [
        entry(f"{_math_symbol(name)} ({len(members)})", colour, marker)
        for name, (colour, marker), members in space_group_series(rows)
    ]
    if not all(bool(row.get("representative", True)) for row in rows):
        handles.append(entry("duplicate", colours["text"], "o", filled=False))
    if any(row.get("matches_reference") for row in rows):
        handles.append(entry("match", "#F0E442", "*", edge=_STAR[options.theme]))
    if options.reference_density is not None:
        label = textwrap.shorten(options.reference_label, 18, placeholder="…").replace("$", r"\$")
        handles.append(
            Line2D([], [], color=colours["faint"], linestyle=(0, (5, 4)), label=f"{label} density")
        )
    axes.legend(
        handles=handles, loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False, fontsize=9,
        labelcolor=colours["text"], borderaxespad=0.0, handletextpad=0.4,
    )  # fmt: skip


def _math_symbol(symbol: str) -> str:
    """Hermann-Mauguin symbol for matplotlib: ``P2_1/c`` with an index, ``P-1`` with a bar."""
    if symbol in ("other", "unknown") or not all(c.isalnum() or c in "-_/" for c in symbol):
        return symbol.replace("$", r"\$")
    out, k = "", 0
    while k < len(symbol):
        if symbol[k] == "-" and k + 1 < len(symbol):
            out, k = out + rf"\overline{{{symbol[k + 1]}}}", k + 2
        elif symbol[k] == "_" and k + 1 < len(symbol):
            out, k = out + f"_{symbol[k + 1]}", k + 2
        elif symbol[k].isalpha():
            out, k = out + rf"\mathit{{{symbol[k]}}}", k + 1
        else:
            out, k = out + symbol[k], k + 1
    return f"${out}$"
