"""The page of campaigns: how far every run is, what became of its candidates, what it cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dash import ALL, Dash, Input, Output, ctx, dcc, html

from dashboard.components import Header, empty, field, graph, labelled, number, problems, table
from dashboard.figures import empty_figure, funnel_figure
from dashboard.runs import BrokenRun, RunView, StageView
from dashboard.settings import Settings
from dashboard.store import Store
from dashboard.targets import all_run_options
from dashboard.theme import theme
from packflow_core.progress import duration, speed

#: Runs of which the page shows the stages; more are a line each.
_LINES = 200


def layout(store: Store, query: Mapping[str, str]) -> html.Div:
    """The page; the query may name a `run`, whose funnel is shown."""
    return html.Div(
        [
            html.Div(id="c-summary"),
            html.Div(id="c-problems"),
            html.Div(
                [
                    labelled(html.Section,
                        [html.H2("Runs"), html.Div(id="c-runs")], "Runs", className="left"),
                    labelled(html.Section,
                        [
                            field(
                                "Stages of",
                                dcc.Dropdown(id="c-run", value=query.get("run"), clearable=False),
                            ),
                            graph("c-funnel", 250),
                            html.Div(id="c-stages"),
                        ],
                        "Stages of a run", className="right"),
                ],
                className="split wide-left",
            ),
        ]
    )  # fmt: skip


def register(app: Dash, store: Store) -> None:
    """What happens on the page."""

    @app.callback(
        Output("c-summary", "children"),
        Output("c-problems", "children"),
        Output("c-runs", "children"),
        Output("c-run", "options"),
        Output("c-run", "value"),
        Input("version", "data"),
        Input("pulse", "data"),
        Input({"kind": "c-row", "run": ALL}, "n_clicks"),
        Input("c-run", "value"),
    )
    def overview(
        _version: int, _pulse: Any, _clicks: Any, chosen: str | None
    ) -> tuple[Any, Any, Any, Any, Any]:
        cause = ctx.triggered_id
        if isinstance(cause, dict) and ctx.triggered[0]["value"]:
            chosen = str(cause["run"])
        views = store.views()
        runs = [view for view in views if isinstance(view, RunView)]
        broken = [view for view in views if isinstance(view, BrokenRun)]
        lines = [f"{view.folder}: {view.sentence}" for view in broken]
        lines += [f"{run.folder}: {problem}" for run in runs for problem in run.problems]
        options = all_run_options(runs)
        known = {run.id for run in runs}
        if chosen not in known:
            first = next((run for run in runs if run.status == "running"), None)
            chosen = (first or runs[0]).id if runs else None
        settings = store.settings
        return summary(runs, settings), problems(lines), run_table(runs, chosen), options, chosen

    @app.callback(
        Output("c-funnel", "figure"),
        Output("c-stages", "children"),
        Input("c-run", "value"),
        Input("version", "data"),
        Input("pulse", "data"),
        Input("theme", "data"),
    )
    def stages(run_id: str | None, _version: int, _pulse: Any, look: str) -> tuple[Any, Any]:
        run = store.run(run_id)
        if run is None:
            return empty_figure("No run is chosen.", theme(look)), []
        return funnel_figure(_counts(run.stages), theme(look)), stage_table(run, store.settings)


def summary(runs: Sequence[RunView], settings: Settings) -> Any:
    """One line about everything below the roots."""
    if not runs:
        roots = ", ".join(str(root) for root in settings.roots)
        return empty(
            f"No run was found below {roots}. Start one with 'csp run'; it appears here by itself."
        )
    at_work = sum(run.status == "running" for run in runs)
    campaigns = len({run.campaign for run in runs})
    targets = len({(run.target, run.smiles) for run in runs})
    parts = [
        _count(campaigns, "campaign"), _count(targets, "target"), _count(len(runs), "run"),
        f"{at_work} at work", _count(sum(run.n for run in runs), "candidate"),
        _hours(sum(r.cpu_s for r in runs), "CPU"), _hours(sum(r.gpu_s for r in runs), "GPU"),
        cost(sum(r.cpu_s for r in runs), sum(r.gpu_s for r in runs), settings),
    ]  # fmt: skip
    return html.H1(" · ".join(part for part in parts if part))


def run_table(runs: Sequence[RunView], chosen: str | None = None) -> Any:
    """A line for every run, by campaign and target; those at work first."""
    if not runs:
        return []
    ordered = sorted(
        runs, key=lambda r: (r.status != "running", r.campaign, r.target, r.method, str(r.folder))
    )
    rows = []
    for run in ordered[:_LINES]:
        done, ranked = _progress(run), run.tables["rank"].frame
        bar = html.Progress(value=str(round(done, 4)), max="1", title=f"{done:.1%}")
        rows.append(
            [
                run.campaign,
                dcc.Link(run.target, href=f"/target?run={run.id}"),
                html.Button(
                    run.method,
                    id={"kind": "c-row", "run": run.id},
                    className="link chosen" if run.id == chosen else "link",
                    title=str(run.folder),
                ),
                html.Span(run.status, className=f"status {_word(run.status)}"),
                bar,
                number(len(ranked)),
                dcc.Link(number(_failed(run)), href=f"/failures?run={run.id}"),
                _hours(run.gpu_s, "GPU") or _hours(run.cpu_s, "CPU"),
                _left(run),
            ]
        )
    head: list[Header] = [
        "campaign", "target", "method", "status", "done", ("ranked", "num"), ("failed", "num"),
        ("work", "num"), ("time left", "short"),
    ]  # fmt: skip
    shown: list[Any] = [table(head, rows, "Runs")]
    if len(ordered) > _LINES:
        shown.append(
            html.P(f"{len(ordered) - _LINES:,} more runs are not listed.", className="note")
        )
    return shown


def stage_table(run: RunView, settings: Settings) -> Any:
    """Counts, speed and cost of every stage of a run."""
    rows = [
        [
            stage.name, number(stage.eligible), number(stage.attempted), number(stage.ok),
            number(stage.unconverged), number(stage.rejected), number(stage.failed),
            number(stage.pending), "" if stage.rate is None else speed(stage.rate),
            "" if stage.left_s is None else duration(stage.left_s),
        ]
        for stage in run.stages
    ]  # fmt: skip
    head: list[Header] = [
        ("stage", "short"), ("given", "num"), ("tried", "num"), ("ok", "num"),
        ("unconv.", "num"), ("rejected", "num"), ("failed", "num"), ("left", "num"),
        ("rate", "num"), ("time left", "num"),
    ]  # fmt: skip
    facts = [
        _hours(run.cpu_s, "CPU"), _hours(run.gpu_s, "GPU"), busy(run),
        f"elapsed {duration(run.elapsed_s)}", cost(run.cpu_s, run.gpu_s, settings),
        f"engine {run.engine}", f"Z {', '.join(map(str, run.store.plan.spec.z))}",
        f"seed {run.store.plan.spec.seed}",
    ]  # fmt: skip
    return [
        table(head, rows, "Stages"),
        html.P(" · ".join(fact for fact in facts if fact), className="note"),
        html.P(str(run.folder), className="note"),
    ]


def busy(run: RunView) -> str:
    """How many processors and GPUs were at work on average while the run was."""
    if run.elapsed_s <= 0:
        return ""
    parts = [f"{run.cpu_s / run.elapsed_s:.1f} processors"] if run.cpu_s else []
    parts += [f"{run.gpu_s / run.elapsed_s:.1f} GPUs"] if run.gpu_s else []
    return f"{' and '.join(parts)} busy on average" if parts else ""


def cost(cpu_s: float, gpu_s: float, settings: Settings) -> str:
    """What the working time costs; empty where no price is known."""
    prices = (settings.cpu_hour_price, settings.gpu_hour_price)
    if all(price is None for price in prices):
        return ""
    total = sum((p or 0.0) * s / 3600.0 for p, s in zip(prices, (cpu_s, gpu_s), strict=True))
    return f"cost {total:,.2f}"


def _counts(stages: Sequence[StageView]) -> list[tuple[str, dict[str, int]]]:
    return [
        (
            stage.name,
            {
                "ok": stage.ok, "unconverged": stage.unconverged, "rejected": stage.rejected,
                "failed": stage.failed, "pending": max(0, stage.eligible - stage.attempted),
            },
        )
        for stage in stages
    ]  # fmt: skip


def _progress(run: RunView) -> float:
    """Share of the stages that is done; the one at work counts by its candidates."""
    if run.at_work is None:
        return 1.0
    first = run.stages.index(run.at_work)
    stage = run.at_work
    share = (stage.eligible - stage.pending) / stage.eligible if stage.eligible else 1.0
    return (first + share) / len(run.stages)


def _left(run: RunView) -> str:
    stage = run.at_work
    if run.status != "running" or stage is None:
        return ""
    left = "" if stage.left_s is None else f", {duration(stage.left_s)}"
    return f"{stage.name}{left}"


def _failed(run: RunView) -> int:
    return sum(stage.failed for stage in run.stages)


def _count(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def _hours(seconds: float, device: str) -> str:
    if not seconds:
        return ""
    return (
        f"{seconds / 3600:.1f} {device} h"
        if seconds >= 3600
        else f"{seconds / 60:.0f} {device} min"
    )


def _word(text: str) -> str:
    return text if text.isalpha() else ""
