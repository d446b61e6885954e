"""A run whose folder is a prefix of a bucket, killed and continued on another machine."""

import signal

import pytest
from s3_server import bucket, s3_server  # noqa: F401
from waiting import wait_for

from packflow_core.stages.run_store import RunStore
from packflow_core.store.object_mirror import Mirror
from packflow_core.store.object_store import ObjectFolder
from packflow_core.store.rows import same_result
from packflow_core.store.schema import STAGES

RUN = (
    "run", "NC(N)=O", "--name", "urea", "--z", "2,4", "--n", "80", "--workers", "1",
    "--generator", "random", "--engine", "springs", "--quiet",
)  # fmt: skip


@pytest.mark.slow
def test_a_killed_run_goes_on_elsewhere_from_what_the_bucket_holds(csp, bucket, tmp_path):  # noqa: F811
    uri = f"{bucket}/runs/a"
    unbroken = tmp_path / "unbroken"
    code, _, err = csp(*RUN, "--out", unbroken)
    assert code == 0, err

    # A sign of life, and an upload, every 0.6 s.
    env = {"PACKFLOW_OBJECT_LOCK_STALE_S": "3", "PACKFLOW_SCRATCH": str(tmp_path / "one")}
    process = csp.start(*RUN, "--out", uri, env=env)
    view = Mirror(ObjectFolder(uri), tmp_path / "view")

    def uploaded():
        assert process.poll() is None, process.communicate()
        view.pull()
        here = (view.local / "run.json").exists()
        return here and len(RunStore(view.local).attempts("relax")) >= 2

    try:
        wait_for(uploaded, "two uploaded relaxations")
        code, _, err = csp("resume", uri, env=env)
        assert code == 2
        assert f"{uri} is in use by process {process.pid}" in err
        status = csp.document("status", uri, env=env)
        assert status["status"] == "running"
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
    finally:
        process.kill()

    elsewhere = {**env, "PACKFLOW_SCRATCH": str(tmp_path / "two")}
    document = csp.document("resume", uri, "--workers", "1", env=elsewhere)
    assert document["status"] == "finished"
    assert document["files"]["report"] == f"{uri}/report.html"
    status = csp.document("status", uri, env={**env, "PACKFLOW_SCRATCH": str(tmp_path / "three")})
    assert (status["status"], status["folder"]) == ("finished", uri)
    view.pull()
    done, expected = RunStore(view.local), RunStore(unbroken)
    for stage in STAGES:
        one, two = done.stage(stage).rows(), expected.stage(stage).rows()
        assert len(one) == len(two)
        assert all(same_result(a, b) for a, b in zip(one, two, strict=True))
    # The first session's rows count; the second made the rest.
    assert len(done.content["sessions"]) == 2
    assert not list(view.local.rglob("journal-*"))
