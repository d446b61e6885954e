"""The page of a target: its landscape, and everything about the candidate that is clicked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
from dash import (
    ALL,
    Dash,
    Input,
    Output,
    Patch,
    State,
    ctx,
    dcc,
    html,
    no_update,
)
from dash.exceptions import PreventUpdate

from dashboard import references
from dashboard.components import (
    empty,
    field,
    graph,
    labelled,
    number,
    problems,
    table,
)
from dashboard.figures import chosen_trace, landscape_figure, point_code, point_of
from dashboard.landscape import COLOUR_BY, Landscape, make_landscape
from dashboard.panels import candidate_panel, candidate_section
from dashboard.runs import RunView
from dashboard.store import Store
from dashboard.tables import words
from dashboard.targets import run_options, target_id, target_options, targets
from dashboard.theme import theme

DEFAULT_WINDOW = 60
_PAGE = 12


def layout(store: Store, query: Mapping[str, str]) -> html.Div:
    """The page; the query may name a `target`, or a `run` and an `index`."""
    groups = targets(store.runs())
    if not groups:
        return html.Div(empty("No run was found yet. Pages fill by themselves when one starts."))
    run = store.run(query.get("run"))
    wanted = target_id(run) if run is not None else query.get("target", "")
    wanted = wanted if wanted in groups else next(iter(groups))
    index = query.get("index", "")
    chosen = {"run": run.id, "index": int(index)} if run and index.isdecimal() else None
    return html.Div(
        [
            html.Div(
                [
                    field(
                        "Target",
                        dcc.Dropdown(
                            id="t-target", options=target_options(groups), value=wanted,
                            clearable=False,
                        ),
                        wide=True,
                    ),
                    field("Runs", dcc.Dropdown(id="t-runs", multi=True), wide=True),
                    field(
                        "Colour",
                        dcc.Dropdown(
                            id="t-colour", options=list(COLOUR_BY), value="space group",
                            clearable=False,
                        ),
                    ),
                    field(
                        "Energy window / kJ mol⁻¹",
                        dcc.Slider(
                            id="t-window", min=5, max=200, step=5, value=DEFAULT_WINDOW,
                            marks={5: "5", 60: "60", 120: "120", 200: "200"},
                            tooltip={"placement": "bottom"},
                        ),
                        wide=True,
                    ),
                ],
                className="controls",
            ),
            html.Div(id="t-notes"),
            html.Div(
                [
                    labelled(html.Section,
                        [
                            graph("t-graph"),
                            html.Div(id="t-list"),
                        ],
                        "Landscape", className="left"),
                    candidate_section(
                        "t", "Click a point",
                        html.Button("◀", id="t-previous", title="Lower in energy"),
                        html.Button("▶", id="t-next", title="Higher in energy"),
                    ),
                ],
                className="split",
            ),
            dcc.Store(id="t-chosen", data=chosen),
            dcc.Store(id="t-page", data=0),
        ]
    )  # fmt: skip


def register(app: Dash, store: Store) -> None:
    """What happens on the page."""

    @app.callback(
        Output("t-target", "options"),
        Output("t-runs", "options"),
        Output("t-runs", "value"),
        Input("t-target", "value"),
        Input("version", "data"),
        State("t-runs", "value"),
        State("t-runs", "options"),
    )
    def runs_of_target(
        target: str, _version: int, value: list[str] | None, before: list[dict[str, str]] | None
    ) -> tuple[Any, Any, Any]:
        groups = targets(store.runs())
        runs = groups.get(target, [])
        options = run_options(runs)
        known = [str(option["value"]) for option in options]
        if ctx.triggered_id == "version" and before is not None:
            # A person's choice stays; a run that is new joins.
            seen = {option["value"] for option in before}
            kept = [r for r in known if r in (value or []) or r not in seen]
            return target_options(groups), options, no_update if kept == value else kept
        return target_options(groups), options, known

    @app.callback(
        Output("t-graph", "figure"),
        Output("t-notes", "children"),
        Input("t-runs", "value"),
        Input("t-colour", "value"),
        Input("t-window", "value"),
        Input("version", "data"),
        Input("theme", "data"),
        State("t-chosen", "data"),
    )
    def draw(
        runs: list[str] | None, colour: str, window: float, _version: int, look: str,
        chosen: dict[str, Any] | None,
    ) -> tuple[Any, Any]:  # fmt: skip
        views = _runs(store, runs)
        found = _landscape(store, views)
        colours = theme(look)
        figure = landscape_figure(
            found, [run.id for run in views], colours, colour_by=colour, window=window,
            reference_density=references.density(views),
        )  # fmt: skip
        if figure["data"]:
            figure["data"][0] = chosen_trace(colours, *_place(found, chosen))
        lines = [f"{run.label}: {problem}" for run in views for problem in run.problems]
        lines += found.notes
        return figure, problems(lines)

    @app.callback(
        Output("t-chosen", "data"),
        Output("t-page", "data"),
        Input("t-graph", "clickData"),
        Input({"kind": "t-row", "code": ALL}, "n_clicks"),
        Input("t-previous", "n_clicks"),
        Input("t-next", "n_clicks"),
        Input({"kind": "t-turn", "step": ALL}, "n_clicks"),
        State("t-runs", "value"),
        State("t-chosen", "data"),
        State("t-page", "data"),
        prevent_initial_call=True,
    )
    def choose(
        click: Any, _rows: Any, _previous: Any, _next: Any, _turn: Any, runs: list[str] | None,
        chosen: dict[str, Any] | None, page: int,
    ) -> tuple[Any, Any]:  # fmt: skip
        cause = ctx.triggered_id
        if not ctx.triggered or ctx.triggered[0]["value"] is None:
            raise PreventUpdate
        views = _runs(store, runs)
        if isinstance(cause, dict) and cause.get("kind") == "t-turn":
            return no_update, max(0, int(page) + int(cause["step"]))
        if isinstance(cause, dict):
            point = point_of(cause["code"])
        elif cause == "t-graph":
            points = (click or {}).get("points") or [{}]
            point = point_of(points[0].get("customdata"))
        else:
            step = 1 if cause == "t-next" else -1
            return _step(_landscape(store, views), chosen, step), no_update
        if point is None or point[0] >= len(views):
            raise PreventUpdate
        return {"run": views[point[0]].id, "index": point[1]}, no_update

    @app.callback(
        Output("t-graph", "figure", allow_duplicate=True),
        Input("t-chosen", "data"),
        State("t-runs", "value"),
        State("t-window", "value"),
        State("theme", "data"),
        prevent_initial_call=True,
    )
    def mark(
        chosen: dict[str, Any] | None, runs: list[str] | None, window: float, look: str
    ) -> Any:
        found = _landscape(store, _runs(store, runs))
        if not (found.frame["energy"] <= window).any():
            raise PreventUpdate  # there is no picture to put a mark into
        patch = Patch()
        patch["data"][0] = chosen_trace(theme(look), *_place(found, chosen))
        return patch

    @app.callback(
        Output("t-list", "children"),
        Input("t-runs", "value"),
        Input("t-window", "value"),
        Input("version", "data"),
        Input("t-page", "data"),
        Input("t-chosen", "data"),
    )
    def ranked_list(
        runs: list[str] | None, window: float, _version: int, page: int,
        chosen: dict[str, Any] | None,
    ) -> Any:  # fmt: skip
        views = _runs(store, runs)
        return _list(_landscape(store, views), views, window, page, chosen)

    candidate_panel(app, store, "t")


def _runs(store: Store, ids: list[str] | None) -> list[RunView]:
    return [run for run in (store.run(run_id) for run_id in ids or []) if run is not None]


def _landscape(store: Store, views: list[RunView]) -> Landscape:
    """The landscape of some runs; kept while none of them changes."""
    return store.kept("landscape", views, lambda: make_landscape(views))


def _place(
    landscape: Landscape, chosen: dict[str, Any] | None
) -> tuple[float, float] | tuple[None, None]:
    """Density and energy of the chosen candidate."""
    if not chosen:
        return None, None
    frame = landscape.frame
    row = frame[((frame["index"] == chosen["index"]) & (frame["run"] == chosen["run"])).to_numpy()]
    if not len(row):
        return None, None
    return float(row["density"].iloc[0]), float(row["energy"].iloc[0])


def _step(landscape: Landscape, chosen: dict[str, Any] | None, step: int) -> dict[str, Any]:
    """The candidate next to the chosen one by energy; the lowest where none is chosen."""
    frame = landscape.frame
    if not len(frame):
        raise PreventUpdate
    place = 0
    if chosen:
        same = (frame["index"] == chosen["index"]) & (frame["run"] == chosen["run"])
        here = same.to_numpy().nonzero()[0]
        if len(here):
            place = min(max(int(here[0]) + step, 0), len(frame) - 1)
    row = frame.iloc[place]
    return {"run": str(row["run"]), "index": int(row["index"])}


def _names(
    landscape: Landscape, runs: list[RunView], shown: pd.DataFrame
) -> dict[tuple[str, int], str]:
    """Identities of some candidates by run and index."""
    found = {}
    for run in runs:
        stage = landscape.stages.get(run.id)
        indices = [int(index) for index in shown["index"][(shown["run"] == run.id).to_numpy()]]
        if stage is None or not indices:
            continue
        for index, row in words(run.store.stage(stage).folder, stage, indices).items():
            found[run.id, index] = str(row.get("candidate_id") or index)
    return found


def _list(
    landscape: Landscape,
    runs: list[RunView],
    window: float,
    page: int,
    chosen: dict[str, Any] | None,
) -> Any:
    """A page of the candidates by energy, each a button: the keyboard's way to the points."""
    frame = landscape.frame[(landscape.frame["energy"] <= window).to_numpy()]
    if not len(frame):
        return []
    pages = (len(frame) - 1) // _PAGE + 1
    page = min(page, pages - 1)
    rows = []
    place = {run.id: k for k, run in enumerate(runs)}
    shown = frame.iloc[page * _PAGE : (page + 1) * _PAGE]
    names = _names(landscape, runs, shown)
    for _, row in shown.iterrows():
        index = int(row["index"])
        here = bool(chosen) and chosen == {"run": row["run"], "index": index}
        button = html.Button(
            names.get((row["run"], index), str(index)),
            id={"kind": "t-row", "code": point_code(place[row["run"]], index)},
            className="link chosen" if here else "link",
        )
        known = "match" if row["match"] is True else ""
        rows.append(
            [
                "" if row["rank"] != row["rank"] else int(row["rank"]), button,
                f"{row['energy']:.2f}",
                f"{row['density']:.3f}", str(row["space_group"] or ""),
                "" if row["cluster"] != row["cluster"] else int(row["cluster"]), str(row["method"]),
                known,
            ]
        )  # fmt: skip
    return [
        table(
            [
                ("rank in run", "num"), ("candidate", "short"), ("kJ/mol", "num"), ("g/cm³", "num"),
                ("space group", "short"), ("cluster", "num"), "method", ("", "short"),
            ],
            rows, "Candidates by energy",
        ),
        html.Div(
            [
                html.Button("Previous", id={"kind": "t-turn", "step": -1}, disabled=page == 0),
                html.Span(f"page {page + 1:,} of {pages:,}, {number(len(frame))} candidates"),
                html.Button("Next", id={"kind": "t-turn", "step": 1}, disabled=page + 1 >= pages),
            ],
            className="pager",
        ),
    ]  # fmt: skip
