"""Targets as runs of a deployment: started once, waited for, cancelled with the campaign."""

import uuid
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import yaml
from prefect.states import Cancelled, Completed, Failed, Running

from flows import campaign_remote as module
from flows.campaign_runs import Search, open_campaign
from flows.how import How
from packflow_core.errors import UserInputError


class FakeServer:
    """Runs that end as the test says, one look after the other."""

    def __init__(self, states):
        self.states = {name: list(given) for name, given in states.items()}
        self.started, self.ids, self.cancelled = [], {}, []

    def run_deployment(self, name, parameters, timeout, flow_run_name, idempotency_key):
        if name != "csp/single":
            raise ValueError("no such deployment")
        assert timeout == 0
        target = parameters["spec"]["name"]
        self.started.append((target, parameters, idempotency_key))
        number = uuid.uuid4()
        self.ids[number] = target
        return SimpleNamespace(id=number)

    @contextmanager
    def get_client(self, sync_client):
        assert sync_client
        yield self

    def read_flow_run(self, number):
        states = self.states[self.ids[number]]
        state = states.pop(0) if len(states) > 1 else states[0]
        if isinstance(state, BaseException):
            raise state
        return SimpleNamespace(state=state)

    def set_flow_run_state(self, number, state):
        self.cancelled.append((self.ids[number], state.type))


@pytest.fixture
def runs(tmp_path):
    path = tmp_path / "two.yaml"
    targets = [{"name": "one", "smiles": "C"}, {"name": "two", "smiles": "CC"}]
    path.write_text(yaml.safe_dump({"name": "two-targets", "targets": targets}))
    return open_campaign(str(path), [], Search(n=3), tmp_path / "out")


@pytest.fixture
def server(monkeypatch):
    def use(**states):
        fake = FakeServer(states)
        monkeypatch.setattr(module, "run_deployment", fake.run_deployment)
        monkeypatch.setattr(module, "get_client", fake.get_client)
        monkeypatch.setattr(module.time, "sleep", lambda s: None)
        return fake

    return use


def test_every_target_is_a_run_and_its_end_is_noted(runs, server):
    fake = server(one=[Running(), Running(), Completed()], two=[Failed(message="No disk.")])
    counts = []
    module.run_through(runs, "csp/single", How(4, "cpu"), lambda *c: counts.append(c))
    assert [target for target, _, _ in fake.started] == ["one", "two"]
    _, parameters, key = fake.started[0]
    assert parameters["spec"]["n"] == 3
    assert parameters["out"] == str(runs.items[0].folder.resolve())
    assert (parameters["workers"], parameters["device"]) == (4, "cpu")
    assert key != fake.started[1][2]
    assert counts == [(1, 2), (2, 2)]
    assert runs.items[0].problem == ""
    assert runs.items[1].problem == "Its flow run ended as Failed: No disk."
    assert fake.cancelled == []


def test_a_campaign_that_ends_early_takes_its_runs_along(runs, server):
    fake = server(one=[Cancelled()], two=[Running(), KeyboardInterrupt()])
    with pytest.raises(KeyboardInterrupt):
        module.run_through(runs, "csp/single", How(), lambda *_: None)
    assert fake.cancelled == [("two", "CANCELLING")]


def test_a_deployment_that_is_not_there_is_one_sentence(runs, server):
    server()
    with pytest.raises(UserInputError, match="has no deployment 'csp/nothing'"):
        module.run_through(runs, "csp/nothing", How(), lambda *_: None)
