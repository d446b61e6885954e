"""Failed candidates that are wanted again: remembered, attempted once, asked for safely."""

import json

import pytest

from packflow_core.errors import RunFailedError, UserInputError
from packflow_core.stages.pipeline import run_stages
from packflow_core.stages.requeue import REQUEUE_JSON, requeue
from packflow_core.stages.run_store import RunStore
from packflow_core.store.atomic import StorageFullError

EXPLODED = {"status": "failed", "reason": "exploded"}
STRESS = {"status": "unconverged", "reason": "stress"}
FAULTS = {
    ("hydrogenate", 0): EXPLODED,
    ("relax", 1): EXPLODED,
    ("relax", 2): EXPLODED,
    ("relax", 3): "timeout",
    ("relax", 5): STRESS,
}


@pytest.fixture
def done(open_folder, workers):
    """A run that is finished, with failures; nobody holds it."""
    workers(faults=FAULTS)
    with open_folder() as run:
        run_stages(run, 1)
    return RunStore(run.folder)


def ends(run, stage):
    return {i: (a.status, a.attempt) for i, a in run.attempts(stage).items()}


def test_failures_of_a_reason_are_attempted_once_more(done, open_folder, workers):
    assert done.pending("relax") == []
    queued = requeue(done, "exploded")
    assert queued.stages == {"hydrogenate": [0], "relax": [1, 2]}
    assert queued.count == 3
    assert done.pending("hydrogenate") == [(0, 2)]
    assert done.pending("relax") == [(1, 2), (2, 2)]
    assert [stage.pending for stage in done.ledger()] == [0, 1, 0, 2, 0]
    fake = workers(faults={("relax", 2): EXPLODED})
    with open_folder() as run:
        run_stages(run, 1)
    assert ends(run, "relax")[1] == ("ok", 2)
    assert ends(run, "relax")[2] == ("failed", 2)
    assert ends(run, "rank")[0] == ("ok", 1)
    assert fake.done.count(("relax", 2)) == 1  # one wish, one attempt
    assert {key for key in fake.done if key[0] == "relax"} == {("relax", i) for i in (0, 1, 2)}
    assert run.pending("relax") == []


def test_asking_twice_is_asking_once(done):
    once = requeue(done, "exploded")
    before = (done.folder / REQUEUE_JSON).read_bytes()
    assert requeue(done, "exploded") == once
    assert (done.folder / REQUEUE_JSON).read_bytes() == before
    requeue(done, "timeout")
    assert done.pending("relax") == [(1, 2), (2, 2), (3, 3)]


def test_what_failed_again_can_be_wanted_again(done, open_folder, workers):
    for attempt in (2, 3):
        requeue(done, "exploded", "relax")
        workers(faults=FAULTS)
        with open_folder() as run:
            run_stages(run, 1)
        assert ends(run, "relax")[1] == ("failed", attempt)
    assert ends(run, "hydrogenate")[0] == ("failed", 1)  # only --stage relax was wanted


def test_a_wish_for_other_rows_means_nothing(done):
    requeue(done, "exploded")
    path = done.folder / REQUEUE_JSON
    content = json.loads(path.read_text())
    content["relax"]["key"] = "0" * 64
    path.write_text(json.dumps(content))
    assert done.pending("relax") == []
    assert done.pending("hydrogenate") == [(0, 2)]


@pytest.mark.parametrize(
    ("reason", "stage", "says"),
    [
        ("scf", None, "with the reason 'scf'; reasons there are exploded, timeout."),
        ("exploded", "rank", "failed in stage rank, so there is nothing to attempt again."),
        ("timeout", "hydrogenate", "in stage hydrogenate with the reason 'timeout'; reasons there"),
        ("stress", None, "are unconverged, not failed, and the same parameters give the same"),
        ("bad_cell", None, "are rejected, not failed, and the same parameters give the same"),
        ("", None, "with the reason ''; reasons there are exploded, timeout."),
        ("timeout", "press", "--stage press is not a stage; stages are generate, hydrogenate,"),
    ],
)
def test_what_cannot_be_attempted_again_is_one_sentence(done, reason, stage, says):
    with pytest.raises(UserInputError) as caught:
        requeue(done, reason, stage)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (done.folder / REQUEUE_JSON).exists()


def test_a_run_that_works_is_left_alone(done, open_folder):
    with open_folder() as run, pytest.raises(UserInputError, match="in use by another csp process"):
        requeue(run, "exploded")
    assert not (done.folder / REQUEUE_JSON).exists()


def test_whoever_does_not_mind_is_not_stopped_by_a_reason_that_is_not_there(done):
    assert requeue(done, "scf", missing_ok=True).count == 0
    with pytest.raises(UserInputError, match="unconverged, not failed"):
        requeue(done, "stress", missing_ok=True)


def test_a_full_disk_leaves_the_old_wishes(done, monkeypatch):
    requeue(done, "timeout")
    before = (done.folder / REQUEUE_JSON).read_bytes()

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("packflow_core.store.atomic.os.replace", full)
    with pytest.raises(StorageFullError):
        requeue(done, "exploded")
    assert (done.folder / REQUEUE_JSON).read_bytes() == before
    assert not list(done.folder.glob(".tmp-*"))


@pytest.mark.parametrize("text", ["[1]", "{", '{"relax": {"key": "x"}}', '{"relax": 3}'])
def test_a_damaged_file_is_one_sentence(done, text):
    (done.folder / REQUEUE_JSON).write_text(text)
    with pytest.raises(RunFailedError, match=r"requeue.json is damaged"):
        done.pending("relax")
