"""The page of a relaxation: energy, largest force and volume against the optimiser's step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dash import Dash, Input, Output, State, dcc, html

from dashboard.candidate import read_candidate, traces
from dashboard.components import Header, empty, field, graph, labelled, table
from dashboard.figures import empty_figure, trace_figure
from dashboard.panels import describe_candidate
from dashboard.store import Store
from dashboard.targets import all_run_options, target_id, targets
from dashboard.theme import theme


def layout(store: Store, query: Mapping[str, str]) -> html.Div:
    """The page; the query may name a `run` and an `index`."""
    runs = [run for group in targets(store.runs()).values() for run in group]
    if not runs:
        return html.Div(empty("No run was found yet."))
    chosen = store.run(query.get("run")) or runs[0]
    index = query.get("index", "")
    options = all_run_options(runs)
    return html.Div(
        [
            html.Div(
                [
                    field(
                        "Run",
                        dcc.Dropdown(id="v-run", options=options, value=chosen.id, clearable=False),
                        wide=True,
                    ),
                    field(
                        "Candidate (its number in the run)",
                        dcc.Input(
                            id="v-index", type="number", min=0, step=1, debounce=True,
                            value=int(index) if index.isdecimal() else _first(store, chosen.id),
                        ),
                    ),
                ],
                className="controls",
            ),
            html.Div(
                [
                    labelled(html.Section, graph("v-graph", 590), "Traces", className="left"),
                    labelled(html.Section,
                        [html.H2(id="v-heading"), html.Div(id="v-ends"), html.Div(id="v-panel")],
                        "Candidate", className="right"),
                ],
                className="split",
            ),
        ]
    )  # fmt: skip


def register(app: Dash, store: Store) -> None:
    """What happens on the page."""

    @app.callback(
        Output("v-graph", "figure"),
        Output("v-heading", "children"),
        Output("v-ends", "children"),
        Output("v-panel", "children"),
        Input("v-run", "value"),
        Input("v-index", "value"),
        Input("version", "data"),
        Input("theme", "data"),
    )
    def draw(
        run_id: str | None, index: int | None, _version: int, look: str
    ) -> tuple[Any, Any, Any, Any]:
        run, colours = store.run(run_id), theme(look)
        if run is None or not isinstance(index, int):
            return empty_figure("Choose a run and a candidate.", colours), "", [], []
        candidate = read_candidate(run, index)
        if not candidate.attempts:
            words = f"Candidate {index} has no row yet; the run has {run.n:,}, from 0 on."
            return empty_figure(words, colours), f"Candidate {index}", [], empty(words)
        found = traces(candidate)
        rows = [
            [
                stage, str(int(columns["step"][-1])), _ends(columns.get("energy_eV"), ".4f"),
                _ends(columns.get("fmax_eV_A"), ".3g"), _ends(columns.get("stress_GPa"), ".3g"),
                _ends(columns.get("volume_A3"), ".1f"),
            ]
            for stage, columns in found
        ]  # fmt: skip
        head: list[Header] = [
            "stage", ("steps", "num"), ("E / eV", "num"), ("fmax / eV Å⁻¹", "num"),
            ("stress / GPa", "num"), ("V / Å³", "num"),
        ]  # fmt: skip
        ends: Any = table(head, rows, "First and last values of the traces") if rows else []
        return trace_figure(found, colours), candidate.id, ends, describe_candidate(candidate)

    @app.callback(
        Output("v-index", "value"),
        Input("v-run", "value"),
        State("v-index", "value"),
        prevent_initial_call=True,
    )
    def first_of(run_id: str | None, index: int | None) -> Any:
        run = store.run(run_id)
        return index if run is not None and index is not None and index < run.n else 0


def _first(store: Store, run_id: str) -> int:
    """The candidate of lowest energy where there is one, else the first."""
    from dashboard.landscape import make_landscape

    run = store.run(run_id)
    if run is None:
        return 0
    found = store.kept(f"first {target_id(run)}", [run], lambda: make_landscape([run]))
    return int(found.frame["index"].iloc[0]) if len(found) else 0


def _ends(values: list[float] | None, pattern: str) -> str:
    if not values:
        return ""
    return f"{values[0]:{pattern}} → {values[-1]:{pattern}}"
