"""The page that sets generators side by side: runs of one target, or a finished comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dash import Dash, Input, Output, dcc, html

from dashboard.components import Header, empty, field, graph, labelled, problems, table
from dashboard.legs import Leg, Legs, comparison_options, legs_of_comparison, legs_of_runs
from dashboard.race_figures import best_figure, distribution_figure
from dashboard.store import Store
from dashboard.targets import run_options, target_options, targets
from dashboard.theme import theme

_RACE = "race:"


def layout(store: Store, query: Mapping[str, str]) -> html.Div:
    """The page; the query may name a `target`, or a comparison as `race`."""
    groups = targets(store.runs())
    races = comparison_options(store.comparisons())
    if not groups and not races:
        return html.Div(empty("No run and no comparison was found yet."))
    options = [{**o, "label": f"runs of {o['label']}"} for o in target_options(groups)]
    options += [{**o, "value": _RACE + o["value"]} for o in races]
    wanted = query.get("target") or _RACE + query.get("race", "")
    if wanted not in [option["value"] for option in options]:
        several = next((key for key, runs in groups.items() if len(runs) > 1), None)
        wanted = several or options[0]["value"]
    return html.Div(
        [
            html.Div(
                [
                    field(
                        "What",
                        dcc.Dropdown(id="r-what", options=options, value=wanted, clearable=False),
                        wide=True,
                    ),
                    field("Runs", dcc.Dropdown(id="r-runs", multi=True), wide=True),
                    field(
                        "Best so far against",
                        dcc.RadioItems(
                            id="r-against", options=["candidates", "working time"],
                            value="candidates", inline=True, className="modes",
                        ),
                    ),
                ],
                className="controls",
            ),
            html.Div(id="r-notes"),
            html.Div(
                [
                    labelled(html.Section,
                        [html.H2("Energies before and after relaxation"), graph("r-spread", 400)],
                        "Energy distributions", className="left"),
                    labelled(html.Section,
                        [html.H2("Best so far"), graph("r-best", 400)],
                        "Best-so-far curves", className="right"),
                ],
                className="split",
            ),
            html.Div(id="r-table", className="card below"),
        ]
    )  # fmt: skip


def register(app: Dash, store: Store) -> None:
    """What happens on the page."""

    @app.callback(
        Output("r-runs", "options"),
        Output("r-runs", "value"),
        Output("r-runs", "disabled"),
        Input("r-what", "value"),
    )
    def runs_of(what: str | None) -> tuple[Any, Any, Any]:
        runs = targets(store.runs()).get(what or "", [])
        options = run_options(runs)
        return options, [option["value"] for option in options], not runs

    @app.callback(
        Output("r-spread", "figure"),
        Output("r-best", "figure"),
        Output("r-table", "children"),
        Output("r-notes", "children"),
        Input("r-what", "value"),
        Input("r-runs", "value"),
        Input("r-against", "value"),
        Input("version", "data"),
        Input("theme", "data"),
    )
    def draw(
        what: str | None, runs: list[str] | None, against: str, _version: int, look: str
    ) -> tuple[Any, Any, Any, Any]:
        colours = theme(look)
        if what and what.startswith(_RACE):
            folder = store.comparisons().get(what.removeprefix(_RACE))
            found = (
                Legs((), ("The comparison is gone.",))
                if folder is None
                else (legs_of_comparison(folder))
            )
        else:
            views = [run for run in (store.run(run_id) for run_id in runs or []) if run]
            found = store.kept("legs", views, lambda: legs_of_runs(views))
        seconds = against != "candidates"
        return (
            distribution_figure(found.legs, colours),
            best_figure(found.legs, colours, seconds=seconds),
            _table(found.legs),
            problems(found.notes),
        )


def _table(legs: Sequence[Leg]) -> Any:
    rows = [
        [
            leg.name, f"{leg.n:,}", f"{leg.ranked:,}", leg.lowest, f"{leg.hours:.2f}",
            f"{leg.within(20.0):,}", f"{leg.matches:,}",
        ]
        for leg in legs
    ]  # fmt: skip
    head: list[Header] = [
        "generator", ("candidates", "num"), ("relaxed", "num"), ("lowest / kJ mol⁻¹", "num"),
        ("hours", "num"), ("within 20 kJ/mol", "num"), ("matches", "num"),
    ]  # fmt: skip
    return (
        table(head, rows, "Generators side by side") if rows else empty("Nothing to compare yet.")
    )
