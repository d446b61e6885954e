"""Growing a leg to a budget of working time."""

import numpy as np
import pytest

from packflow_core.race.growth import next_size


def grown(cost, budget, start=8, **kwargs):
    """Sizes that a leg goes through when candidate i costs cost[i]."""
    sizes = [start]
    while (more := next_size(cost[: sizes[-1]], budget, **kwargs)) is not None:
        assert more > sizes[-1]
        sizes.append(more)
    return sizes


def test_equal_costs_are_forecast_to_the_candidate():
    sizes = grown(np.full(1000, 2.0), 601.0)
    assert sizes[-1] == 301  # 600 s would be one too few
    assert sizes[1] == 8 * 20  # no faster than that
    assert next_size(np.full(300, 2.0), 600.0) is None


def test_a_pilot_that_fills_the_budget_does_not_grow():
    assert grown(np.full(100, 10.0), 80.0) == [8]
    assert grown(np.full(100, 10.0), 5.0) == [8]


@pytest.mark.parametrize("spread", [0.5, 1.0])
def test_unequal_costs_are_approached_from_below(spread):
    rng = np.random.default_rng(5)
    beyond, steps = [], []
    for _ in range(40):
        cost = rng.lognormal(0.0, spread, size=5000)
        needed = int(np.searchsorted(np.cumsum(cost), 500.0)) + 1
        sizes = grown(cost, 500.0)
        assert cost[: sizes[-1]].sum() >= 500.0
        beyond.append(sizes[-1] / needed - 1)
        steps.append(len(sizes))
    assert np.mean(beyond) < 0.02
    assert max(steps) <= 12


def test_cheap_blocks_are_taken_whole_and_dear_ones_are_not():
    assert grown(np.full(10_000, 1.0), 2000.0, block=32)[-1] == 2016
    assert grown(np.full(10_000, 100.0), 2000.0, block=32)[-1] == 20


def test_a_leg_that_costs_nothing_doubles_up_to_the_largest():
    assert grown(np.zeros(100), 1.0, largest=50) == [8, 16, 32, 50]
