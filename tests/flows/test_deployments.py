"""From `csp up` to `csp down` on one machine: a real server, real workers, real deployments."""

import contextlib
import http.server
import json
import os
import signal
import socket
import threading
import time
import urllib.request
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from waiting import wait_for

from packflow_core.stages.run_store import RunStore
from packflow_core.store.rows import same_result
from packflow_core.store.schema import STAGES

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
TOKEN = "hf_aSecretThatNobodyMayRead"
#: A molecule of three heavy atoms, an engine that needs no library: seconds, not minutes.
SMALL = {"target": "JAYDUI", "generator": "random", "engine": "springs", "n": 24, "workers": 1}
ALONE = ("--dashboard-port", "0")
DEPLOYMENTS = {
    "csp/blind-test", "csp/single", "campaign/blind-test-weekly", "baseline/genarris",
    "compare/race", "resume/relaxations", "train/packflow", "train/align", "verify/best",
}  # fmt: skip


def ask(url, path, body=None, method="POST"):
    data = None if method == "GET" else json.dumps(body or {}).encode()
    request = urllib.request.Request(
        f"{url}/{path}", data, {"Content-Type": "application/json"}, method=method
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        text = answer.read()
    return json.loads(text) if text else None


class Server:
    """What the tests ask of the server that `csp up` started."""

    def __init__(self, facts, state):
        self.facts, self.state, self.url = facts, state, facts["api"]

    def start(self, deployment, **parameters):
        found = ask(self.url, f"deployments/name/{deployment}", method="GET")
        body = {"parameters": parameters, "state": {"type": "SCHEDULED"}}
        return ask(self.url, f"deployments/{found['id']}/create_flow_run", body)["id"]

    def worker(self):
        return json.loads((self.state / "up.json").read_text())["services"]["worker-cpu"]

    def state_of(self, run):
        return ask(self.url, f"flow_runs/{run}", method="GET")["state"]

    def ended(self, run):
        def final():
            state = self.state_of(run)
            return state if state["type"] in FINAL else None

        return wait_for(final, f"the end of {run}", 600)


FINAL = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("up")


@pytest.fixture(scope="module")
def up(csp, folder):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    state = folder / "state"
    environment = {"HF_TOKEN": TOKEN, "PREFECT_WORKER_QUERY_SECONDS": "1"}
    facts = csp.document(
        "up",
        "--port",
        port,
        "--state",
        state,
        "--dir",
        folder,
        "--pools",
        "cpu",
        *ALONE,
        env=environment,
    )
    try:
        yield Server(facts, state)
    finally:
        csp("down", "--state", state)


def descendants(pid):
    """A process and all that it started, straight or not."""
    children = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found = [pid]
    for parent in found:
        found += children.get(parent, [])
    return found


def alive(pids):
    """Those that still do something; who has ended and is not yet buried does not."""
    found = []
    for pid in pids:
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
                found.append(pid)
    return found


def recorded(run_folder, stage):
    return len(RunStore(run_folder).attempts(stage)) if (run_folder / "run.json").exists() else -1


@pytest.fixture(scope="module")
def unbroken(up, folder):
    run = up.start("csp/blind-test", out=str(folder / "unbroken"), **SMALL)
    assert up.ended(run)["type"] == "COMPLETED"
    return folder / "unbroken"


def test_everything_is_deployed_and_asks_for_what_it_needs(csp, up):
    assert up.facts["healthy"]
    flows = {flow["id"]: flow["name"] for flow in ask(up.url, "flows/filter")}
    found = {f"{flows[d['flow_id']]}/{d['name']}": d for d in ask(up.url, "deployments/filter")}
    assert set(found) == DEPLOYMENTS
    assert {pool["name"] for pool in ask(up.url, "work_pools/filter")} == {"cpu", "gpu", "mpi"}
    for deployment in found.values():
        fields = deployment["parameter_openapi_schema"]["properties"]
        assert all(field.get("description") for field in fields.values()), deployment["name"]
        assert deployment["concurrency_options"]["collision_strategy"]
    blind = found["csp/blind-test"]["parameter_openapi_schema"]
    assert blind.get("required", []) == []
    assert "OBEQOD" in blind["properties"]["target"]["enum"]
    weekly = found["campaign/blind-test-weekly"]
    (schedule,) = weekly["schedules"]
    assert schedule["schedule"]["timezone"] == "Europe/London"
    assert not schedule["active"]  # unless --schedules was given
    assert weekly["concurrency_options"]["collision_strategy"] == "CANCEL_NEW"
    (automation,) = ask(up.url, "automations/filter")
    assert automation["name"] == "packflow-csp zombies"
    # Bad values are refused at submission, with the name of the field.
    with pytest.raises(urllib.error.HTTPError) as caught:
        up.start("csp/blind-test", target="OBEQOD", n=0)
    assert caught.value.code in (409, 422)
    assert "minimum of 1" in caught.value.read().decode()


def test_up_is_idempotent_and_says_what_is_in_the_way(csp, up, folder):
    port = up.facts["url"].rpartition(":")[2]
    again = csp.document(
        "up", "--port", port, "--state", up.state, "--dir", folder, "--pools", "cpu", *ALONE
    )
    assert again["pid"] == up.facts["pid"]
    code, out, err = csp("up", "--port", port, "--state", folder / "another", *ALONE)
    assert (code, out) == (2, "")
    assert f"Port {port} of 127.0.0.1 is taken by a Prefect server" in err
    code, _, err = csp(
        "up", "--port", "1", "--state", up.state, "--dir", folder, "--pools", "cpu", *ALONE
    )
    assert code == 2
    assert "It is up already with another port" in err


def test_a_run_whose_worker_is_killed_is_continued(up, unbroken, folder):
    """The worker and the run die; the worker is replaced, resume/relaxations ends the run."""
    out = folder / "killed"
    worker = up.worker()["pid"]
    run = up.start("csp/blind-test", out=str(out), **SMALL)
    wait_for(lambda: recorded(out, "relax") >= 2, "two relaxations")
    for pid in descendants(worker):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    wait_for(lambda: RunStore(out).status == "interrupted", "its end")
    assert 2 <= recorded(out, "relax") < SMALL["n"]
    wait_for(lambda: up.worker()["restarts"] == 1, "another worker")
    assert up.worker()["pid"] != worker
    done = set(RunStore(out).attempts("relax"))
    assert up.ended(up.start("resume/relaxations", run_folder=str(out)))["type"] == "COMPLETED"
    assert up.state_of(run)["type"] == "RUNNING"  # nobody could tell; the automation will
    after = RunStore(out)
    assert done <= set(after.attempts("relax"))
    for stage in STAGES:
        ours, theirs = after.stage(stage), RunStore(unbroken).stage(stage)
        assert ours.key == theirs.key
        assert all(same_result(a, b) for a, b in zip(ours.rows(), theirs.rows(), strict=True))
    ranked = [pq.read_table(where / "ranked.parquet").to_pylist() for where in (out, unbroken)]
    assert len(ranked[0]) > 10
    assert all(same_result(a, b) for a, b in zip(*ranked, strict=True))


def test_a_cancelled_run_stops_its_workers_and_can_be_resumed(up, folder):
    out = folder / "cancelled"
    spec = {"smiles": "CCC", "name": "x", "generator": "random", "engine": "springs", "n": 2000}
    run = up.start("csp/single", spec=spec, out=str(out), workers=1)
    wait_for(lambda: recorded(out, "generate") >= 1, "the first candidate")
    engine = json.loads((out / ".lock").read_text())["pid"]
    started = descendants(engine)
    assert len(started) > 1
    ask(up.url, f"flow_runs/{run}/set_state", {"state": {"type": "CANCELLING"}})
    assert up.ended(run)["type"] == "CANCELLED"
    wait_for(lambda: not alive(started), "the end of its processes")
    assert RunStore(out).status == "interrupted"
    done = RunStore(out).attempts("generate")
    assert 1 <= len(done) < 2000
    assert all(attempt.status != "failed" for attempt in done.values())


class Listener(http.server.BaseHTTPRequestHandler):
    """Keeps what is posted."""

    heard: list = []  # noqa: RUF012

    def do_POST(self):
        length = int(self.headers["Content-Length"])
        self.heard.append(json.loads(self.rfile.read(length)))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass


def test_a_failure_is_told_to_a_person(up, folder):
    listener = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Listener)
    threading.Thread(target=listener.serve_forever, daemon=True).start()
    kind = ask(up.url, "block_types/slug/custom-webhook", method="GET")
    (schema, *_) = ask(up.url, "block_schemas/filter", {
        "block_schemas": {"block_type_id": {"any_": [kind["id"]]}}})  # fmt: skip
    block = ask(up.url, "block_documents/", {
        "name": "listener", "block_type_id": kind["id"], "block_schema_id": schema["id"],
        "data": {
            "name": "listener", "url": f"http://127.0.0.1:{listener.server_port}/",
            "json_data": {"subject": "{{subject}}", "body": "{{body}}"},
        },
    })  # fmt: skip
    text = (ROOT / "deployments/automations/notify.yaml").read_text()
    ask(up.url, "automations/", yaml.safe_load(text.replace("BLOCK_ID", block["id"])))
    time.sleep(3)  # automations are read again every second or two
    try:
        run = up.start("resume/relaxations", run_folder=str(folder / "nowhere"))
        state = up.ended(run)
        assert state["type"] == "FAILED"
        assert "is not a run folder" in state["message"]
        (heard,) = wait_for(lambda: Listener.heard, "the message")
    finally:
        listener.shutdown()
    assert heard["subject"].endswith(": Failed")
    assert "is not a run folder" in heard["body"]
    assert f"runs/flow-run/{run}" in heard["body"]


def test_down_ends_everything_and_the_token_is_nowhere(csp, up, unbroken, folder):
    processes = descendants(up.facts["pid"])
    assert len(processes) >= 3
    environment = [Path(f"/proc/{pid}/environ").read_bytes() for pid in processes]
    assert any(TOKEN.encode() in variables for variables in environment)  # runs can use it
    document = csp.document("down", "--state", up.state)
    assert document == {"status": "down", "was": "up"}
    wait_for(lambda: not alive(processes), "the end of all processes", 10)
    assert csp("up", "--status", "--state", up.state)[0] == 1
    assert csp.document("down", "--state", up.state)["was"] == "down"
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert (up.state / "prefect" / "prefect.db") in files
    assert len(files) > 50
    assert not [path for path in files if TOKEN.encode() in path.read_bytes()]
