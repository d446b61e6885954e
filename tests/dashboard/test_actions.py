"""Starting work: what is refused and why, and what is sent to the server when it is not."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
from synthetic_campaign import write_campaign

from dashboard.actions import RefusedError, prefect_client, resume
from dashboard.settings import Settings
from packflow_core.store.lock import RunLock

URL = "http://127.0.0.1:1/api"


class Server:
    """Stands for Prefect's client: what it answers, and what it was asked to start."""

    def __init__(self, pool="cpu", workers=("ONLINE",), paused=False, waiting=(), known=True):
        self.pool, self.workers, self.paused = pool, workers, paused
        self.waiting, self.known, self.started = waiting, known, []

    def read_deployment_by_name(self, name):
        from prefect.exceptions import ObjectNotFound

        if not self.known:
            raise ObjectNotFound(Exception("404"))
        assert name == "resume/relaxations"
        return SimpleNamespace(
            id="7f0c2a52-6a0f-4a57-9b3f-0d3c8f6b2a11", name="relaxations",
            work_pool_name=self.pool, status="NOT_READY",
        )  # fmt: skip

    def read_work_pool(self, name):
        return SimpleNamespace(is_paused=self.paused)

    def read_workers_for_work_pool(self, name):
        return [SimpleNamespace(status=status) for status in self.workers]

    def read_flow_runs(self, **_):
        return [
            SimpleNamespace(name="early-bird", parameters={"run_folder": str(f)})
            for f in self.waiting
        ]

    def create_flow_run_from_deployment(self, identity, parameters):
        self.started.append((identity, parameters))
        return SimpleNamespace(name="brave-otter")


@pytest.fixture
def settings(small):
    return Settings((small,), allow_actions=True, prefect_url=URL)


@pytest.fixture
def view(small, open_store):
    return open_store(small).runs()[0]


def start(settings, view, reason, server):
    return resume(settings, view, reason, connect=lambda url: nullcontext(server))


def test_a_reason_is_queued_again_in_its_folder(settings, view):
    server = Server()
    sentence = start(settings, view, "engine_error", server)
    assert "brave-otter" in sentence
    ((_, parameters),) = server.started
    assert parameters == {"run_folder": str(view.folder), "requeue": ["engine_error"]}


def test_an_interrupted_run_is_resumed(tmp_path, open_store, settings):
    write_campaign(tmp_path / "run", 60, stop=("relax", 0.5))
    (view,) = open_store(tmp_path).runs()
    server = Server()
    start(settings, view, None, server)
    assert server.started[0][1] == {"run_folder": str(view.folder)}


@pytest.mark.parametrize(
    ("server", "words"),
    [
        (Server(workers=()), "No worker listens on the work pool cpu"),
        (Server(workers=("OFFLINE",)), "No worker listens"),
        (Server(paused=True), "paused"),
        (Server(pool=None), "Nobody serves"),
        (Server(known=False), "no deployment resume/relaxations"),
    ],
)
def test_what_nobody_would_pick_up_is_refused(server, words, settings, view):
    with pytest.raises(RefusedError, match=words):
        start(settings, view, "engine_error", server)
    assert server.started == []


def test_a_second_flow_run_for_a_folder_is_refused(settings, view):
    with pytest.raises(RefusedError, match="early-bird"):
        start(settings, view, "engine_error", Server(waiting=[view.folder]))
    assert "queued" in start(settings, view, "engine_error", Server(waiting=["/another"]))


def test_read_only_unknown_reasons_and_finished_runs_are_refused(small, view, settings):
    server = Server()
    with pytest.raises(RefusedError, match="--allow-actions"):
        start(Settings((small,), prefect_url=URL), view, "engine_error", server)
    with pytest.raises(RefusedError, match="--prefect-url"):
        start(Settings((small,), allow_actions=True), view, "engine_error", server)
    with pytest.raises(RefusedError, match="no such reason"):
        start(settings, view, "<img src=x>", server)
    with pytest.raises(RefusedError, match="No candidate"):
        start(settings, view, "scf", server)
    with pytest.raises(RefusedError, match="finished"):
        start(settings, view, None, server)
    with RunLock(view.folder), pytest.raises(RefusedError, match="works in"):
        start(settings, view, "engine_error", server)
    assert server.started == []


def test_a_server_that_is_not_there_is_one_sentence(settings, view):
    with pytest.raises(RefusedError, match=f"{URL} did not take it") as caught:
        resume(settings, view, "engine_error", connect=prefect_client)
    assert "\n" not in str(caught.value)
