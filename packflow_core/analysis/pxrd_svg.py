"""Powder patterns of the best structures as SVG inside of a page, one above the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from packflow_core.analysis.landscape_svg import symbol_spans, ticks
from packflow_core.store.rows import Row

WIDTH = 960
_LEFT, _RIGHT, _TOP, _BOTTOM = 24, 185, 10, 50
_LANE = 74
#: Points of a curve; each is the highest of the points it stands for, so that no peak is lost.
_POINTS = 1200


def pxrd_svg(rows: Sequence[Row], number: int = 5) -> Markup:
    """Draw the patterns of the first rows that have one.

    Args:
        rows: of `analysis.pxrd_table.SCHEMA`, best first.
        number: of patterns.

    Returns:
        The element; empty where no row has a pattern.
    """
    shown = [row for row in rows if len(row.get("intensity") or ()) > 1][:number]
    if not shown:
        return Markup("")
    low = min(float(row["start_deg"]) for row in shown)
    high = max(_end(row) for row in shown)
    right, bottom = WIDTH - _RIGHT, _TOP + _LANE * len(shown)

    def across(angle: Any) -> Any:
        return _LEFT + (angle - low) / (high - low) * (right - _LEFT)

    parts = []
    for value, label in ticks(low, high, 10):
        x = float(across(value))
        parts.append(f'<path class="grid" d="M{x:.1f} {_TOP}V{bottom}"/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{label}</text>')
    for k, row in enumerate(shown):
        base = _TOP + _LANE * (k + 1) - 4
        angle, height = _thinned(row)
        y = base - (_LANE - 12) * np.clip(height, 0, 100) / 100
        points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(across(angle), y, strict=True))
        parts.append(f'<polyline class="pattern" points="{points}"/>')
        group = symbol_spans(str(row.get("space_group") or "?"))
        likeness = row.get("similarity_scaled")
        more = f"likeness {likeness:.3f}" if likeness is not None else ""
        parts.append(
            f'<text x="{right + 12}" y="{base - 26}">Rank {int(row["rank"])}, {group}</text>'
            f'<text x="{right + 12}" y="{base - 9}" class="faint">{more}</text>'
        )
    parts.append(f'<path class="axis" d="M{_LEFT} {bottom}H{right}"/>')
    parts.append(
        f'<text x="{0.5 * (_LEFT + right):.0f}" y="{bottom + 40}" text-anchor="middle">'
        "2θ / degrees</text>"
    )
    body = "".join(parts)
    return Markup(  # the only text from outside is escaped above
        f'<svg class="plot" viewBox="0 0 {WIDTH} {bottom + _BOTTOM}" role="img" '
        'aria-label="Simulated powder patterns of the best structures" '
        f'xmlns="http://www.w3.org/2000/svg">{body}</svg>'
    )


def _end(row: Row) -> float:
    return float(row["start_deg"]) + float(row["step_deg"]) * (len(row["intensity"]) - 1)


def _thinned(row: Row) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    height = np.asarray(row["intensity"], dtype=np.float64)
    angle = np.linspace(float(row["start_deg"]), _end(row), len(height))
    step = -(-len(height) // _POINTS)
    cuts = np.arange(0, len(height), step)
    highest = np.maximum.reduceat(height, cuts)
    at = np.array([start + int(np.argmax(height[start : start + step])) for start in cuts])
    return angle[at], highest
