"""A race is really killed, and the same command continues it."""

import json
import signal

import pytest
from waiting import wait_for

from packflow_core.stages.run_store import RunStore

RACE = (
    "compare", "C=O", "--name", "formaldehyde", "--z", "2", "--n", "6", "--workers", "2",
    "--generators", "model-a,model-b", "--resamples", "100",
)  # fmt: skip


def done(leg, stage):
    """Attempts of a leg's stage that are recorded."""
    if not (leg / "run.json").exists():
        return {}
    rows = RunStore(leg).stage(stage).table(["index", "attempt", "wall_s"]).to_pylist()
    return {row["index"]: row for row in rows}


def ended(csp, out, leg, how):
    """Start the race and end it when a leg has a relaxed candidate: exit code, standard error."""
    process = csp.start(*RACE, "--out", out)
    try:
        wait_for(
            lambda: process.poll() is not None or done(out / leg, "relax"), f"a candidate of {leg}"
        )
        assert process.poll() is None, process.communicate()
        process.send_signal(how)
        _, err = process.communicate(timeout=120)
    finally:
        process.kill()
    return process.returncode, err


@pytest.mark.slow
def test_the_same_command_continues_a_race(csp, tmp_path):
    out = tmp_path / "race"
    assert ended(csp, out, "model-a", signal.SIGKILL)[0] == -signal.SIGKILL
    kept = done(out / "model-a", "relax")
    assert kept
    code, err = ended(csp, out, "model-b", signal.SIGINT)
    assert code == 130
    assert err.splitlines()[-1].endswith("The same command continues the race.")
    assert "Traceback" not in err
    assert not (out / "comparison.json").exists()
    document = csp.document(*RACE, "--out", out)
    assert document["status"] == "finished"
    assert [leg["candidates"]["compared"] for leg in document["legs"]] == [6, 6]
    assert kept.items() <= done(out / "model-a", "relax").items()
    assert {row["attempt"] for row in done(out / "model-b", "relax").values()} == {1}
    assert (out / "race.svg").is_file()
    # The stand-in draws the same candidates under both names.
    (lowest, same) = [
        m["value"]
        for m in document["metrics"]
        if (m["kind"], m["metric"]) == ("value", "energy_after")
    ]
    assert lowest == same > 0
    assert json.loads((out / "comparison.json").read_text())["metrics"] == document["metrics"]
