"""Intervals of counts against tables and against all orders."""

import math
from itertools import permutations

import numpy as np
import pytest

from packflow_core.race.rates import draws_until_first, fraction_interval, rate_interval


def test_rates_have_garwoods_limits():
    # Standard table of exact 95 % limits of a Poisson mean: 3 events, 0.619 to 8.767.
    assert rate_interval(3, 1.0, 0.95) == pytest.approx((0.6187, 8.7673), abs=1e-4)
    assert rate_interval(3, 10.0, 0.95) == pytest.approx((0.06187, 0.87673), abs=1e-5)


def test_no_event_leaves_an_upper_bound():
    low, high = rate_interval(0, 6.0, 0.95)
    assert low == 0.0
    assert high == pytest.approx(2.9957 / 6.0, abs=1e-4)
    # That rate gives no event with a probability of 5 %.
    assert math.exp(-high * 6.0) == pytest.approx(0.05)


def test_no_time_has_no_rate():
    assert all(map(math.isnan, rate_interval(0, 0.0, 0.95)))


def test_fractions_have_clopper_and_pearsons_limits():
    assert fraction_interval(2, 20, 0.95) == pytest.approx((0.01235, 0.31698), abs=1e-5)
    assert fraction_interval(0, 20, 0.95) == pytest.approx((0.0, 0.16843), abs=1e-5)
    assert all(map(math.isnan, fraction_interval(0, 0, 0.95)))


@pytest.mark.parametrize(("hits", "total"), [(1, 5), (2, 6), (6, 6)])
def test_candidates_until_the_first_hit_is_the_mean_over_all_orders(hits, total):
    marks = [True] * hits + [False] * (total - hits)
    mean = np.mean([order.index(True) + 1 for order in permutations(marks)])
    assert draws_until_first(hits, total) == pytest.approx(mean)
    assert math.isnan(draws_until_first(0, total))
