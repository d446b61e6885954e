"""Task runners: how one is chosen, what a run on Dask gives, and who may use a GPU."""

import json
import os
import re
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
import yaml
from prefect.task_runners import ThreadPoolTaskRunner

from flows import runners
from flows.runners import gpu_slot, is_elsewhere, read_cluster, task_runner, uses_gpu, watched
from packflow_core import progress
from packflow_core.errors import UserInputError
from packflow_core.stages.run_store import RunStore
from packflow_core.store.ledger import Attempt
from packflow_core.store.schema import STAGES

ROOT = Path(__file__).parents[2]
POOLS = ROOT / "deployments" / "work_pools"


def test_threads_are_the_default(monkeypatch):
    monkeypatch.delenv(runners.RUNNER, raising=False)
    assert isinstance(task_runner(), ThreadPoolTaskRunner)
    assert not is_elsewhere(task_runner("threads"))
    monkeypatch.setenv(runners.RUNNER, "carrier-pigeon")
    with pytest.raises(UserInputError, match=r"PACKFLOW_RUNNER=carrier-pigeon .* dask:NUMBER"):
        task_runner()


def test_forms_of_dask():
    pytest.importorskip("prefect_dask")
    local = task_runner("dask:3")
    assert is_elsewhere(local)
    assert local.cluster_kwargs["n_workers"] == 3
    assert task_runner("dask:tcp://10.0.0.1:8786").address == "tcp://10.0.0.1:8786"
    with pytest.raises(UserInputError, match="no process"):
        task_runner("dask:0")
    with pytest.raises(UserInputError, match="cannot be read"):
        task_runner("dask:nowhere.yaml")


def test_without_prefect_dask_one_sentence_says_how_to_get_it(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "prefect_dask.task_runners", None)
    with pytest.raises(UserInputError, match=r"packflow-csp\[dask\]"):
        task_runner("dask:2")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("- a list", "must be a mapping"),
        ("cluster_kwargs: {}", "with cluster_class or address"),
        ("cluster_class: a.B\nworkers: 3", "unknown field workers"),
        ("{", "cannot be read"),
    ],
)
def test_a_wrong_cluster_file_is_refused(tmp_path, text, why):
    path = tmp_path / "cluster.yaml"
    path.write_text(text)
    with pytest.raises(UserInputError, match=why):
        read_cluster(path)


def test_the_slurm_file_gives_the_job_that_it_promises():
    jobqueue = pytest.importorskip("dask_jobqueue")
    content = read_cluster(POOLS / "slurm.yaml")
    assert content["cluster_class"] == "dask_jobqueue.SLURMCluster"
    with jobqueue.SLURMCluster(**content["cluster_kwargs"]) as cluster:
        script = cluster.job_script()
    for line in (
        "#SBATCH -J packflow", "#SBATCH -p cpu", "#SBATCH -n 1", "#SBATCH --cpus-per-task=64",
        "#SBATCH -t 24:00:00", "export OMP_NUM_THREADS=1",
    ):  # fmt: skip
        assert line in script.splitlines()
    # One process with two threads: it starts the workers itself.
    assert re.search(r"dask_worker tcp://\S+ .*--nthreads 2 ", script)
    assert "--nworkers" not in script
    assert "--lifetime 23h30m" in script


