"""Faults injected into real worker processes: nothing lost, nothing twice, told by the ledger."""

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import formaldehyde
import pytest
from waiting import wait_for

from packflow_core.engines import trust
from packflow_core.spec import make_spec
from packflow_core.stages import generate as generate_module
from packflow_core.stages import pools
from packflow_core.stages.pipeline import run_stages
from packflow_core.stages.run_store import OpenRun, RunStore, plan_for
from packflow_core.stages.states import NAME
from packflow_core.store.atomic import StorageFullError
from packflow_core.store.rows import same_result

N = 12


@pytest.fixture(autouse=True)
def formaldehydes(monkeypatch):
    monkeypatch.setattr(generate_module, "generate", formaldehyde.generate)
    monkeypatch.setattr(generate_module, "generator_identity", formaldehyde.generator_identity)
    monkeypatch.setenv("PACKFLOW_ALLOW_ENGINES", "faulty:*")
    yield
    pools.close_pools()


def engine(**arguments):
    from urllib.parse import quote

    text = "&".join(f"{k}={quote(str(v))}" for k, v in arguments.items())
    return f"ase:faulty:engine?{text}"


def open_run(folder, **values):
    fields = {
        "smiles": "C=O", "name": "x", "z": [1, 2], "n": N, "engine": engine(),
        "relax_h": {"max_steps": 0}, "relax": {"max_steps": 400, "fmax": 1e-2},
        "rank": {}, **values,
    }  # fmt: skip
    # The boxes are a gas; as crystals they would be refused.
    for stage in ("relax", "rank"):
        fields[stage] = {"min_density_ratio": 0.0, **fields[stage]}
    return OpenRun(folder, plan_for(make_spec(fields), folder), command=["csp"])


def run_all(folder, timeout_s=60.0, **values):
    with open_run(folder, **values) as run:
        run_stages(run, workers=2, timeout_s=timeout_s)
    return run


def statuses(run, stage="relax"):
    return {i: (a.status, a.reason, a.attempt) for i, a in run.attempts(stage).items()}


def evaluations(log):
    """Calls of the engine by candidate."""
    return Counter(line.split()[0] for line in log.read_text().splitlines())


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A run without faults."""
    patch = pytest.MonkeyPatch()
    patch.setattr(generate_module, "generate", formaldehyde.generate)
    patch.setattr(generate_module, "generator_identity", formaldehyde.generator_identity)
    patch.setenv("PACKFLOW_ALLOW_ENGINES", "faulty:*")
    run = run_all(tmp_path_factory.mktemp("sound") / "run")
    pools.close_pools()
    patch.undo()
    assert set(statuses(run).values()) == {("ok", "", 1)}
    return {row["index"]: row for row in run.stage("relax").rows()}


def same_relaxation(row, other):
    """The same result; the engine's name tells its faults, so it and the keys differ."""
    names = set(row) - {"engine", "stage_key"}
    return same_result({n: row[n] for n in names}, {n: other[n] for n in names})


@pytest.mark.parametrize(
    ("fault", "reason", "attempts"),
    [
        ("kill", "worker_lost", 2),
        ("leave", "worker_lost", 2),
        ("raise", "engine_error", 1),
        ("nan", "nan", 1),
        ("shape", "engine_error", 1),
    ],
)
def test_an_engine_that_breaks_costs_its_candidate_alone(fault, reason, attempts, tmp_path, sound):
    run = run_all(tmp_path / "run", engine=engine(**{fault: [3, 10]}))
    found = statuses(run)
    assert len(found) == N
    for index, (status, why, attempt) in found.items():
        if index in (3, 10):
            assert (status, why, attempt) == ("failed", reason, attempts)
        else:
            assert (status, attempt) == ("ok", 1)
    rows = {row["index"]: row for row in run.stage("relax").rows()}
    assert all(same_relaxation(rows[i], sound[i]) for i in rows if i not in (3, 10))
    assert rows[3]["detail"]
    assert rows[3]["positions"] is not None
    ledger = {stage.stage: stage for stage in run.ledger()}
    assert (ledger["relax"].ok, ledger["relax"].failed, ledger["relax"].pending) == (N - 2, 2, 0)
    assert ledger["rank"].attempted == N - 2


def test_an_engine_that_hangs_is_ended_and_tried_once_more_with_twice_the_time(tmp_path, sound):
    began = time.monotonic()
    run = run_all(tmp_path / "run", timeout_s=2.0, engine=engine(hang=[5]))
    assert time.monotonic() - began < 120
    found = statuses(run)
    assert found.pop(5) == ("failed", "timeout", 2)
    assert set(found.values()) == {("ok", "", 1)}
    assert len(found) == N - 1


