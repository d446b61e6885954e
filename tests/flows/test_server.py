"""The flow against a real Prefect server: what it records there, and that it needs no database."""

import json
import os
import socket
import subprocess
import sys
import urllib.request

import pytest
from waiting import wait_for

from packflow_core.stages.run_store import RunStore
from packflow_core.store.schema import STAGES

# The gas-like crystals of the stand-in are at the edge of what a packing comparison can tell.
RUN = (
    "C=O", "--name", "formaldehyde", "--z", "2", "--n", "6", "--workers", "2",
    "--set", "relax.exp_cell_factor=8",
)  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """URL of a server of our own on a free port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}/api"
    home = tmp_path_factory.mktemp("prefect")
    log = (home / "server.log").open("wb")
    process = subprocess.Popen(
        [sys.executable, "-m", "prefect", "server", "start", "--port", str(port), "--no-ui"],
        env={
            **os.environ, "PREFECT_HOME": str(home), "PREFECT_API_URL": url,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        },
        stdout=log, stderr=log,
    )  # fmt: skip

    def answers():
        assert process.poll() is None, (home / "server.log").read_text()
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=2) as answer:
                return answer.status == 200
        except OSError:
            return False

    try:
        wait_for(answers, "the server")
        yield url
    finally:
        process.terminate()
        process.wait(timeout=30)
        log.close()


def ask(url, path, body=None):
    request = urllib.request.Request(
        f"{url}/{path}", json.dumps(body or {}).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def test_a_run_on_a_server_shows_its_tasks_and_results_there(csp, server, tmp_path):
    folder = tmp_path / "run"
    summary = csp.document("run", *RUN, "--out", folder, env={"PREFECT_API_URL": server})
    assert summary["status"] == "finished"
    assert summary["n_ranked"] == 5
    assert {stage["stage"]: stage["ok"] for stage in summary["stages"]} == dict.fromkeys(STAGES, 5)

    (flow_run,) = ask(server, "flow_runs/filter")
    assert flow_run["name"] == "csp formaldehyde packflow-open"
    assert flow_run["state_type"] == "COMPLETED"
    assert flow_run["parameters"]["spec"]["n"] == 6
    tasks = ask(server, "task_runs/filter")
    assert sorted(task["name"].split()[0].split("-")[0] for task in tasks) == sorted(
        [*STAGES, "report"]
    )
    artifacts = {a["key"] or a["type"]: a for a in ask(server, "artifacts/filter")}
    assert artifacts["progress"]["data"] == 100.0
    for stage in STAGES:
        bar = artifacts[f"{stage.replace('_', '-')}-formaldehyde-packflow-open"]
        assert bar["data"] == 100.0
        assert bar["description"].startswith(f"{stage}: {6 if stage == 'generate' else 5}/")
        assert bar["flow_run_id"] == flow_run["id"]
    picture = artifacts["landscape-formaldehyde-packflow-open"]
    assert picture["type"] == "image"
    assert picture["data"].startswith("data:image/png;base64,iVBOR")
    funnel = json.loads(artifacts["funnel-formaldehyde-packflow-open"]["data"])
    assert [row["stage"] for row in funnel] == list(STAGES)
    assert [row["rejected"] for row in funnel] == [1, 0, 0, 0, 0]
    assert len([a for a in ask(server, "artifacts/filter") if a["type"] == "table"]) == 1
    page = artifacts["result-formaldehyde-packflow-open"]["data"]
    assert (folder / "report.html").as_uri() in page
    assert "csp dashboard" in page
    assert "## Ranked structures" in page
    assert "](landscape.png)" not in page
    # No private server was started, and none of its files are there.
    assert not list(csp.temporary.glob("packflow-prefect-*"))
    assert "temporary server" not in (folder / "csp.log").read_text()


def test_another_reference_ranks_anew_without_relaxing_anew(csp, tmp_path):
    """Without a server; a broken profile of the user is not in the way."""
    folder = tmp_path / "run"
    home = tmp_path / "home"
    (home / ".prefect").mkdir(parents=True)
    (home / ".prefect" / "profiles.toml").write_text("this is [ no profile")
    env = {"HOME": str(home)}
    code, out, err = csp("run", *RUN, "--out", folder, env=env)
    assert code == 0, err
    assert "formaldehyde-z2-00000" in out
    assert str(folder / "report.html") in out
    before = RunStore(folder)
    assert before.status == "finished"
    relaxed = before.stage("relax").rows()
    assert all(row["match_n"] is None for row in before.stage("rank").rows())

    best = next(iter(sorted((folder / "structures").glob("001_*.cif"))))
    known = tmp_path / "known.cif"
    known.write_bytes(best.read_bytes())
    document = csp.document("rank", folder, "--rerank", "--reference", known, env=env)
    assert document["reference_rank"] == 1
    after = RunStore(folder)
    assert after.plan.key("rank") != before.plan.key("rank")
    assert after.plan.key("relax") == before.plan.key("relax")
    assert after.stage("relax").rows() == relaxed
    assert before.stage("rank").folder.is_dir()
    # The folder is self-contained: the reference may be gone.
    known.unlink()
    code, _, err = csp("resume", folder, "--quiet", env=env)
    assert (code, err) == (0, "")
    assert RunStore(folder).plan.key("rank") == after.plan.key("rank")
