"""What a run folder says about its candidates."""

import numpy as np
import pytest
from race_runs import EV_TO_KJ_MOL, ZERO_EV, Candidate

from packflow_core.errors import UserInputError
from packflow_core.race.legs import Outcome, read_leg, read_legs
from packflow_core.stages.run_store import RunStore

STORY = [
    Candidate(energy=4.0, start=44.0, density=1.3, match=True),
    Candidate(end=("generate", "rejected", "bad_cell"), seconds={"generate": 0.5}),
    Candidate(end=("relax", "unconverged", "max_steps"), start=99.0, seconds={"relax": 50.0}),
    Candidate(end=("relax_h", "failed", "exploded")),
    Candidate(end=("rank", "rejected", "connectivity")),
    Candidate(energy=0.0, match=False),
]


def leg_of(folder):
    return read_leg(RunStore(folder), "leg")


def test_every_candidate_is_accounted_for(write):
    leg = leg_of(write("a", STORY))
    assert leg.outcome.tolist() == [
        Outcome.RANKED, Outcome.REJECTED, Outcome.UNCONVERGED, Outcome.FAILED, Outcome.REJECTED,
        Outcome.RANKED,
    ]  # fmt: skip
    assert leg.stage.tolist() == ["rank", "generate", "relax", "relax_h", "rank", "rank"]
    assert leg.counts() == {
        Outcome.RANKED: 2, Outcome.UNCONVERGED: 1, Outcome.REJECTED: 2, Outcome.FAILED: 1,
    }  # fmt: skip
    assert leg.losses() == [
        ("generate", "rejected", "bad_cell", 1), ("rank", "rejected", "connectivity", 1),
        ("relax", "unconverged", "max_steps", 1), ("relax_h", "failed", "exploded", 1),
    ]  # fmt: skip
    assert leg.match.tolist() == [True, False, False, False, False, False]


def test_costs_go_from_the_generation_to_the_last_relaxation(write):
    leg = leg_of(write("a", STORY))
    # One second a stage, the ranking not counted.
    np.testing.assert_allclose(leg.cpu_s, [4.0, 0.5, 53.0, 3.0, 4.0, 4.0])
    assert leg.gpu_s.sum() == 0
    assert (leg.hosts, leg.devices) == (("here",), ("cpu",))


def test_seconds_on_a_gpu_count_apart(write):
    on_gpu = {("relax", "device"): "cuda:0 (H200)"}
    leg = leg_of(write("a", [Candidate(more=on_gpu, seconds={"relax": 7.0}), Candidate()]))
    np.testing.assert_allclose(leg.gpu_s, [7.0, 0.0])
    np.testing.assert_allclose(leg.cpu_s, [3.0, 4.0])
    np.testing.assert_allclose(leg.cost_s, [10.0, 4.0])
    assert leg.devices == ("cpu", "cuda:0 (H200)")


def test_energies_are_per_molecule_and_missing_where_there_is_no_structure(write):
    leg = leg_of(write("a", STORY))
    above = (leg.energy - ZERO_EV) * EV_TO_KJ_MOL
    np.testing.assert_allclose(above[[0, 5]], [4.0, 0.0], atol=1e-9)
    assert np.isnan(above[1:5]).all()
    starts = (leg.energy_start - ZERO_EV) * EV_TO_KJ_MOL
    np.testing.assert_allclose(starts, [44.0, np.nan, 99.0, np.nan, 50.0, 50.0])
    np.testing.assert_allclose(leg.density[[0, 5]], [1.3, 1.2])
    assert leg.density_start[0] == pytest.approx(0.8 * 1.3)


def test_only_the_beginning_without_gaps_takes_part(write):
    run = write("a", [Candidate() for _ in range(6)], unfinished=[(3, "relax"), (5, "generate")])
    leg = leg_of(run)
    assert (len(leg), leg.n_complete, leg.n_run) == (3, 3, 6)
    with pytest.raises(UserInputError, match=r"first candidate of .* is not finished"):
        leg_of(write("b", [Candidate(), Candidate()], unfinished=[(0, "rank")]))


def test_a_failure_that_gets_another_attempt_is_not_finished(write):
    timeout = Candidate(end=("relax", "failed", "timeout"))
    assert len(leg_of(write("a", [Candidate(), timeout, Candidate()]))) == 1
    timeout.more[("relax", "attempt")] = 2
    assert len(leg_of(write("b", [Candidate(), timeout, Candidate()]))) == 3


def test_unconverged_candidates_are_ranked_where_the_run_says_so(write):
    slow = Candidate(end=("rank", "unconverged", "max_steps"))
    assert leg_of(write("a", [slow])).outcome.tolist() == [Outcome.UNCONVERGED]
    included = write("b", [slow], rank={"include_unconverged": True})
    assert leg_of(included).outcome.tolist() == [Outcome.RANKED]


def test_a_refinement_window_is_a_rejection_without_cost(write):
    outside = Candidate(end=("relax_2", "rejected", "window"), more={("relax_2", "wall_s"): None})
    leg = leg_of(write("a", [outside, Candidate()], refine=["springs:8"]))
    assert leg.losses() == [("relax_2", "rejected", "window", 1)]
    np.testing.assert_allclose(leg.cpu_s, [4.0, 5.0])


def test_a_cut_leg_keeps_its_first_candidates(write):
    leg = leg_of(write("a", STORY)).first(3)
    assert len(leg) == 3
    assert leg.n_complete == 6
    assert leg.cpu_s.tolist() == [4.0, 0.5, 53.0]
    assert leg.stage.tolist() == ["rank", "generate", "relax"]


def test_legs_have_names_that_differ(write, tmp_path):
    one = [Candidate()]
    a, b = write("a", one), write("b", one, generator="random+press")
    assert [leg.name for leg in read_legs([a, b])] == ["random", "random+press"]
    c = write("c", one, seed=4)
    assert [leg.name for leg in read_legs([a, b, c])] == [
        "random seed 0", "random+press", "random seed 4"
    ]  # fmt: skip
    d = write("d", one)
    assert [leg.name for leg in read_legs([a, d])] == ["random (a)", "random (d)"]
    e = write("deep/a", one)
    assert [leg.name for leg in read_legs([a, e])] == [
        f"random ({tmp_path / 'a'})", f"random ({tmp_path / 'deep' / 'a'})"
    ]  # fmt: skip


def test_a_race_needs_two_different_run_folders(write, tmp_path):
    run = write("a", [Candidate()])
    with pytest.raises(UserInputError, match="two or more run folders"):
        read_legs([run])
    with pytest.raises(UserInputError, match="given twice"):
        read_legs([run, tmp_path / "b" / ".." / "a"])
    with pytest.raises(UserInputError, match="is not a run folder"):
        read_legs([run, tmp_path])
