"""An equal budget for all legs."""

import numpy as np
import pytest
from race_runs import Candidate

from packflow_core.errors import UserInputError
from packflow_core.race.budget import cut, prefix_within
from packflow_core.race.legs import read_legs
from packflow_core.race.settings import CompareSettings


@pytest.fixture
def legs(write):
    """Ten candidates of 4 s and five of 13 s."""
    slow = [Candidate(seconds={"relax": 10.0}) for _ in range(5)]
    return read_legs(
        [write("a", [Candidate() for _ in range(10)]), write("b", slow, generator="random+press")]
    )


def test_a_prefix_never_exceeds_its_budget():
    cost = np.array([3.0, 1.0, 5.0, 1.0])
    sizes = [prefix_within(cost, budget) for budget in (2.9, 3.0, 4.0, 8.9, 9.0, 10.0, 99.0)]
    assert sizes == [0, 1, 2, 2, 3, 4, 4]


def test_without_a_budget_the_smallest_leg_decides(legs):
    done, budget = cut(legs, CompareSettings())
    assert [len(leg) for leg in done] == [5, 5]
    assert budget.describe() == (
        "Equal number of candidates: the first 5, all that a leg has (random 5 of 10)."
    )


def test_a_number_cuts_all_legs(legs):
    done, budget = cut(legs, CompareSettings(n=3))
    assert [len(leg) for leg in done] == [3, 3]
    assert budget.after == {"random": 3, "random+press": 3}
    with pytest.raises(UserInputError, match=r"random\+press has 5 finished candidates and 6 are"):
        cut(legs, CompareSettings(n=6))


def test_seconds_cut_each_leg_where_its_work_ends(legs):
    done, budget = cut(legs, CompareSettings(compute_s=30.0))
    assert [len(leg) for leg in done] == [7, 2]
    assert [leg.cost_s.sum() for leg in done] == [28.0, 26.0]
    assert "30 s (random 7 of 10, random+press 2 of 5)" in budget.describe()
    with pytest.raises(UserInputError, match="random holds 40 s of work and 41 s are"):
        cut(legs, CompareSettings(compute_s=41.0))


def test_a_budget_below_the_first_candidate_leaves_none(legs):
    done, _ = cut(legs, CompareSettings(compute_s=10.0))
    assert [len(leg) for leg in done] == [2, 0]
