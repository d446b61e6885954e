"""The panel of a candidate, the same on every page: structure, numbers, history, download."""

from __future__ import annotations

from typing import Any

from dash import Dash, Input, Output, State, ctx, dcc, html
from dash.exceptions import PreventUpdate

from dashboard import references
from dashboard.candidate import Candidate, facts, read_candidate, show
from dashboard.components import empty, in_browser, labelled, problems, table, viewer
from dashboard.scenes import MODES, make_scene
from dashboard.store import Store

_WIDTH = 100


def candidate_section(prefix: str, heading: str, *before: Any) -> Any:
    """Where a chosen candidate is shown: `before` stands in front of its heading."""
    head = [
        *before,
        html.H2(heading, id=f"{prefix}-heading"),
        dcc.Dropdown(id=f"{prefix}-stage", clearable=False, placeholder="stage", className="stage"),
    ]
    parts = [html.Div(head, className="heading"), viewer(prefix), html.Div(id=f"{prefix}-panel")]
    return labelled(html.Section, parts, "Chosen candidate", className="right")


def candidate_panel(app: Dash, store: Store, prefix: str) -> None:
    """Callbacks of the panel.

    The page has a `candidate_section` and the store `<prefix>-chosen` with `run`, `index` and maybe
    `stage`.
    """

    @app.callback(
        Output(f"{prefix}-heading", "children"),
        Output(f"{prefix}-stage", "options"),
        Output(f"{prefix}-stage", "value"),
        Output(f"{prefix}-panel", "children"),
        Input(f"{prefix}-chosen", "data"),
        Input("version", "data"),
        State(f"{prefix}-stage", "value"),
    )
    def describe(
        chosen: dict[str, Any] | None, _version: int, stage: str | None
    ) -> tuple[Any, Any, Any, Any]:
        candidate = find(store, chosen)
        if candidate is None:
            return "Click a point", [], None, empty("Nothing is chosen yet.")
        stages = candidate.stages
        # A look at the store does not undo what a person chose.
        wanted = stage if ctx.triggered_id == "version" else (chosen or {}).get("stage")
        if wanted not in stages:
            wanted = stages[-1] if stages else None
        options = [{"label": f"after {name}", "value": name} for name in stages]
        return candidate.id, options, wanted, describe_candidate(candidate)

    @app.callback(
        Output(f"{prefix}-scene", "data"),
        Input(f"{prefix}-chosen", "data"),
        Input(f"{prefix}-stage", "value"),
        Input(f"{prefix}-mode", "value"),
    )
    def scene(chosen: dict[str, Any] | None, stage: str | None, mode: str) -> Any:
        candidate = find(store, chosen)
        if candidate is None:
            raise PreventUpdate
        return scene_of(candidate, stage, mode, f"{prefix}-viewer")

    in_browser(
        app, "draw", Output(f"{prefix}-viewer-note", "children"), Input(f"{prefix}-scene", "data"),
        Input("theme", "data"),
    )  # fmt: skip


def find(store: Store, chosen: dict[str, Any] | None) -> Candidate | None:
    """The candidate that a page has chosen."""
    run = store.run((chosen or {}).get("run"))
    if run is None or chosen is None:
        return None
    return read_candidate(run, int(chosen["index"]))


def scene_of(candidate: Candidate, stage: str | None, mode: str, viewer: str) -> dict[str, Any]:
    """What the viewer with the identity `viewer` draws, with the candidate's identity."""
    crystal, where, sentence = candidate.crystal(stage)
    base = {"viewer": viewer, "id": candidate.id, "stage": where}
    if crystal is None:
        return {**base, "models": [], "edges": [], "axes": [], "atoms": 0, "note": sentence}
    kind = next((m for m in MODES if m == mode), "cell")
    reference = references.crystal(candidate.run) if kind == "overlay" else None
    made = make_scene(crystal, kind, reference)
    words = [
        sentence, f"{candidate.id} after {where}", f"{made['cell_atoms']} atoms in the cell",
        made["note"],
    ]  # fmt: skip
    return {**base, **made, "note": "; ".join(word for word in words if word)}


def describe_candidate(candidate: Candidate) -> html.Div:
    """Links, history and numbers of a candidate."""
    run, index = candidate.run, candidate.index
    stages = candidate.stages
    links: list[Any] = []
    if stages:
        links.append(
            html.A("Download CIF", href=cif_address(run.id, stages[-1], index), className="button")
        )
    address = f"?run={run.id}&index={index}"
    links += [
        dcc.Link("Convergence", href=f"/convergence{address}", className="button"),
        dcc.Link("Landscape", href=f"/target{address}", className="button"),
    ]
    history = [
        [
            attempt.stage, html.Span(str(attempt.row.get("status")), className=_kind(attempt.row)),
            str(attempt.row.get("reason") or ""), str(attempt.row.get("attempt") or ""),
            _number(attempt.row.get("wall_s"), "{:.1f}"), str(attempt.row.get("device") or ""),
            _number(attempt.row.get("energy_eV"), "{:.4f}"),
            _number(attempt.row.get("density_g_cm3"), "{:.3f}"),
            str(attempt.row.get("detail") or "")[:_WIDTH],
        ]
        for attempt in candidate.attempts
    ]  # fmt: skip
    numbers = [
        [html.Span(name, title=meaning), value, unit]
        for name, value, unit, meaning in facts(candidate)
    ]
    return html.Div(
        [
            html.Div(links, className="links"),
            problems(candidate.problems),
            html.H3("Through the stages"),
            table(
                [
                    ("stage", "short"), ("status", "short"), ("reason", "short"),
                    ("try", "num"), ("s", "num"),
                    ("device", "short"),
                    ("E / eV", "num"), ("g/cm³", "num"), ("detail", "wraps"),
                ],
                history, "History through the stages",
            ),
            html.H3("Its row"),
            table([("column", "short"), ("value", "wraps"), "unit"], numbers, "Its row"),
        ]
    )  # fmt: skip


def cif_address(run_id: str, stage: str, index: int) -> str:
    """Where the CIF of a candidate after a stage is downloaded."""
    return f"/cif/{run_id}/{stage}/{index}.cif"


def _kind(row: dict[str, Any]) -> str:
    status = str(row.get("status"))
    return f"status {status}" if status.isalpha() else "status"


def _number(value: Any, pattern: str) -> str:
    return pattern.format(value) if isinstance(value, float) else show(value) if value else ""