def test_a_fault_that_passes_costs_an_attempt_and_no_result(tmp_path, sound):
    log = tmp_path / "log"
    run = run_all(tmp_path / "run", engine=engine(log=log, once=[7]))
    found = statuses(run)
    assert found[7] == ("ok", "", 2)
    assert Counter(attempt for _, _, attempt in found.values()) == {1: N - 1, 2: 1}
    rows = {row["index"]: row for row in run.stage("relax").rows()}
    assert all(same_relaxation(rows[i], sound[i]) for i in rows)


def test_a_worker_killed_from_outside_costs_nothing(tmp_path, sound):
    """Every worker is killed once while it works."""
    log = tmp_path / "log"
    killed = []

    def kill_some():
        for count in (30, 80, 150):
            wait_for(lambda n=count: log.exists() and len(log.read_text().splitlines()) > n, "work")
            pid = int(log.read_text().splitlines()[-1].split()[1])
            with open(os.devnull):
                try:
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)
                except ProcessLookupError:
                    pass

    thread = threading.Thread(target=kill_some)
    thread.start()
    run = run_all(tmp_path / "run", engine=engine(log=log, slow=0.003))
    thread.join()
    assert killed
    found = statuses(run)
    assert len(found) == N
    assert {status for status, _, _ in found.values()} == {"ok"}
    rows = {row["index"]: row for row in run.stage("relax").rows()}
    assert all(same_relaxation(rows[i], sound[i]) for i in rows)


def test_an_interrupted_relaxation_goes_on_where_it_was(tmp_path):
    """Every worker dies once in the middle; states are written every two seconds."""
    log = tmp_path / "log"
    long = {"n": 2, "relax": {"max_steps": 400, "fmax": 1e-7}}
    whole = run_all(tmp_path / "whole", engine=engine(log=f"{log}-whole"), **long)
    calls = evaluations(tmp_path / "log-whole")
    expected = {row["index"]: row for row in whole.stage("relax").rows()}
    assert min(row["n_steps"] for row in expected.values()) > 80

    slow = engine(log=log, at=60, slow=0.05, once=[0, 1])
    run = run_all(tmp_path / "run", engine=slow, **long)
    rows = {row["index"]: row for row in run.stage("relax").rows()}
    assert all(same_relaxation(rows[i], expected[i]) for i in rows)
    assert {row["attempt"] for row in rows.values()} == {2}
    again = evaluations(log)
    for i in rows:
        # From the beginning it would be 61 evaluations more.
        assert 0 < again[str(i)] - calls[str(i)] <= 40
    assert not (run.stage("relax").folder / NAME).exists()


def test_a_full_disk_stops_the_run_with_one_sentence_and_loses_nothing(
    tmp_path, sound, monkeypatch
):
    from packflow_core.store import journal

    folder = tmp_path / "run"
    real, written = os.write, []

    def write(descriptor, data):
        if len(written) == 34:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(descriptor)
        return real(descriptor, data)

    monkeypatch.setattr(journal.os, "write", write)
    with pytest.raises(StorageFullError, match="is full; free some space"):
        run_all(folder)
    monkeypatch.setattr(journal.os, "write", real)
    before = statuses(RunStore(folder))
    assert 0 < len(before) < N
    run = run_all(folder)
    rows = {row["index"]: row for row in run.stage("relax").rows()}
    assert len(rows) == N
    assert all(same_relaxation(rows[i], sound[i]) for i in rows)


@pytest.fixture
def small_disk(tmp_path):
    """Command that starts a process which sees an empty file system of 4 MB at a folder."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = f'mount -t tmpfs -o size=4m tmpfs {folder} && exec "$@"'
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, "sh"]
    try:
        probe = subprocess.run([*command, "true"], check=False, capture_output=True, timeout=30)
    except FileNotFoundError:
        pytest.skip("needs unshare")
    if probe.returncode:
        pytest.skip("this system lets no one mount in a namespace")
    return folder, command


@pytest.mark.parametrize("free", [30_000, 80_000, 150_000])
def test_a_disk_that_is_really_full(small_disk, sound, free):
    folder, command = small_disk
    script = Path(__file__).with_name("full_disk.py")
    done = subprocess.run(
        [*command, sys.executable, str(script), str(folder), str(free)],
        check=False, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("full: The disk that holds")
    assert f"after: {[N] * 5}, pending {[0] * 5}" in lines
    rows = [line.split() for line in lines if line.startswith("row")]
    assert [(int(i), attempt, float(e)) for _, i, attempt, e in rows] == [
        (i, "1", sound[i]["energy_eV"]) for i in range(N)
    ]


def test_trust_is_asked_for():
    assert trust.needs_trust(engine())
