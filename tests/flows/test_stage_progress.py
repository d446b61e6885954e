"""Progress on the flow run's page and in a worker's log, without a server."""

import logging
import time
from types import SimpleNamespace

import pytest

from flows import artifacts, stage_progress
from flows.artifacts import DASHBOARD_URL, dashboard_hint, result_page
from flows.stage_progress import StageProgress, shown_in_prefect
from packflow_core import progress
from packflow_core.progress import LogProgress, SilentProgress
from packflow_core.stages.finish import Summary


class Server:
    """Stands in for the calls of Prefect that write artifacts."""

    def __init__(self):
        self.bars, self.calls, self.down = {}, 0, False

    def create(self, value, key, description):
        self.calls += 1
        if self.down:
            raise OSError("no answer")
        self.bars[key] = (value, description)
        return key

    def update(self, key, value, description):
        self.create(value, key, description)


@pytest.fixture
def server(monkeypatch):
    server = Server()
    monkeypatch.setattr(stage_progress, "create_progress_artifact", server.create)
    monkeypatch.setattr(stage_progress, "update_progress_artifact", server.update)
    return server


class Heard(SilentProgress):
    def __init__(self):
        self.calls, self.closed = [], False

    def advance(self, stage, status, count=1):
        self.calls.append((stage, status, count))

    def close(self):
        self.closed = True


def test_every_stage_has_a_bar_and_the_terminal_hears_all(server):
    terminal = Heard()
    with progress.use(terminal):
        with shown_in_prefect("urea-random", every_s=60.0):
            sink = progress.current()
            sink.start("relax_h", 8, {"ok": 2})
            sink.advance("relax_h", "ok", 3)
            sink.advance("relax_h", "failed")
            sink.start("rank", 0, {})
            sink.finish("relax_h")
            sink.advance("unknown", "ok")
        assert progress.current() is terminal
        assert not terminal.closed
    assert terminal.calls == [("relax_h", "ok", 3), ("relax_h", "failed", 1), ("unknown", "ok", 1)]
    assert set(server.bars) == {"relax-h-urea-random", "rank-urea-random"}
    value, text = server.bars["relax-h-urea-random"]
    assert value == 75.0
    assert text.startswith("relax_h: 6/8 (")
    assert text.endswith("5 ok, 1 failed)")
    assert server.bars["rank-urea-random"][0] == 100.0


def test_ten_thousand_candidates_are_few_updates(server):
    sink = StageProgress(SilentProgress(), "x", every_s=0.05)
    began = time.monotonic()
    sink.start("relax", 10_000, {})
    for _ in range(10_000):
        sink.advance("relax", "ok")
    sink.close()
    assert server.calls <= 2 + (time.monotonic() - began) / 0.05
    assert server.bars["relax-x"][0] == 100.0


def test_a_server_that_does_not_answer_is_said_once(server, caplog):
    server.down = True
    with caplog.at_level(logging.WARNING):
        sink = StageProgress(SilentProgress(), "x", every_s=0.001)
        for stage in ("generate", "relax"):
            sink.start(stage, 1, {})
            sink.advance(stage, "ok")
        sink.close()
    assert server.calls >= 2
    assert len(caplog.records) == 1


def test_the_log_of_a_worker_gets_lines_where_nothing_else_is_shown(server, monkeypatch, caplog):
    monkeypatch.setattr(stage_progress, "FlowRunContext", SimpleNamespace(get=object))
    monkeypatch.setattr(stage_progress, "get_run_logger", lambda: logging.getLogger("run"))
    with caplog.at_level(logging.INFO, "run"), shown_in_prefect("x"):
        sink = progress.current()
        sink.start("relax", 10_000, {})
        for _ in range(10_000):
            sink.advance("relax", "ok")
        sink.finish("relax")
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0] == "relax: 10000 candidates"
    assert lines[-1].startswith("relax: 10000/10000 in ")
    assert len(lines) <= 4


def test_with_a_terminal_the_log_of_the_run_has_no_second_lines(server, monkeypatch):
    def never():
        raise AssertionError

    monkeypatch.setattr(stage_progress, "get_run_logger", never)
    monkeypatch.setattr(stage_progress, "FlowRunContext", SimpleNamespace(get=object))
    with progress.use(LogProgress()), shown_in_prefect("x"):
        pass


@pytest.fixture
def summary(tmp_path):
    (tmp_path / "report.md").write_text("# x\n\n![Density](landscape.png)\n\nRows.\n")
    names = {"report": "report.html", "markdown": "report.md", "table": "ranked.csv"}
    files = {name: str(tmp_path / file) for name, file in names.items()}
    return Summary(
        "x", "c", "random", "C", str(tmp_path), 9, 7, 5, None, [], [], files, {}
    )  # fmt: skip


def test_the_result_page_is_the_report_with_links(summary, tmp_path, monkeypatch):
    monkeypatch.delenv(DASHBOARD_URL, raising=False)
    text = result_page(summary)
    assert text.startswith("**7 candidates ranked, 5 distinct structures.**\n")
    assert f"[Report]({(tmp_path / 'report.html').as_uri()})" in text
    assert f"Dashboard: `csp dashboard {tmp_path}`" in text
    assert text.endswith("# x\n\n\nRows.\n")
    assert "landscape.png" not in text


@pytest.mark.parametrize("url", ["javascript:alert(1)", "http://a b", "http://a)b", ""])
def test_only_an_address_becomes_a_link(url, tmp_path, monkeypatch):
    monkeypatch.setenv(DASHBOARD_URL, url)
    assert dashboard_hint(tmp_path).startswith("Dashboard: `csp dashboard")
    monkeypatch.setenv(DASHBOARD_URL, "http://127.0.0.1:8050")
    assert dashboard_hint(tmp_path) == "[Dashboard](http://127.0.0.1:8050)"


def test_a_failing_artifact_is_a_warning(caplog):
    def broken():
        raise OSError("no answer")

    assert artifacts._try(broken) is None
    assert "an artifact could not be written" in caplog.text
