"""The pictures, as plain data for Plotly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from dashboard.landscape import COLOUR_BY, Landscape
from dashboard.theme import SYMBOLS, Theme, layout, text
from packflow_core.spec import N_MAX

Figure = dict[str, Any]

#: Groups with a colour of their own; the rest is "other".
_GROUPS = 6
#: More points than this are drawn by the graphics card.
_MANY = 1500
_DENSITY = "density / g cm<sup>−3</sup>"
_ENERGY = "relative lattice energy / kJ mol<sup>−1</sup>"


def point_code(run: int, index: int) -> int:
    """One number for a candidate: the run's place in the list of runs, and its index."""
    return run * N_MAX + index


def point_of(code: Any) -> tuple[int, int] | None:
    """(run, index) of a number that `point_code` made; None for anything else."""
    try:
        number = int(code)
    except (TypeError, ValueError):
        return None
    return divmod(number, N_MAX) if number >= 0 else None


def empty_figure(sentence: str, colours: Theme) -> Figure:
    """A sentence in place of a picture."""
    note = {
        "text": text(sentence), "showarrow": False, "x": 0.5, "y": 0.5, "xref": "paper",
        "yref": "paper", "font": {"color": colours.faint, "size": 14},
    }  # fmt: skip
    hidden = {"visible": False}
    return {"data": [], "layout": layout(colours, annotations=[note], xaxis=hidden, yaxis=hidden)}


def landscape_figure(
    landscape: Landscape,
    runs: Sequence[str],
    colours: Theme,
    *,
    colour_by: str = "space group",
    window: float = 60.0,
    reference_density: float | None = None,
) -> Figure:
    """Density against relative energy, one colour and symbol per group.

    Args:
        landscape: what to draw.
        runs: identities of its runs; a point's `customdata` is its `point_code` in this list.
        colours: of the theme.
        colour_by: a name of `COLOUR_BY`.
        window: highest energy shown, kJ/mol.
        reference_density: of the known form in g/cm3, a vertical line.

    Returns:
        A figure whose first trace marks the chosen candidate; it is empty at first.
    """
    frame = landscape.frame[(landscape.frame["energy"] <= window).to_numpy()]
    if not len(frame):
        return empty_figure("No relaxed candidate in this window.", colours)
    place = {run: k for k, run in enumerate(runs)}
    codes = frame["run"].map(place).to_numpy(dtype=np.float64) * N_MAX
    frame = frame.assign(code=codes + frame["index"].to_numpy(dtype=np.float64))
    many = len(landscape.frame) > _MANY
    size = float(np.clip(260 / max(len(frame), 1) ** 0.42, 4.0, 11.0))
    data: list[dict[str, Any]] = [chosen_trace(colours)]
    for name, members, look in _groups(frame, COLOUR_BY.get(colour_by, "space_group"), colours):
        best = members["representative"].to_numpy(dtype=bool)
        for part, alone in ((members[best], True), (members[~best], False)):
            if not len(part):
                continue
            marker = {**look, "size": size if alone else 0.75 * size}
            marker["opacity"] = 0.9 if alone else 0.35
            marker["line"] = {"width": 0 if many else 0.7, "color": colours.back}
            trace = _points(part, marker, many)
            trace["name"] = text(f"{name} ({len(members):,})")
            trace["legendgroup"] = trace["name"]
            trace["showlegend"] = alone or not best.any()
            trace["legendrank"] = 2000 if name == "other" else 1000
            data.append(trace)
    found = frame[frame["match"].isin([True]).to_numpy()]
    if len(found):
        marker = {"symbol": "star", "size": 15, "color": "#F0E442"}
        marker["line"] = {"width": 1.4, "color": colours.match}
        data.append({**_points(found, marker, False), "name": "matches the known form"})
    shapes = []
    if reference_density is not None:
        shapes = [_known_line(reference_density, colours)]
    return {
        "data": data,
        "layout": layout(
            colours,
            xaxis={"title": {"text": _DENSITY}},
            yaxis={"title": {"text": _ENERGY}},
            shapes=shapes,
            annotations=[_known_label(reference_density, colours)] if shapes else [],
            hovermode="closest",
            clickmode="event",
            dragmode="zoom",
            legend={"itemsizing": "constant"},
        ),
    }


def chosen_trace(colours: Theme, x: float | None = None, y: float | None = None) -> dict[str, Any]:
    """A ring around the chosen candidate."""
    return {
        "type": "scatter", "mode": "markers", "showlegend": False, "hoverinfo": "skip",
        "x": [] if x is None else [x], "y": [] if y is None else [y],
        "marker": {
            "symbol": "circle-open", "size": 20, "color": colours.text, "line": {"width": 2.5}
        },
    }  # fmt: skip


def _points(part: pd.DataFrame, marker: dict[str, Any], many: bool) -> dict[str, Any]:
    return {
        "type": "scattergl" if many else "scatter",
        "mode": "markers",
        "x": part["density"].to_numpy(dtype=np.float64),
        "y": part["energy"].to_numpy(dtype=np.float64),
        "customdata": part["code"].to_numpy(dtype=np.float64).tolist(),
        "marker": marker,
        "hovertemplate": "%{x:.3f} g/cm³<br>%{y:.2f} kJ/mol<br>%{fullData.name}<extra></extra>",
    }


