"""The page of failures: what went wrong, the worst first, and the structures that did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dash import ALL, Dash, Input, Output, State, ctx, dcc, html, no_update
from dash.exceptions import PreventUpdate

from dashboard.actions import RefusedError, resume
from dashboard.components import (
    Header,
    announced,
    empty,
    field,
    labelled,
    number,
    problems,
    table,
)
from dashboard.panels import candidate_panel, candidate_section
from dashboard.runs import RunView
from dashboard.settings import Settings
from dashboard.store import Store
from dashboard.tables import words
from dashboard.targets import all_run_options
from packflow_core.store.schema import RETRYABLE, Status

_PAGE = 10
#: Groups that the page lists.
_GROUPS = 100
_ORDER = {Status.FAILED.value: 0, Status.UNCONVERGED.value: 1, Status.REJECTED.value: 2}


@dataclass(frozen=True)
class Group:
    """Candidates of one run that one stage lost for one reason.

    Attributes:
        run: identity of the run.
        name: of the run, for people.
        stage, status, reason: where and why.
        count: candidates.
        tried: candidates that the stage attempted.
    """

    run: str
    name: str
    stage: str
    status: str
    reason: str
    count: int
    tried: int

    @property
    def key(self) -> dict[str, str]:
        """What identifies it on the page."""
        return {"run": self.run, "stage": self.stage, "status": self.status, "reason": self.reason}


def groups(runs: Sequence[RunView], statuses: Sequence[str]) -> list[Group]:
    """Groups of lost candidates: what broke, then what did not converge or was rejected, by size.

    What goes on to the next stage all the same (hydrogens that used all their steps) is not lost.
    """
    found = [
        Group(
            run.id, run.label, stage.name, reason.status,
            reason.reason, reason.count, stage.attempted,
        )
        for run in runs
        for stage in run.stages
        for reason in stage.reasons
        if reason.status in statuses and reason.status not in stage.goes_on
    ]  # fmt: skip
    return sorted(
        found, key=lambda g: (_ORDER.get(g.status, 3), -g.count, g.reason, g.stage, g.run)
    )


def layout(store: Store, query: Mapping[str, str]) -> html.Div:
    """The page; the query may name a `run`."""
    runs = store.runs()
    if not runs:
        return html.Div(empty("No run was found yet."))
    options = [{"label": "all runs", "value": "all"}, *all_run_options(runs)]
    wanted = query.get("run", "")
    return html.Div(
        [
            html.Div(
                [
                    field(
                        "Run",
                        dcc.Dropdown(
                            id="f-run", options=options, clearable=False,
                            value=wanted if store.run(wanted) else "all",
                        ),
                        wide=True,
                    ),
                    field(
                        "Show",
                        dcc.Checklist(
                            id="f-status", options=list(_ORDER), value=list(_ORDER),
                            inline=True, className="modes",
                        ),
                        wide=True,
                    ),
                ],
                className="controls",
            ),
            html.Div(
                [
                    labelled(html.Section,
                        [
                            html.Div(id="f-groups", className="scrolls"),
                            html.Div(_buttons(store.settings), className="links"),
                            announced(html.P, "f-answer", politely=False, className="answer"),
                            html.P(id="f-command", className="note"),
                            html.Div(id="f-list"),
                        ],
                        "Reasons", className="left"),
                    candidate_section("f", "Choose a candidate"),
                ],
                className="split",
            ),
            dcc.Store(id="f-group"),
            dcc.Store(id="f-chosen"),
            dcc.Store(id="f-page", data=0),
        ]
    )  # fmt: skip


def _buttons(settings: Settings) -> list[Any]:
    hidden = not settings.allow_actions
    note = html.Span(
        "Read only: start the dashboard with --allow-actions to have buttons here.",
        className="note", hidden=not hidden,
    )  # fmt: skip
    return [
        html.Button("Attempt this reason again", id="f-requeue", disabled=True, hidden=hidden),
        html.Button("Resume the run", id="f-resume", disabled=True, hidden=hidden),
        note,
    ]


def register(app: Dash, store: Store) -> None:
    """What happens on the page."""

    @app.callback(
        Output("f-groups", "children"),
        Output("f-group", "data"),
        Input("f-run", "value"),
        Input("f-status", "value"),
        Input("version", "data"),
        Input({"kind": "f-group", "place": ALL}, "n_clicks"),
        State("f-group", "data"),
    )
    def show_groups(
        run_id: str, statuses: list[str] | None, _version: int, _clicks: Any,
        group: dict[str, str] | None,
    ) -> tuple[Any, Any]:  # fmt: skip
        runs = store.runs() if run_id == "all" else [r for r in [store.run(run_id)] if r]
        found = groups(runs, statuses or [])[:_GROUPS]
        keys = [g.key for g in found]
        cause = ctx.triggered_id
        if isinstance(cause, dict) and ctx.triggered[0]["value"] and cause["place"] < len(keys):
            group = keys[cause["place"]]
        if group not in keys:
            group = keys[0] if keys else None
        damage = [f"{run.folder}: {problem}" for run in runs for problem in run.problems]
        return [problems(damage), _group_table(found, group)], group

    @app.callback(
        Output("f-list", "children"),
        Output("f-chosen", "data"),
        Output("f-page", "data"),
        Output("f-command", "children"),
        Output("f-requeue", "disabled"),
        Output("f-resume", "disabled"),
        Input("f-group", "data"),
        Input({"kind": "f-row", "index": ALL}, "n_clicks"),
        Input({"kind": "f-turn", "step": ALL}, "n_clicks"),
        State("f-page", "data"),
        State("f-chosen", "data"),
    )
    def show_candidates(
        group: dict[str, str] | None, _rows: Any, _turns: Any, page: int,
        chosen: dict[str, Any] | None,
    ) -> tuple[Any, Any, Any, Any, Any, Any]:  # fmt: skip
        run = store.run((group or {}).get("run"))
        if run is None or group is None:
            return [], None, 0, "", True, True
        cause = ctx.triggered_id
        clicked = isinstance(cause, dict) and bool(ctx.triggered[0]["value"])
        page = max(0, page + int(cause["step"])) if clicked and "step" in cause else page
        index = int(cause["index"]) if clicked and "index" in cause else None
        same = chosen and chosen.get("group") == group
        if not same:
            page = 0
        indices = members(run, group)
        shown = indices[page * _PAGE : (page + 1) * _PAGE]
        if index is None:
            index = chosen["index"] if same and chosen else next(iter(shown), None)
        data = None
        if index is not None:
            data = {"run": run.id, "index": index, "stage": group["stage"], "group": group}
        failed = group["status"] == Status.FAILED
        return (
            _list(run, group, indices, page, index),
            no_update if data == chosen else data,
            page,
            _command(run, group),
            not (failed and store.settings.allow_actions),
            not store.settings.allow_actions,
        )

    @app.callback(
        Output("f-answer", "children"),
        Input("f-requeue", "n_clicks"),
        Input("f-resume", "n_clicks"),
        State("f-group", "data"),
        prevent_initial_call=True,
    )
    def act(_requeue: Any, _resume: Any, group: dict[str, str] | None) -> Any:
        run = store.run((group or {}).get("run"))
        if run is None or group is None or not ctx.triggered[0]["value"]:
            raise PreventUpdate
        reason = group["reason"] if ctx.triggered_id == "f-requeue" else None
        try:
            return resume(store.settings, run, reason)
        except RefusedError as error:
            return str(error)

    candidate_panel(app, store, "f")


def members(run: RunView, group: Mapping[str, str]) -> list[int]:
    """Indices of the candidates of a group, ascending."""
    if group["stage"] not in run.tables:
        return []
    frame = run.tables[group["stage"]].frame
    reason = frame["reason"].astype(object).fillna("").astype(str)
    chosen = (frame["status"].astype(str) == group["status"]) & (reason == group["reason"])
    return [int(index) for index in frame["index"].to_numpy()[chosen.to_numpy()]]


def _group_table(found: Sequence[Group], chosen: Mapping[str, str] | None) -> Any:
    if not found:
        return empty("Nothing of this kind: no candidate was lost.")
    rows = [
        [
            number(group.count), _share(group.count, group.tried),
            html.Span(group.status, className=f"status {group.status}"),
            html.Button(
                group.reason or "no reason given", id={"kind": "f-group", "place": place},
                className="link chosen" if group.key == chosen else "link",
            ),
            group.stage, group.name,
        ]
        for place, group in enumerate(found)
    ]  # fmt: skip
    head: list[Header] = [
        ("count", "num"),
        ("of tried", "num"),
        "status",
        "reason",
        ("stage", "short"),
        "run",
    ]
    return table(head, rows, "Reasons, the worst first")


def _share(count: int, tried: int) -> str:
    share = count / max(tried, 1)
    return "< 1%" if share < 0.005 else f"{share:.0%}"


def _list(
    run: RunView, group: Mapping[str, str], indices: list[int], page: int, chosen: int | None
) -> Any:
    shown = indices[page * _PAGE : (page + 1) * _PAGE]
    stage = group["stage"]
    found = words(run.store.stage(stage).folder, stage, shown)
    frame = run.tables[stage].frame.set_index("index")
    rows = [
        [
            html.Button(
                str(found.get(index, {}).get("candidate_id") or index),
                id={"kind": "f-row", "index": index},
                className="link chosen" if index == chosen else "link",
            ),
            str(frame.loc[index, "attempt"]), str(found.get(index, {}).get("detail") or ""),
        ]
        for index in shown
    ]  # fmt: skip
    pages = max(0, len(indices) - 1) // _PAGE + 1
    return [
        html.H3(f"{group['reason'] or group['status']} in {stage}"),
        table(
            [("candidate", "wraps"), ("try", "num"), ("detail", "wraps")],
            rows,
            "Candidates of the group",
        ),
        html.Div(
            [
                html.Button("Previous", id={"kind": "f-turn", "step": -1}, disabled=page == 0),
                html.Span(f"page {page + 1:,} of {pages:,}"),
                html.Button("Next", id={"kind": "f-turn", "step": 1}, disabled=page + 1 >= pages),
            ],
            className="pager",
        ),
    ]


def _command(run: RunView, group: Mapping[str, str]) -> str:
    """The same on the command line."""
    if group["status"] != Status.FAILED:
        return "The same parameters give the same result here; another attempt cures nothing."
    hint = "" if group["reason"] in RETRYABLE else " (another attempt will hardly cure this reason)"
    return (
        f"On the command line: csp failures {run.folder} --requeue {group['reason']}, then "
        f"csp resume {run.folder}{hint}"
    )
