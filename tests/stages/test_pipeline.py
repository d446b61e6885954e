"""Retries by reason, and failures that nobody can overlook."""

import pyarrow.parquet as pq
import pytest

from packflow_core import progress
from packflow_core.errors import RunFailedError, TooManyFailuresError
from packflow_core.stages.pipeline import run_stage, run_stages, too_many_failed, verdict
from packflow_core.store.rows import same_result

EXPLODED = {"status": "failed", "reason": "exploded", "detail": "boom"}
MEMORY = {"status": "failed", "reason": "out_of_memory"}
ENGINE = {"status": "failed", "reason": "engine_error"}


def statuses(run, stage):
    return {i: (a.status, a.reason, a.attempt) for i, a in run.attempts(stage).items()}


def alarm(run, stage):
    return too_many_failed(run.stage_ledger(stage), run.plan.spec.max_failed)


def test_a_failure_is_tried_again_as_often_as_its_reason_deserves(open_folder, workers):
    fake = workers(
        faults={
            ("relax", 0): ["timeout", None],
            ("relax", 1): ["worker_lost", "worker_lost", None],
            ("relax", 2): [MEMORY, None],
            ("relax", 3): [ENGINE, None],
            ("relax", 5): [EXPLODED, None],
            ("hydrogenate", 6): ["exception", None],
        }
    )
    with open_folder() as run:
        run_stages(run, 1)
        found = statuses(run, "relax")
        assert found[0] == found[2] == ("ok", "", 2)
        assert found[1] == ("failed", "worker_lost", 2)
        assert found[3] == ("failed", "engine_error", 1)
        assert found[5] == ("failed", "exploded", 1)
        assert statuses(run, "hydrogenate")[6] == ("failed", "internal_error", 1)
        # Whoever made it in the second attempt goes on like everybody else.
        assert {0, 2} <= set(run.attempts("rank"))
        assert fake.done.count(("relax", 1)) == 2
        assert run.pending("relax") == []
        assert [stage.pending for stage in run.ledger()] == [0] * 5
        # The first attempt is history, not lost.
        parts = run.stage("relax").folder.glob("part-*.parquet")
        tables = [pq.read_table(path, columns=["index", "attempt", "reason"]) for path in parts]
        history = {(r["attempt"], r["reason"]) for t in tables for r in t.to_pylist()
                   if r["index"] == 0}  # fmt: skip
        assert history == {(1, "timeout"), (2, "")}


def test_a_kill_between_two_attempts_costs_neither(open_folder, workers):
    faults = {
        ("relax", 0): ["timeout", None], ("relax", 1): "worker_lost", ("relax", 2): [MEMORY, None],
    }  # fmt: skip
    workers(faults=faults)
    with open_folder("unbroken") as unbroken:
        run_stages(unbroken, 1)
    fake = workers(faults=faults, die_after=32 * 3 + 1)  # in the second round of relax
    with pytest.raises(KeyboardInterrupt), open_folder() as run:
        run_stages(run, 1)
    assert fake.done[-1][0] == "relax"
    assert sum(attempt == 2 for *_, attempt in statuses(run, "relax").values()) == 1
    fake.die_after = None
    with open_folder() as run:
        assert all(attempt == 2 for _, attempt in run.pending("relax"))
        run_stages(run, 1)
    for stage in run.plan.stage_names:
        ours, theirs = run.stage(stage).rows(), unbroken.stage(stage).rows()
        assert all(same_result(a, b) for a, b in zip(ours, theirs, strict=True))
        assert statuses(run, stage) == statuses(unbroken, stage)


def test_chunks_that_record_nothing_do_not_go_on_for_ever(open_folder):
    with open_folder() as run, pytest.raises(RunFailedError, match="without a row for 40 cand"):
        run_stage(run, "generate", lambda stage, cut: [])


class Ears(progress.SilentProgress):
    def __init__(self):
        self.heard = []

    def start(self, stage, total, done):
        self.heard.append(stage)

    def warn(self, sentence):
        self.heard.append(sentence)


def test_a_stage_that_loses_too_many_says_so_at_once_and_the_run_goes_on(open_folder, workers):
    workers(faults={("relax_h", i): EXPLODED for i in range(26)})
    ears = Ears()
    with open_folder(max_failed=0.6) as run, progress.use(ears):
        run_stages(run, 1)
        before, after = ears.heard.index("relax_h"), ears.heard.index("relax")
        (sentence,) = ears.heard[before + 1 : after]
        assert sentence.startswith("21 of 32 candidates failed in stage relax_h (exploded: 21), ")
        assert len(run.stage("rank").rows()) == 11
        error = verdict(run)
    # 21 of the run's 40 are fewer than 60 %, but of the stage's 32 they are more.
    assert isinstance(error, TooManyFailuresError)
    assert "more than the 60% allowed" in str(error)
    assert "csp failures" in str(error)


def test_a_refinement_of_a_few_is_judged_by_those_it_attempted(open_folder, workers):
    workers(faults={("relax_2", i): ENGINE for i in range(30, 40)})
    with open_folder(refine=["springs:11"]) as run:
        run_stages(run, 1)
        # 10 were inside the window, 8 of them failed; 22 lie outside.
        assert "8 of 10 candidates failed in stage relax_2" in str(verdict(run))
        assert alarm(run, "relax") is None


@pytest.mark.parametrize(("n_failed", "said"), [(16, False), (17, True)])
def test_exactly_what_is_allowed_is_allowed(open_folder, workers, n_failed, said):
    first = [i for i in range(40) if i % 5 != 4][:n_failed]
    workers(faults={("relax", i): EXPLODED for i in first})
    with open_folder() as run:
        run_stages(run, 1)
        assert (alarm(run, "relax") is not None) is said


def test_rejected_candidates_and_a_handful_of_failures_are_no_alarm(open_folder, workers):
    rejected = {"status": "rejected", "reason": "clash"}
    workers(faults={("relax", i): rejected for i in range(40)})
    with open_folder() as run:
        run_stages(run, 1)
        assert alarm(run, "relax") is None
    workers(faults={("relax", i): EXPLODED for i in range(8)})
    with open_folder("small", n=10) as run:
        run_stages(run, 1)
        assert statuses(run, "relax")[0][0] == "failed"
        assert alarm(run, "relax") is None  # 7 of 8
