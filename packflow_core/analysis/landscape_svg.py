"""The energy landscape as SVG inside of a page: colours follow the page, a script adds the rest.

The picture is complete without the script; `LandscapeSvg.data` lets the script name the point
under the pointer and find its line in the table.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from markupsafe import Markup, escape

from packflow_core.analysis.export import format_match
from packflow_core.analysis.landscape import LandscapeOptions, space_group_series
from packflow_core.store.rows import Row

WIDTH, HEIGHT = 960, 520
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 185, 22, 56


@dataclass(frozen=True)
class LandscapeSvg:
    """A drawn landscape.

    Attributes:
        svg: the element; text from outside is escaped.
        data: lists of equal length, a point each, in the order of rank: `x`, `y` (in the units of
            the drawing), `rank`, `id`, `energy`, `lattice`, `density`, `group`, `cluster`,
            `found`, `kept` (not a duplicate) and `match`.
    """

    svg: Markup
    data: dict[str, list[Any]] = field(default_factory=dict)


def landscape_svg(rows: Sequence[Row], options: LandscapeOptions) -> LandscapeSvg:
    """Draw the ranked candidates below the window of energy.

    Args:
        rows: of the rank stage.
        options: titles and theme are not used.
    """
    ranked = [row for row in rows if row.get("lattice_energy_rel_kJ_mol") is not None]
    shown = [r for r in ranked if r["lattice_energy_rel_kJ_mol"] <= options.window_kJ_mol]
    if not shown:
        return LandscapeSvg(Markup(""))
    shown.sort(key=lambda row: (row.get("rank") is None, row.get("rank") or 0))
    plane = _Plane.around(shown, options)
    place = {id(row): plane.place(row) for row in shown}
    parts = [*plane.axes(), *_reference(plane, options)]
    size = float(np.clip(90 / math.sqrt(len(shown)), 2.6, 5.5))
    legend: list[tuple[str, str, str]] = []
    layers: dict[bool, list[str]] = {False: [], True: []}  # duplicates lie below all others
    for label, (colour, marker), members in space_group_series(shown):
        name = label if label in ("other", "unknown") else symbol_spans(label)
        legend.append((f"{name} ({len(members)})", colour, marker))
        for kept in (False, True):
            at = [place[id(r)] for r in members if bool(r.get("representative", True)) is kept]
            if at:
                path = "".join(_marker(marker, x, y, size if kept else 0.85 * size) for x, y in at)
                style = (
                    f'fill="{colour}" stroke="var(--back)" stroke-width="0.6"'
                    if kept
                    else f'fill="none" stroke="{colour}" stroke-width="1.1" opacity="0.75"'
                )
                layers[kept].append(f'<path d="{path}" {style}/>')
    parts += [*layers[False], *layers[True]]
    matches = [place[id(row)] for row in shown if row.get("matches_reference")]
    if matches:
        stars = "".join(_marker("*", x, y, 10.0) for x, y in matches)
        parts.append(f'<path d="{stars}" class="star"/>')
    parts += _legend(legend, shown, options)
    hidden = len(ranked) - len(shown)
    if hidden:
        parts.append(
            _text(_LEFT, 12, f"{hidden} candidate{'s' if hidden > 1 else ''} above "
                  f"{options.window_kJ_mol:g} kJ/mol not shown", "faint")
        )  # fmt: skip
    label = (
        "Density in g/cm3 against relative lattice energy in kJ/mol of all ranked candidates. "
        "Arrow keys go through them by rank, Enter goes to the line of the table."
    )
    svg = (
        f'<svg class="landscape" viewBox="0 0 {WIDTH} {HEIGHT}" tabindex="0" role="application" '
        f'aria-label="{label}" xmlns="http://www.w3.org/2000/svg">{"".join(parts)}'
        '<circle class="mark" r="10" cx="0" cy="0" visibility="hidden"/></svg>'
    )
    return LandscapeSvg(Markup(svg), _data(shown, place))  # text is escaped above


def _data(rows: list[Row], place: dict[int, tuple[float, float]]) -> dict[str, list[Any]]:
    def rounded(name: str, decimals: int) -> list[float | None]:
        return [None if (v := row.get(name)) is None else round(float(v), decimals) for row in rows]

    return {
        "x": [place[id(row)][0] for row in rows],
        "y": [place[id(row)][1] for row in rows],
        "rank": [row.get("rank") for row in rows],
        "id": [str(row["candidate_id"]) for row in rows],
        "energy": rounded("lattice_energy_rel_kJ_mol", 2),
        "lattice": rounded("lattice_energy_kJ_mol", 1),
        "density": rounded("density_g_cm3", 3),
        "group": [str(row.get("space_group") or "unknown") for row in rows],
        "cluster": [row.get("cluster") for row in rows],
        "found": [int(row.get("cluster_size") or 1) for row in rows],
        "kept": [int(bool(row.get("representative", True))) for row in rows],
        "match": [
            format_match(row) if row.get("matches_reference") is not None else "" for row in rows
        ],
    }


@dataclass(frozen=True)
class _Plane:
    """Density and energy to places in the drawing."""

    x0: float
    x1: float
    y0: float
    y1: float

    @classmethod
    def around(cls, rows: list[Row], options: LandscapeOptions) -> _Plane:
        x = [float(row["density_g_cm3"]) for row in rows]
        if options.reference_density is not None:
            x.append(options.reference_density)
        margin = max(0.04 * (max(x) - min(x)), 0.01)
        top = max(float(row["lattice_energy_rel_kJ_mol"]) for row in rows)
        top = max(top, min(5.0, options.window_kJ_mol))
        return cls(min(x) - margin, max(x) + margin, -0.05 * top, 1.06 * top)

    def place(self, row: Row) -> tuple[float, float]:
        return (
            self.x(float(row["density_g_cm3"])),
            self.y(float(row["lattice_energy_rel_kJ_mol"])),
        )

    def x(self, density: float) -> float:
        share = (density - self.x0) / (self.x1 - self.x0)
        return round(_LEFT + share * (WIDTH - _LEFT - _RIGHT), 1)

    def y(self, energy: float) -> float:
        share = (energy - self.y0) / (self.y1 - self.y0)
        return round(HEIGHT - _BOTTOM - share * (HEIGHT - _TOP - _BOTTOM), 1)

    def axes(self) -> list[str]:
        right, bottom = WIDTH - _RIGHT, HEIGHT - _BOTTOM
        parts = []
        for value, label in ticks(self.x0, self.x1, 8):
            x = self.x(value)
            parts.append(f'<path class="grid" d="M{x} {_TOP}V{bottom}"/>')
            parts.append(_text(x, bottom + 18, label, anchor="middle"))
        for value, label in ticks(self.y0, self.y1, 7):
            y = self.y(value)
            parts.append(f'<path class="grid" d="M{_LEFT} {y}H{right}"/>')
            parts.append(_text(_LEFT - 8, y + 4, label, anchor="end"))
        parts.append(f'<path class="axis" d="M{_LEFT} {_TOP}V{bottom}H{right}"/>')
        middle = 0.5 * (_LEFT + right)
        parts.append(_text(middle, HEIGHT - 12, "density / g cm⁻³", anchor="middle"))
        parts.append(
            f'<text transform="translate(20 {0.5 * (_TOP + bottom):.0f}) rotate(-90)" '
            'text-anchor="middle">relative lattice energy / kJ mol⁻¹</text>'
        )
        return parts


def ticks(low: float, high: float, about: int) -> list[tuple[float, str]]:
    """Round values between two limits with their labels, about so many."""
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(f * power for f in (1.0, 2.0, 2.5, 5.0, 10.0) if f * power >= raw * 0.999)
    decimals = next(d for d in range(12) if abs(round(step, d) - step) < 1e-9 * step)
    first = math.ceil(low / step - 1e-9)
    values = [k * step for k in range(first, math.floor(high / step + 1e-9) + 1)]
    return [(value, f"{value + 0.0:.{decimals}f}") for value in values]


def _reference(plane: _Plane, options: LandscapeOptions) -> Iterable[str]:
    if options.reference_density is not None:
        x = plane.x(options.reference_density)
        yield f'<path class="reference" d="M{x} {_TOP}V{HEIGHT - _BOTTOM}"/>'


def _legend(
    series: list[tuple[str, str, str]], rows: list[Row], options: LandscapeOptions
) -> list[str]:
    """Beside the axes, so that it covers no point."""
    x, parts = WIDTH - _RIGHT + 22, []
    lines: list[tuple[str, str]] = [
        (f'<path d="{_marker(marker, x, 0, 5)}" fill="{colour}"/>', label)
        for label, colour, marker in series
    ]
    if not all(bool(row.get("representative", True)) for row in rows):
        hollow = f'<path d="{_marker("o", x, 0, 5)}" fill="none" stroke="currentColor"/>'
        lines.append((hollow, "duplicate"))
    if any(row.get("matches_reference") for row in rows):
        lines.append((f'<path class="star" d="{_marker("*", x, 0, 8)}"/>', "match"))
    if options.reference_density is not None:
        dashes = f'<path class="reference" d="M{x - 9} 0H{x + 9}"/>'
        name = options.reference_label
        lines.append((dashes, escape(f"{name[:14] + '…' if len(name) > 15 else name} density")))
    for k, (symbol, label) in enumerate(lines):
        y = _TOP + 12 + 21 * k
        text = _text(x + 15, 4, Markup(label))  # escaped where it was made
        parts.append(f'<g transform="translate(0 {y})">{symbol}{text}</g>')
    return parts


def symbol_spans(symbol: str) -> str:
    """Hermann-Mauguin symbol as escaped SVG text: an index set lower, a bar above."""
    text = str(escape(symbol))
    text = re.sub(r"-(\d)", r'<tspan text-decoration="overline">\1</tspan>', text)
    lower = r'<tspan dy="3" font-size="9">\1</tspan><tspan dy="-3">&#8203;</tspan>'
    return re.sub(r"_(\d)", lower, text)


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> str:
    style = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{style}>{escape(text)}</text>'


#: Corners of the markers in units of their size; matplotlib's letters.
_CORNERS: dict[str, tuple[tuple[float, float], ...]] = {
    "s": ((-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)),
    "^": ((0, -1.1), (1.05, 0.85), (-1.05, 0.85)),
    "v": ((0, 1.1), (1.05, -0.85), (-1.05, -0.85)),
    "D": ((0, -1.2), (1.2, 0), (0, 1.2), (-1.2, 0)),
    "P": (
        (-0.4, -1.1), (0.4, -1.1), (0.4, -0.4), (1.1, -0.4), (1.1, 0.4), (0.4, 0.4),
        (0.4, 1.1), (-0.4, 1.1), (-0.4, 0.4), (-1.1, 0.4), (-1.1, -0.4), (-0.4, -0.4),
    ),
    "*": tuple(
        (math.sin(math.pi * k / 5) * r, -math.cos(math.pi * k / 5) * r)
        for k, r in enumerate([1.0, 0.4] * 5)
    ),
}  # fmt: skip


def _marker(shape: str, x: float, y: float, size: float) -> str:
    """Outline of a marker as path data."""
    if shape == "o":
        r = round(size, 1)
        return f"M{x - r:.1f} {y:.1f}a{r} {r} 0 1 0 {2 * r:.1f} 0a{r} {r} 0 1 0 {-2 * r:.1f} 0z"
    corners = " ".join(f"{x + size * u:.1f} {y + size * v:.1f}" for u, v in _CORNERS[shape])
    return f"M{corners}z"
