"""The app: frame, routes, refresh, downloads and the headers that keep it closed.

Everything it serves lies in this package or in Dash itself; the page loads nothing from elsewhere,
so it works without a network.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from types import ModuleType
from typing import Any
from urllib.parse import parse_qsl

import flask
from dash import Dash, Input, Output, State, dcc, html, no_update, set_props

from dashboard.candidate import read_candidate
from dashboard.components import announced, empty, in_browser, labelled
from dashboard.pages import campaigns, compare, convergence, failures, target
from dashboard.settings import Settings
from dashboard.store import Store
from packflow_core.crystal.cif import crystal_to_cif_text

logger = logging.getLogger(__name__)

#: Address to (title, module), in the order of the menu.
PAGES: dict[str, tuple[str, ModuleType]] = {
    "/": ("Campaigns", campaigns),
    "/target": ("Target", target),
    "/failures": ("Failures", failures),
    "/compare": ("Compare", compare),
    "/convergence": ("Convergence", convergence),
}
_INDEX = """<!DOCTYPE html>
<html lang="en">
  <head>{%metas%}<meta name="viewport" content="width=device-width, initial-scale=1">
    <title>{%title%}</title>{%favicon%}{%css%}</head>
  <body>{%app_entry%}<noscript>This page needs JavaScript.</noscript>
    <footer>{%config%}{%scripts%}{%renderer%}</footer></body>
</html>"""
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "[::1]", "::1"})


def make_app(settings: Settings) -> Dash:
    """The dashboard over some folders.

    Args:
        settings: what to show and what to allow.

    Returns:
        A Dash app; `app.server` is its WSGI application.
    """
    store = Store(settings)
    store.refresh()
    app = Dash(
        "dashboard",
        title="packflow-csp",
        update_title="",
        serve_locally=True,
        suppress_callback_exceptions=True,
        assets_folder="assets",
        assets_ignore=r".*\.txt$",
        on_error=_report,
        index_string=_INDEX,
    )
    app.layout = _frame(settings)
    _register_frame(app, store)
    for _, page in PAGES.values():
        page.register(app, store)
    _add_downloads(app.server, store)
    _close(app, settings)
    return app


def _report(error: Exception) -> None:
    """One line for what broke in a part of the page; the other parts stay as they are."""
    logger.error("a part of the page could not be made", exc_info=error)
    set_props("notice", {"children": f"A part of this page could not be made: {error!r:.300}"})


def _frame(settings: Settings) -> html.Div:
    menu = [dcc.Link(title, href=address) for address, (title, _) in PAGES.items()]
    kind = "actions allowed" if settings.allow_actions else "read only"
    return html.Div(
        [
            html.A("Skip to the page", href="#page", className="skip"),
            html.Header(
                [
                    html.Strong("packflow-csp"),
                    labelled(html.Nav, menu, "Pages", id="menu"),
                    html.Span(kind, className="pill"),
                    html.Button("Light / dark", id="theme-toggle", title="Switch the theme"),
                ]
            ),
            announced(html.P, "notice", politely=False, className="notice"),
            html.Main(html.Div(id="page", tabIndex=-1)),
            dcc.Location(id="address"),
            dcc.Store(id="version", data=0),  # grows when files changed
            dcc.Store(id="pulse", data=0),  # beats while a run is at work
            dcc.Store(id="theme", data="light"),
            dcc.Interval(id="clock", interval=max(500, round(1000 * settings.refresh_s))),
        ]
    )


def _register_frame(app: Dash, store: Store) -> None:
    @app.callback(
        Output("page", "children"), Input("address", "pathname"), Input("address", "search")
    )
    def show(pathname: str | None, search: str | None) -> Any:
        found = PAGES.get(pathname or "/")
        if found is None:
            return empty("There is no such page; the menu above has all of them.")
        store.refresh()
        query: Mapping[str, str] = dict(parse_qsl((search or "").lstrip("?")))
        return found[1].layout(store, query)

    in_browser(
        app,
        "menu",
        Output("menu", "data-at"),
        Input("address", "pathname"),
    )

    @app.callback(
        Output("version", "data"),
        Output("pulse", "data"),
        Input("clock", "n_intervals"),
        State("version", "data"),
    )
    def look(ticks: int | None, version: int) -> tuple[Any, Any]:
        found = store.refresh()
        return no_update if found == version else found, ticks if store.at_work else no_update

    in_browser(
        app,
        "theme",
        Output("theme", "data"),
        Input("theme-toggle", "n_clicks"),
    )


def _add_downloads(server: flask.Flask, store: Store) -> None:
    """CIFs of candidates: runs by identity, stages by name, candidates by number; never a path."""

    @server.get("/cif/<run_id>/<stage>/<int:index>.cif")
    def cif(run_id: str, stage: str, index: int) -> flask.Response:
        run = store.run(run_id)
        if run is None or stage not in run.store.plan.stage_names:
            flask.abort(404)
        candidate = read_candidate(run, index)
        if stage not in candidate.stages:
            flask.abort(404)
        crystal, _, sentence = candidate.crystal(stage)
        if crystal is None:
            flask.abort(404, sentence)
        name = re.sub(r"[^A-Za-z0-9._+-]", "_", f"{candidate.id}_{stage}")[:120]
        answer = flask.Response(
            crystal_to_cif_text(crystal, name, {"stage": stage}), mimetype="chemical/x-cif"
        )
        answer.headers["Content-Disposition"] = f'attachment; filename="{name}.cif"'
        return answer

    @server.get("/cif/<path:_rest>")
    def no_cif(_rest: str) -> flask.Response:
        flask.abort(404)


def _close(app: Dash, settings: Settings) -> None:
    """Refuse requests that other pages or names brought here, and let the page load nothing else.

    The check of the name keeps a page elsewhere, whose name was made to resolve to this machine,
    from reading along (DNS rebinding).
    """
    hosts = _LOOPBACK | {settings.host}
    open_to_all = settings.host in ("0.0.0.0", "::")
    # Plotly's drawing on the graphics card compiles functions, hence 'unsafe-eval'.
    scripts = " ".join(["'self'", "'unsafe-eval'", *(f"'{h}'" for h in _hashes(app))])
    policy = (
        f"default-src 'self'; script-src {scripts}; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data: blob:; worker-src 'self' blob:; object-src 'none'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )

    server: flask.Flask = app.server

    @server.before_request
    def check_host() -> Any:
        name = flask.request.host
        name = name.rsplit(":", 1)[0] if not name.endswith("]") else name
        if not open_to_all and name not in hosts:
            flask.abort(403, "This dashboard is not called so; use the address that it printed.")
        origin = flask.request.headers.get("Sec-Fetch-Site", "same-origin")
        if flask.request.method == "POST" and origin not in ("same-origin", "none"):
            flask.abort(403, "Requests of other pages are refused.")
        return None

    @server.after_request
    def add_headers(answer: flask.Response) -> flask.Response:
        answer.headers["Content-Security-Policy"] = policy
        answer.headers["X-Content-Type-Options"] = "nosniff"
        answer.headers["Referrer-Policy"] = "no-referrer"
        return answer


def _hashes(app: Dash) -> list[str]:
    return [str(digest).strip("'") for digest in app.csp_hashes()]