def test_every_placeholder_of_the_kubernetes_template_is_a_variable():
    template = json.loads((POOLS / "kubernetes.json").read_text())
    names = set(re.findall(r"{{ (\w+) }}", json.dumps(template["job_configuration"])))
    variables = template["variables"]["properties"]
    assert names == set(variables)
    from packflow_core import __version__

    assert variables["image"]["default"] == f"packflow-csp:{__version__}"
    pod = template["job_configuration"]["job_manifest"]["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    user = re.search(r"useradd .*--uid (\d+)", (ROOT / "docker" / "Dockerfile").read_text())
    assert user is not None
    assert pod["securityContext"]["runAsUser"] == int(user[1])
    # The image's entrypoint is csp; a worker's job is another program.
    assert pod["containers"][0]["command"] == ["tini", "--"]
    assert pod["containers"][0]["args"] == "{{ command }}"
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "{{ gpus }}"


def test_which_devices_are_gpus(monkeypatch):
    monkeypatch.setattr("packflow_core.devices.find_gpus", lambda: [])
    assert [uses_gpu(d) for d in ("cpu", "auto", "cuda", "cuda:1,cpu")] == [
        False, False, True, True,
    ]  # fmt: skip
    monkeypatch.setattr("packflow_core.devices.find_gpus", lambda: ["cuda:0"])
    assert uses_gpu("auto")


def test_only_a_gpu_takes_a_slot(monkeypatch):
    taken = []

    def concurrency(name, occupy, strict):
        taken.append((name, occupy, strict))
        return threading.Lock()

    monkeypatch.setattr("prefect.concurrency.sync.concurrency", concurrency)
    with gpu_slot("cpu"):
        assert taken == []
    with gpu_slot("cuda"):
        assert taken == [("gpu", 1, False)]
    monkeypatch.setenv(runners.GPU_LIMIT, "gpu-node7")
    with gpu_slot("cuda:1"):
        assert taken[-1] == ("gpu-node7", 1, False)


class FakeRun:
    """A ledger that others write."""

    def __init__(self):
        self.rows = {0: Attempt("ok", "", 1)}

    def attempts(self, _stage):
        return dict(self.rows)


def test_progress_of_chunks_elsewhere_comes_from_the_ledger(monkeypatch):
    monkeypatch.setattr(runners, "_LOOK_S", 0.01)
    told = Counter()

    class Sink(progress.SilentProgress):
        def advance(self, stage, status, count=1):
            told[stage, status] += count

    run = FakeRun()
    with progress.use(Sink()), watched(run, "relax"):
        run.rows[1] = Attempt("ok", "", 1)
        deadline = time.monotonic() + 10
        while not told and time.monotonic() < deadline:
            time.sleep(0.01)
        assert told["relax", "ok"] == 1
        run.rows[2] = Attempt("failed", "nan", 1)
    assert told == {("relax", "ok"): 1, ("relax", "failed"): 1}


@pytest.mark.slow
def test_a_run_on_dask_gives_the_same_bytes_and_starts_no_other_server(csp, tmp_path):
    pytest.importorskip("prefect_dask")
    # Baselines, because processes of a cluster do not know the stand-in for the model.
    run = (
        "run", "C=O", "--name", "formaldehyde", "--z", "2", "--n", "24", "--workers", "1",
        "--generator", "random", "--engine", "springs", "--quiet",
    )  # fmt: skip
    threads, dask = tmp_path / "threads", tmp_path / "dask"
    assert csp(*run, "--out", threads)[0] == 0
    env = {"PACKFLOW_RUNNER": "dask:2"}
    code, _, err = csp(*run, "--out", dask, env=env)
    assert code == 0, err
    assert (dask / "ranked.csv").read_bytes() == (threads / "ranked.csv").read_bytes()
    for stage in STAGES:
        one, two = (RunStore(f).stage(stage).table(("index", "status")) for f in (threads, dask))
        assert one == two
    log = (dask / "csp.log").read_text()
    assert "distributed" in log
    assert log.count("Starting temporary server") == 1


@pytest.mark.slow
def test_two_flows_do_not_have_the_gpu_at_once(tmp_path):
    """Against Prefect's own server; without the limit they do."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
    from prefect.testing.utilities import prefect_test_harness

    def both():
        spans = []

        def work():
            with gpu_slot("cuda"):
                began = time.monotonic()
                time.sleep(1.0)
                spans.append((began, time.monotonic()))

        threads = [threading.Thread(target=work) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        first, second = sorted(spans)
        return first[1] <= second[0]

    with prefect_test_harness(server_startup_timeout=120):
        assert not both()
        with get_client(sync_client=True) as client:
            client.create_global_concurrency_limit(
                GlobalConcurrencyLimitCreate(name="gpu", limit=1)
            )
        assert both()


def test_the_slurm_file_names_only_what_dask_jobqueue_knows():
    jobqueue = pytest.importorskip("dask_jobqueue")
    import inspect

    known = set(inspect.signature(jobqueue.SLURMCluster.job_cls.__init__).parameters)
    known |= set(inspect.signature(jobqueue.core.Job.__init__).parameters)
    known |= set(inspect.signature(jobqueue.core.JobQueueCluster.__init__).parameters)
    content = yaml.safe_load((POOLS / "slurm.yaml").read_text())
    assert set(content["cluster_kwargs"]) <= known
    assert os.path.isabs(content["cluster_kwargs"]["local_directory"])
