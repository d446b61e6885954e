"""The button of the page of failures starts a real run on a real Prefect server."""

import os
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from serving import served
from synthetic_campaign import rewrite
from waiting import wait_for

from packflow_core.stages.run_store import RunStore

ROOT = Path(__file__).parents[2]
RUN = (
    "C=O", "--name", "formaldehyde", "--z", "2", "--n", "4", "--workers", "2", "--generator",
    "random", "--set", "relax.max_steps=20", "--set", "rank.include_unconverged=true",
)  # fmt: skip


@pytest.fixture
def environment(tmp_path):
    """Variables of a Prefect server of our own on a free port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    home = tmp_path / "prefect"
    home.mkdir()
    return {
        **os.environ, "PREFECT_HOME": str(home), "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "PREFECT_WORKER_QUERY_SECONDS": "1",
        "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PREFECT_TEST_PORT": str(port),
    }  # fmt: skip


@pytest.fixture
def start(environment, tmp_path):
    """Starts programs of Prefect; ends them afterwards."""
    started = []

    def run(*command):
        log = (tmp_path / f"{command[0]}-{len(started)}.log").open("wb")
        started.append(
            subprocess.Popen(
                [sys.executable, "-m", "prefect", *command], env=environment, cwd=ROOT,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )
        )  # fmt: skip
        return started[-1]

    yield run
    for process in reversed(started):
        process.terminate()
        process.wait(timeout=60)


def prefect(environment, *command):
    done = subprocess.run(
        [sys.executable, "-m", "prefect", *command], env=environment, cwd=ROOT, text=True,
        stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def answers(url):
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=2) as answer:
            return answer.status == 200
    except OSError:
        return False


def interrupted_run(folder, environment):
    """A run of four candidates of which one failed in `relax` with the reason engine_error."""
    command = [sys.executable, "-m", "flows.cli", "run", *RUN, "--quiet", "--out", str(folder)]
    plain = {k: v for k, v in environment.items() if k != "PREFECT_API_URL"}
    done = subprocess.run(
        command, env=plain, cwd=ROOT, capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, done.stderr
    run = RunStore(folder)
    victim = run.stage("rank").rows()[0]["index"]
    rewrite(
        folder, "relax", victim, status="failed", reason="engine_error", detail="on purpose",
        energy_eV=None,
    )  # fmt: skip
    for path in run.stage("rank").folder.glob("part-*.parquet"):
        table = pq.read_table(path)
        pq.write_table(table.filter([i != victim for i in table["index"].to_pylist()]), path)
    assert run.attempts("relax")[victim].reason == "engine_error"
    return victim


@pytest.mark.slow
def test_the_button_has_a_worker_attempt_the_failures_again(browser, environment, start, tmp_path):
    folder = tmp_path / "runs" / "single" / "formaldehyde" / "random"
    victim = interrupted_run(folder, environment)
    url = environment["PREFECT_API_URL"]
    server = start("server", "start", "--port", environment["PREFECT_TEST_PORT"], "--no-ui")
    wait_for(lambda: server.poll() is None and answers(url), "the server")
    prefect(environment, "work-pool", "create", "cpu", "--type", "process")
    prefect(
        environment, "--no-prompt", "deploy", "--name", "relaxations", "--prefect-file",
        "deployments/prefect.yaml",
    )  # fmt: skip
    with served(tmp_path / "runs", allow_actions=True, prefect_url=url) as address:
        page = browser.new_page()
        page.set_default_timeout(300_000)
        page.goto(f"{address}/failures")
        page.wait_for_selector("#f-requeue:enabled")
        page.click("#f-requeue")
        page.get_by_text("No worker listens on the work pool cpu").wait_for()
        assert RunStore(folder).attempts("relax")[victim].attempt == 1

        start("worker", "start", "--pool", "cpu")

        def queued():
            page.click("#f-requeue")
            page.wait_for_timeout(2000)
            return "was queued" in page.inner_text("#f-answer")

        wait_for(queued, "the worker")
        wait_for(lambda: RunStore(folder).attempts("relax")[victim].attempt == 2, "the attempt")
        wait_for(lambda: victim in RunStore(folder).attempts("rank"), "the ranking")
        # The page notices by itself that nothing is wrong any more.
        page.get_by_text("no candidate was lost").wait_for()
        page.close()
