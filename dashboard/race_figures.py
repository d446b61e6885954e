"""Pictures of generators side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dashboard.figures import Figure, empty_figure
from dashboard.legs import FloatArray, Leg
from dashboard.theme import DASHES, SYMBOLS, Theme, layout, text

#: Points of a curve that are drawn.
_MAX_POINTS = 2000
_ENERGY = "relative lattice energy / kJ mol<sup>−1</sup>"


def distribution_figure(legs: Sequence[Leg], colours: Theme) -> Figure:
    """Boxes of the energies before and after relaxation; the axis leaves far outliers out."""
    data: list[dict[str, Any]] = []
    tops = []
    for k, leg in enumerate(legs):
        for values, place in ((leg.before, k - 0.2), (leg.after, k + 0.2)):
            known = values[np.isfinite(values)]
            if not len(known):
                continue
            low, q1, middle, q3, high = np.percentile(known, [5, 25, 50, 75, 95])
            tops.append(high)
            colour = colours.series[k % len(colours.series)]
            data.append(
                {
                    "type": "box", "name": text(leg.name), "legendgroup": text(leg.name),
                    "showlegend": False, "x": [place],
                    "q1": [float(q1)], "median": [float(middle)], "q3": [float(q3)],
                    "lowerfence": [float(low)], "upperfence": [float(high)],
                    "line": {"color": colour, "width": 2}, "width": 0.34,
                    "fillcolor": _pale(colour) if place > k else "rgba(0,0,0,0)",
                    "opacity": 0.85, "hoverinfo": "y",
                }
            )  # fmt: skip
    if not data:
        return empty_figure("No energies yet.", colours)
    note = {
        "text": "hollow before, filled after; boxes are quartiles, whiskers 5 to 95 %",
        "showarrow": False,
        "xref": "paper", "yref": "paper", "x": 1, "y": 1.06, "xanchor": "right",
        "font": {"size": 11.5, "color": colours.faint},
    }  # fmt: skip
    return {
        "data": data,
        "layout": layout(
            colours,
            yaxis={"title": {"text": _ENERGY}, "range": [-0.04 * max(tops), 1.05 * max(tops)]},
            xaxis={
                "tickmode": "array", "tickvals": list(range(len(legs))),
                "ticktext": [text(leg.name) for leg in legs],
            },
            annotations=[note], boxmode="overlay",
        ),
    }  # fmt: skip


def best_figure(legs: Sequence[Leg], colours: Theme, seconds: bool = False) -> Figure:
    """The lowest energy found so far, against candidates or working hours."""
    data = []
    for k, leg in enumerate(legs):
        best = leg.best_so_far()
        x = np.cumsum(leg.seconds) / 3600.0 if seconds else np.arange(1, len(best) + 1)
        places = _corners(best)
        if not len(places):
            continue
        colour = colours.series[k % len(colours.series)]
        data.append(
            {
                "type": "scatter", "mode": "lines+markers", "name": text(leg.name),
                "x": x[places].tolist(), "y": best[places].tolist(),
                "line": {
                    "shape": "hv", "width": 2, "color": colour, "dash": DASHES[k % len(DASHES)]
                },
                "marker": {"size": 6, "symbol": SYMBOLS[k % len(SYMBOLS)], "color": colour},
            }
        )  # fmt: skip
    if not data:
        return empty_figure("No energies yet.", colours)
    what = "working time / h" if seconds else "candidates, in the order drawn"
    return {
        "data": data,
        "layout": layout(
            colours, xaxis={"title": {"text": what}}, yaxis={"title": {"text": _ENERGY}}
        ),
    }


def _pale(colour: str) -> str:
    """A colour #rrggbb that lets what lies below shine through."""
    red, green, blue = (int(colour[k : k + 2], 16) for k in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.45)"


def _corners(best: FloatArray) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Places where a best-so-far curve steps, and its end; few enough to draw."""
    known = np.flatnonzero(np.isfinite(best))
    if not len(known):
        return known
    steps = known[np.flatnonzero(np.diff(best[known], prepend=np.inf) != 0)]
    places = np.unique(np.append(steps, len(best) - 1))
    return places[-_MAX_POINTS:]
