"""Refinements: their window, their engines, and that a kill or a larger n loses nothing."""

import pytest

from packflow_core.errors import UserInputError
from packflow_core.stages.pipeline import run_stage, run_stages, verdict
from packflow_core.stages.run_store import RunStore
from packflow_core.stages.window import reject_outside_window
from packflow_core.store.rows import same_result

#: Indices that leave the generator; each lies 0.965 kJ/mol below the one before.
REACHED = [i for i in range(40) if i % 5 != 4]
REFINE = ["springs:10"]


def outcome(run, stage):
    return {i: (a.status, a.reason) for i, a in run.attempts(stage).items()}


def details(run, stage):
    return {row["index"]: row["detail"] for row in run.stage(stage).rows()}


def test_only_the_best_are_refined_and_the_others_say_how_far_off_they_are(open_folder, workers):
    fake = workers()
    with open_folder(refine=REFINE) as run:
        run_stages(run, 1)
        assert run.plan.stage_names[-3:] == ("relax", "relax_2", "rank")
        inside = [i for i in REACHED if i >= 28]
        assert sorted(i for stage, i in fake.done if stage == "relax_2") == inside
        found = outcome(run, "relax_2")
        assert sorted(found) == REACHED
        assert {i for i, end in found.items() if end == ("ok", "")} == set(inside)
        assert {found[i] for i in REACHED if i < 28} == {("rejected", "window")}
        # 38 is the lowest: 11 steps of 0.01 eV are 10.61 kJ/mol.
        assert details(run, "relax_2")[27] == "10.6 kJ/mol above the minimum, window 10"
        rows = {row["index"]: row for row in run.stage("relax_2").rows()}
        assert rows[0]["stage_key"] == run.plan.key("relax_2")
        assert (rows[0]["attempt"], rows[0]["energy_eV"]) == (1, None)
        # What is left out can still be looked at.
        assert rows[0]["positions"] == run.stage("relax").rows([0])[0]["positions"]
        ledger = {stage.stage: stage for stage in run.ledger()}
        assert (ledger["relax_2"].eligible, ledger["relax_2"].pending) == (32, 0)
        assert ledger["relax_2"].reasons == {"rejected: window": 32 - len(inside)}
        # Nothing was computed for them, so they do not count in the time of a candidate.
        assert rows[0]["wall_s"] is None
        assert ledger["relax_2"].median_wall_s == 0.1


def test_the_ranking_takes_the_last_refinement(open_folder, workers):
    fake = workers()
    with open_folder(refine=["springs:10", "gfnff:2"]) as run:
        run_stages(run, 1)
        assert fake.engines == {
            "relax_h": "gfnff", "relax": "gfnff", "relax_2": "springs", "relax_3": "gfnff",
        }  # fmt: skip
        ranked = {row["index"]: row for row in run.stage("rank").rows()}
        assert sorted(ranked) == [36, 37, 38]
        relaxed = {row["index"]: row for row in run.stage("relax_3").rows()}
        assert all(ranked[i]["energy_eV"] == relaxed[i]["energy_eV"] for i in ranked)
        assert run.plan.last_relaxation == "relax_3"
        assert run.plan.engine.startswith("gfnff/")
        assert RunStore(run.folder).content["stages"]["relax_2"]["identity"].startswith("springs")
        # Candidates that lie outside a window did not fail.
        assert verdict(run) is None


def test_unconverged_and_failed_candidates_are_not_refined(open_folder, workers):
    lost = {"status": "unconverged", "reason": "max_steps", "energy_eV": -99.0}
    workers(faults={("relax", 38): lost, ("relax", 37): {"status": "failed", "reason": "nan"}})
    with open_folder(refine=REFINE) as run:
        run_stages(run, 1)
        found = outcome(run, "relax_2")
        assert not {37, 38} & set(found)
        # The minimum is that of the converged ones.
        assert details(run, "relax_2")[25] == "10.6 kJ/mol above the minimum, window 10"
        assert found[26] == ("ok", "")


