"""Small pieces of page that several pages use; all text goes in as text, never as markup."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, cast

from dash import ClientsideFunction, dcc, html

from dashboard.theme import config

#: A column's text, or its text and class.
Header = str | tuple[str, str]


def labelled(kind: Any, children: Any, label: str, **more: Any) -> Any:
    """An element of a kind of `dash.html` with a name for screen readers."""
    return kind(children, **{"aria-label": label}, **more)


def announced(kind: Any, identity: str, politely: bool = True, **more: Any) -> Any:
    """An empty element whose changes a screen reader speaks out."""
    return kind(id=identity, **{"aria-live": "polite" if politely else "assertive"}, **more)


def in_browser(app: Any, function: str, *arguments: Any) -> None:
    """A callback that the browser carries out: a function of assets/dashboard.js."""
    app.clientside_callback(
        ClientsideFunction(namespace="packflow", function_name=function), *arguments
    )


def table(headers: Sequence[Header], rows: Iterable[Sequence[Any]], label: str) -> html.Div:
    """A table that scrolls on its own.

    Args:
        headers: texts, or (text, class); the class of a column goes to its cells as well.
        rows: cells, text or components.
        label: what a screen reader says.
    """
    names = [h if isinstance(h, tuple) else (h, "") for h in headers]
    body = [
        html.Tr(
            [html.Td(cell, className=kind) for cell, (_, kind) in zip(cells, names, strict=True)]
        )
        for cells in rows
    ]
    head = html.Thead(html.Tr([html.Th(text, className=kind, scope="col") for text, kind in names]))
    whole = labelled(html.Table, [head, html.Tbody(body)], label)
    return html.Div(whole, className="table")


def field(label: str, control: Any, wide: bool = False) -> html.Div:
    """A control under its label."""
    return html.Div(
        [html.Label(label, htmlFor=control.id if isinstance(control.id, str) else None), control],
        className="field wide" if wide else "field",
    )


def graph(identity: str, height: int = 420) -> dcc.Graph:
    """An empty picture, `height` pixels high."""
    hidden = {"visible": False}
    blank: dict[str, Any] = {"xaxis": hidden, "yaxis": hidden}
    blank |= {name: "rgba(0,0,0,0)" for name in ("paper_bgcolor", "plot_bgcolor")}
    return dcc.Graph(
        id=identity, config=cast(Any, config()), style={"height": f"{height}px"},
        figure=cast(Any, {"data": [], "layout": blank}),
    )  # fmt: skip


def empty(sentence: str) -> html.P:
    """A sentence in place of what is not there."""
    return html.P(sentence, className="empty")


def problems(sentences: Iterable[str]) -> html.Div:
    """Sentences about what could not be read, one a line; nothing for none."""
    lines = [html.Li(sentence) for sentence in sentences]
    return html.Div(html.Ul(lines) if lines else [], className="problems", role="status")


def number(value: int | None) -> str:
    """A count with thousands separated."""
    return "" if value is None else f"{value:,}"


def viewer(prefix: str) -> html.Div:
    """The 3D viewer: choices above, the drawing, a line about it below."""
    return html.Div(
        [
            dcc.RadioItems(
                id=f"{prefix}-mode",
                options=[
                    {"label": "unit cell", "value": "cell"},
                    {"label": "supercell", "value": "supercell"},
                    {"label": "molecule", "value": "molecule"},
                    {"label": "overlay on the reference", "value": "overlay"},
                ],
                value="cell",
                className="modes",
                inline=True,
            ),
            labelled(
                html.Div,
                [],
                "Structure in 3D: arrow keys turn it, plus and minus zoom",
                id=f"{prefix}-viewer",
                className="viewer",
                tabIndex=0,
                role="img",
            ),
            announced(html.P, f"{prefix}-viewer-note", className="note"),
            dcc.Store(id=f"{prefix}-scene"),
        ],
        className="viewer-box",
    )
