"""A run is really killed, in every stage, and continued: nothing lost, nothing done twice."""

import signal

import pyarrow.parquet as pq
import pytest
from waiting import wait_for

from packflow_core.stages.run_store import RunStore
from packflow_core.store.rows import same_result
from packflow_core.store.schema import STAGES

RUN = (
    "C=O", "--name", "formaldehyde", "--z", "2", "--n", "22", "--workers", "2",
)  # fmt: skip


def recorded(folder, stage):
    """Number of recorded candidates; None while there is no run."""
    return len(RunStore(folder).attempts(stage)) if (folder / "run.json").exists() else -1


def attempts(folder):
    """What tells one attempt at a candidate from another."""
    run = RunStore(folder)
    columns = ["index", "attempt", "wall_s", "host"]
    return {
        (stage, row["index"]): row
        for stage in STAGES
        for row in run.stage(stage).table(columns).to_pylist()
    }


@pytest.fixture(scope="module")
def unbroken(csp, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken") / "run"
    summary = csp.document("run", *RUN, "--out", folder)
    assert summary["n_ranked"] >= 10
    return folder


def interrupted_at(csp, arguments, folder, stage, count, how=signal.SIGKILL, env=None):
    """Run until so many candidates of a stage are recorded, then end the process."""
    process = csp.start(*arguments, env=env)
    try:
        wait_for(
            lambda: process.poll() is not None or recorded(folder, stage) >= count,
            f"candidate {count} of {stage}",
        )
        assert process.poll() is None, process.communicate()
        process.send_signal(how)
        _, err = process.communicate(timeout=120)
    finally:
        process.kill()
    return process.returncode, err


def test_a_run_killed_in_every_stage_ends_like_an_unbroken_one(csp, unbroken, tmp_path):
    folder = tmp_path / "run"
    resume = ("resume", folder, "--workers", "2")
    kills = [
        # Blocks of 16: the first is written, the second is being sampled.
        (("run", *RUN, "--out", folder), "generate", 1, {"STUB_BLOCK_S": "2"}),
        (resume, "relax_h", 3, None),
        (resume, "relax", 2, None),
        (resume, "rank", 1, None),
    ]
    finished = {}
    for arguments, stage, count, env in kills:
        code, _ = interrupted_at(csp, arguments, folder, stage, count, env=env)
        assert code == -signal.SIGKILL
        now = attempts(folder)
        assert finished.items() <= now.items()
        finished = now
        assert RunStore(folder).status == "interrupted"
    assert recorded(folder, "relax") >= 2
    code, _, err = csp(*resume)
    assert code == 0, err
    after = attempts(folder)
    # Not one finished candidate was computed again: same attempt, same time to the last digit.
    assert finished.items() <= after.items()
    assert {row["attempt"] for row in after.values()} == {1}
    for stage in STAGES:
        ours, theirs = RunStore(folder).stage(stage), RunStore(unbroken).stage(stage)
        assert ours.key == theirs.key
        assert all(same_result(a, b) for a, b in zip(ours.rows(), theirs.rows(), strict=True))
        assert not [p for p in ours.folder.iterdir() if not p.match("part-*.parquet")]
    ours, theirs = (
        pq.read_table(where / "ranked.parquet").to_pylist() for where in (folder, unbroken)
    )
    assert len(ours) == len(theirs) > 0
    assert all(same_result(a, b) for a, b in zip(ours, theirs, strict=True))
    assert (folder / "ranked.csv").read_bytes() == (unbroken / "ranked.csv").read_bytes()
    # What the killed processes had started is gone, and so are their temporary files.
    wait_for(lambda: not list(csp.temporary.glob("packflow-prefect-*")), "the end of the servers")


@pytest.mark.slow
def test_ctrl_c_says_how_to_go_on_and_a_second_process_is_kept_out(csp, tmp_path):
    folder = tmp_path / "run"
    long = (*RUN, "--n", "2000", "--out", folder)  # far from done when it is interrupted
    process = csp.start("run", *long)
    try:
        wait_for(lambda: recorded(folder, "relax_h") >= 1, "the first relaxation")
        code, out, err = csp("run", *long)
        assert code == 2
        assert f"in use by another csp process (process {process.pid} on" in err
        assert out == ""
        # Nor can two resumes share a folder.
        code, _, err = csp("resume", folder)
        assert code == 2
        assert f"in use by another csp process (process {process.pid} on" in err
        status = csp.document("status", folder)
        assert status["status"] == "running"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 130
    assert err.splitlines()[-1].endswith(f"Continue with: csp resume {folder}")
    assert "Traceback" not in err
    assert csp.document("status", folder)["status"] == "interrupted"
    assert all(
        attempt.status != "failed"
        for stage in STAGES
        for attempt in RunStore(folder).attempts(stage).values()
    )
    wait_for(lambda: not list(csp.temporary.glob("packflow-prefect-*")), "the end of the server")
