"""The lowest energy so far: exact expectations against every order there is."""

from itertools import permutations

import numpy as np
import pytest

from packflow_core.race.curves import (
    along_compute,
    drawn_ascending,
    expected_lowest,
    order_weights,
    sample_grid,
)

INF = np.inf


def brute_force(values, k):
    """Mean lowest of the first k over all orders that found something, and their share."""
    lowest = np.array([min(order[:k]) for order in permutations(values)])
    found = np.isfinite(lowest)
    return (lowest[found].mean() if found.any() else np.nan), found.mean()


@pytest.mark.parametrize(
    "values",
    [
        [3.0, 1.0, 2.0, 7.0, 5.0],
        [3.0, INF, 2.0, INF, 5.0, INF],
        [4.0, 4.0, 1.0, 1.0, INF, 9.0],
        [INF, INF, INF],
        [2.5],
    ],
)
def test_the_curve_is_the_mean_over_all_orders(values):
    k = np.arange(1, len(values) + 1)
    ordered = np.sort(np.array([values]), axis=1)
    value, found = expected_lowest(ordered, order_weights(len(values), k))
    expected = np.array([brute_force(values, size) for size in k])
    np.testing.assert_allclose(value[0], expected[:, 0], rtol=1e-12)
    np.testing.assert_allclose(found[0], expected[:, 1], rtol=1e-12, atol=1e-14)


def test_weights_of_many_candidates_are_probabilities():
    k = sample_grid(20_000)
    weights = order_weights(20_000, k)
    np.testing.assert_allclose(weights.sum(axis=0), 1.0, rtol=1e-9)
    # The lowest of all is among k with the probability k / n.
    np.testing.assert_allclose(weights[0], k / 20_000, rtol=1e-9)
    assert weights[1, -1] == 0.0


def test_the_grid_has_both_ends_once():
    assert sample_grid(1).tolist() == [1]
    assert sample_grid(0).tolist() == []
    grid = sample_grid(7)
    assert grid.tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert (np.diff(sample_grid(10_000)) > 0).all()


def test_a_resample_comes_in_ascending_order_with_its_losses_last():
    values = np.array([5.0, np.nan, 1.0, 3.0])
    counts = np.array([[1, 1, 1, 1], [0, 2, 0, 2], [4, 0, 0, 0]])
    np.testing.assert_array_equal(
        drawn_ascending(values, counts), [[1, 3, 5, INF], [3, 3, INF, INF], [5, 5, 5, 5]]
    )


def test_compute_counts_the_mean_cost_of_a_candidate():
    k = np.array([1, 2, 4])
    curves = along_compute(
        np.array([10.0, 15.0, 20.0, 40.0, 99.0]), k, np.array([10.0]), np.array([[8.0, 6.0, 2.0]])
    )
    np.testing.assert_allclose(curves, [[8.0, 7.0, 6.0, 2.0, 2.0]])
    nothing = along_compute(np.array([1.0]), k, np.array([0.0]), np.array([[8.0, 6.0, 2.0]]))
    assert np.isnan(nothing).all()