def test_an_energy_that_is_no_number_lies_in_no_window(open_folder, workers):
    workers(faults={("relax", 0): {"status": "ok", "energy_eV": float("nan")}})
    with open_folder(refine=REFINE) as run:
        run_stages(run, 1)
        assert outcome(run, "relax_2")[0] == ("ok", "")
        assert outcome(run, "relax_2")[1] == ("rejected", "window")
    workers(faults={("relax", i): {"status": "ok"} for i in range(40)})
    with open_folder("without", refine=REFINE) as run:
        run_stages(run, 1)
        assert set(outcome(run, "relax_2").values()) == {("ok", "")}


def test_a_window_needs_the_stage_before_to_be_complete(open_folder, workers):
    workers(die_after=70)
    with pytest.raises(KeyboardInterrupt), open_folder(refine=REFINE) as run:
        run_stages(run, 1)
    with open_folder(refine=REFINE) as run:
        assert 0 < len(run.attempts("relax")) < 32
        with pytest.raises(ValueError, match="stage relax is not complete"):
            reject_outside_window(run, "relax_2")
        assert run.attempts("relax_2") == {}


def test_a_killed_refinement_ends_like_an_unbroken_one(open_folder, workers):
    refine = ["springs:20", "gfnff:4"]
    workers()
    with open_folder("unbroken", refine=refine) as unbroken:
        run_stages(unbroken, 1)
    done = []
    for die_after in (98, 0, 3, 0, 15, 1, 3, None):
        fake = workers(die_after=die_after)
        try:
            with open_folder(refine=refine) as run:
                run_stages(run, 1)
        except KeyboardInterrupt:
            pass
        done += fake.done
    assert len(done) == len(set(done))
    assert {stage for stage, _ in done} == set(run.plan.stage_names[1:])
    for stage in run.plan.stage_names:
        ours, theirs = run.stage(stage).rows(), unbroken.stage(stage).rows()
        assert len(ours) > 0
        assert all(same_result(a, b) for a, b in zip(ours, theirs, strict=True))


def test_writing_the_window_again_changes_nothing(open_folder, workers):
    workers()
    with open_folder(refine=REFINE) as run:
        for stage in run.plan.stage_names[:4]:
            run_stage(run, stage, one_chunk(run))
        assert reject_outside_window(run, "relax_2") == 23
        before = run.stage("relax_2").rows()
        assert reject_outside_window(run, "relax_2") == 0
        assert run.stage("relax_2").rows() == before
        assert len(list(run.stage("relax_2").folder.glob("part-*"))) == 1
        assert reject_outside_window(run, "relax") == 0


def one_chunk(run):
    from packflow_core.stages.chunk import run_chunk

    return lambda stage, cut: [run_chunk(run.folder, stage, work, 1) for work in cut]


def test_rows_stay_when_n_grows_and_the_minimum_sinks(open_folder, workers):
    workers()
    with open_folder(refine=REFINE, n=20) as run:
        run_stages(run, 1)
        before = run.stage("relax_2").rows()
        assert outcome(run, "relax_2")[10] == ("ok", "")
    fake = workers()
    with open_folder(refine=REFINE, n=40) as run:
        run_stages(run, 1)
        assert run.stage("relax_2").rows()[: len(before)] == before
        # The new candidates meet the new minimum; 10 keeps what it had.
        assert outcome(run, "relax_2")[10] == ("ok", "")
        assert outcome(run, "relax_2")[21] == ("rejected", "window")
        assert min(i for stage, i in fake.done if stage == "relax_2") == 28


def test_a_run_with_another_refinement_is_another_run(open_folder, workers):
    workers()
    with open_folder(refine=REFINE):
        pass
    with pytest.raises(UserInputError) as caught, open_folder(refine=["springs:11"]):
        pass
    assert "refine.relax_2.window_kJ_mol is 10.0 there and 11.0 here; choose" in str(caught.value)
    with pytest.raises(UserInputError) as caught, open_folder():
        pass
    says = "holds another run: refine.relax_2.engine is springs there and not given here; choose"
    assert says in str(caught.value)
