"""Colours of the page's pictures, light and dark; the style sheet has the same ones."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import Any


@dataclass(frozen=True)
class Theme:
    """Colours of one theme.

    Attributes:
        text, faint, grid, back: of the page.
        series: colour-blind-safe hues (Okabe and Ito, 2008), the neutral one last.
        match: of candidates that match the known form.
        status: ok, unconverged, rejected, failed.
    """

    text: str
    faint: str
    grid: str
    back: str
    series: tuple[str, ...]
    match: str
    status: dict[str, str]


_HUES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_DARK_HUES = ("#4EA5DC", "#F0803C", "#2FC396", "#DF9CC2", "#F2B53A", "#8CD0F5")
LIGHT = Theme(
    text="#1b1f24", faint="#59636e", grid="#e4e7eb", back="#ffffff",
    series=(*_HUES, "#7F7F7F"), match="#000000",
    status={"ok": "#009E73", "unconverged": "#E69F00", "rejected": "#56B4E9", "failed": "#D55E00",
            "pending": "#dfe3e8"},
)  # fmt: skip
DARK = Theme(
    text="#e6e9ed", faint="#9aa4af", grid="#2d333b", back="#161a1f",
    series=(*_DARK_HUES, "#9a9a9a"), match="#F0E442",
    status={"ok": "#2FC396", "unconverged": "#F2B53A", "rejected": "#8CD0F5", "failed": "#F0803C",
            "pending": "#343b44"},
)  # fmt: skip

#: A symbol beside each colour, so that a picture can be read without colours.
SYMBOLS = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "x")
#: Lines of series whose colours come again.
DASHES = ("solid", "dash", "dot")


def theme(name: str | None) -> Theme:
    """Theme of a name; light for anything but dark."""
    return DARK if name == "dark" else LIGHT


def text(value: object) -> str:
    """Text for Plotly, which reads some markup: every character stands for itself."""
    return escape(str(value), quote=False)


def layout(colours: Theme, **more: Any) -> dict[str, Any]:
    """Layout that all pictures share; `more` is laid over it."""
    axis = {
        "gridcolor": colours.grid, "zerolinecolor": colours.grid, "linecolor": colours.faint,
        "tickcolor": colours.faint, "automargin": True,
    }  # fmt: skip
    merged: dict[str, Any] = {
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"color": colours.text, "size": 12.5, "family": "system-ui, sans-serif"},
        "margin": {"l": 56, "r": 12, "t": 28, "b": 46},
        "hoverlabel": {
            "bgcolor": colours.back, "bordercolor": colours.faint, "font": {"color": colours.text}
        },
        "legend": {
            "orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "font": {"size": 11.5},
        },
        "xaxis": dict(axis),
        "yaxis": dict(axis),
        "uirevision": "keep",
    }  # fmt: skip
    for name, value in more.items():
        if isinstance(value, dict) and isinstance(merged.get(name), dict):
            merged[name] = {**merged[name], **value}
        elif name.startswith(("xaxis", "yaxis")):
            merged[name] = {**axis, **value}
        else:
            merged[name] = value
    return merged


def config() -> dict[str, Any]:
    """Settings of every picture: no logo, no links that leave the page."""
    return {
        "displaylogo": False,
        "showTips": False,
        "responsive": True,
        "modeBarButtons": [
            ["toImage"],
            ["zoom2d", "pan2d"],
            ["zoomIn2d", "zoomOut2d", "resetScale2d"],
        ],
        "toImageButtonOptions": {"format": "png", "scale": 2},
    }