def _groups(
    frame: pd.DataFrame, column: str, colours: Theme
) -> list[tuple[str, pd.DataFrame, dict[str, Any]]]:
    """(name, members, colour and symbol) of the largest groups, and of the others."""
    values = frame[column].astype(object).where(frame[column].notna(), "unknown").astype(str)
    counts = values.value_counts()
    if column == "cluster_name":  # clusters by energy say more than by size
        names = list(dict.fromkeys(values[values != "not ranked"]))[:_GROUPS]
    else:
        names = sorted(counts.index, key=lambda name: (-int(counts[name]), str(name)))[:_GROUPS]
    found = []
    for k, name in enumerate(names):
        look = {"color": colours.series[k], "symbol": SYMBOLS[k]}
        found.append((str(name), frame[(values == name).to_numpy()], look))
    rest = frame[(~values.isin(names)).to_numpy()]
    if len(rest):
        look = {"color": colours.series[-1], "symbol": SYMBOLS[-1]}
        found.insert(0, ("other", rest, look))
    return found


def _known_line(density: float, colours: Theme) -> dict[str, Any]:
    return {
        "type": "line", "xref": "x", "yref": "paper", "x0": density, "x1": density, "y0": 0,
        "y1": 1, "line": {"color": colours.faint, "width": 1.5, "dash": "dash"}, "layer": "below",
    }  # fmt: skip


def _known_label(density: float | None, colours: Theme) -> dict[str, Any]:
    return {
        "x": density, "y": 1, "xref": "x", "yref": "paper", "text": "density of the known form",
        "showarrow": False,
        "xanchor": "left", "yanchor": "top", "xshift": 4, "font": {"color": colours.faint},
    }  # fmt: skip


def funnel_figure(stages: Sequence[tuple[str, Mapping[str, int]]], colours: Theme) -> Figure:
    """What became of the candidates, a bar a stage.

    Args:
        stages: (name, candidates by status), in order; `pending` may be among them.
        colours: of the theme.
    """
    names = [text(name) for name, _ in stages]
    data = []
    for status, pattern in (
        ("ok", ""), ("unconverged", "/"), ("rejected", "."), ("failed", "x"), ("pending", ""),
    ):  # fmt: skip
        values = [counts.get(status, 0) for _, counts in stages]
        if not any(values):
            continue
        data.append(
            {
                "type": "bar", "orientation": "h", "name": status, "y": names, "x": values,
                "marker": {
                    "color": colours.status[status],
                    "pattern": {
                        "shape": pattern, "size": 6, "solidity": 0.25,
                        "bgcolor": colours.status[status], "fgcolor": colours.back,
                    },
                },
                "hovertemplate": "%{y}: %{x:,} " + status + "<extra></extra>",
            }
        )  # fmt: skip
    if not data:
        return empty_figure("No candidate was attempted yet.", colours)
    return {
        "data": data,
        "layout": layout(
            colours, barmode="stack", bargap=0.35, yaxis={"autorange": "reversed"},
            xaxis={"title": {"text": "candidates"}, "rangemode": "tozero"},
            margin={"l": 90, "r": 12, "t": 30, "b": 42}, legend={"traceorder": "normal"},
        ),
    }  # fmt: skip


def trace_figure(
    traces: Sequence[tuple[str, Mapping[str, Sequence[float]]]], colours: Theme
) -> Figure:
    """Energy, largest force and volume against the optimiser step; one line per stage.

    Steps of a stage go on where those of the stage before ended.
    """
    panels = (
        ("energy_eV", "energy / eV", "linear"),
        ("fmax_eV_A", "largest force / eV Å<sup>−1</sup>", "log"),
        ("volume_A3", "cell volume / Å<sup>3</sup>", "linear"),
    )
    if not traces:
        return empty_figure("No relaxation trace was kept for this candidate.", colours)
    data: list[dict[str, Any]] = []
    axes: dict[str, Any] = {}
    height = 1.0 / len(panels)
    for k, (column, title, kind) in enumerate(panels):
        suffix = "" if k == 0 else str(k + 1)
        top = 1.0 - k * height
        axes[f"yaxis{suffix}"] = {
            "title": {"text": title}, "type": kind, "domain": [top - height + 0.04, top],
        }  # fmt: skip
        axes[f"xaxis{suffix}"] = {
            "anchor": f"y{suffix}", "matches": "x" if k else None,
            "showticklabels": k == len(panels) - 1,
            "title": {"text": "optimiser step" if k == len(panels) - 1 else ""},
        }  # fmt: skip
        done = 0.0
        for s, (stage, columns) in enumerate(traces):
            steps = [done + float(step) for step in columns["step"]]
            if column in columns and steps:
                colour = colours.series[s % len(colours.series)]
                data.append(
                    {
                        "type": "scatter", "mode": "lines+markers", "name": text(stage),
                        "legendgroup": text(stage), "showlegend": k == 0,
                        "x": steps, "y": list(columns[column]),
                        "xaxis": f"x{suffix}", "yaxis": f"y{suffix}",
                        "line": {"color": colour, "width": 2},
                        "marker": {"size": 4, "color": colour, "symbol": SYMBOLS[s % len(SYMBOLS)]},
                    }
                )  # fmt: skip
            done = steps[-1] if steps else done
    axes["xaxis"].pop("matches")
    return {"data": data, "layout": layout(colours, **axes)}
