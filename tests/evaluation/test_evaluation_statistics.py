"""Means over molecules, their intervals, and the best of so many samples."""

import itertools

import numpy as np
import pytest

from packflow_core.evaluation.statistics import (
    expected_best,
    expected_near,
    mean_over_targets,
    sample_sizes,
)


def test_the_expected_best_is_the_mean_over_all_subsets():
    values = np.array([0.4, 0.1, 0.9, 0.3, 0.3, 0.7])
    found = expected_best(values, np.arange(1, 8))
    for k in range(1, 7):
        subsets = itertools.combinations(values, k)
        assert found[k - 1] == pytest.approx(np.mean([min(s) for s in subsets]), rel=1e-12)
    assert np.isnan(found[6])


def test_a_missing_value_costs_a_sample_and_brings_nothing():
    values = np.array([0.2, np.nan, 0.8, np.nan])
    found = expected_best(values, np.arange(1, 5))
    assert found == pytest.approx(expected_best(np.array([0.2, 0.8, 0.8, 0.8]), np.arange(1, 5)))
    assert np.isnan(expected_best(np.full(3, np.nan), np.array([1, 2]))).all()


def test_the_chance_of_a_hit_is_hypergeometric():
    values = np.array([True, False, False, True, False])
    found = expected_near(2, 5, np.arange(1, 7))
    for k in range(1, 6):
        subsets = list(itertools.combinations(values, k))
        assert found[k - 1] == pytest.approx(np.mean([any(s) for s in subsets]), rel=1e-12)
    assert np.isnan(found[5])
    assert expected_near(0, 9, np.array([1, 9])).tolist() == [0.0, 0.0]
    assert expected_near(9, 9, np.array([1])).tolist() == [1.0]


def test_large_numbers_of_samples_neither_overflow_nor_underflow():
    values = np.random.default_rng(0).random(20_000)
    sizes = sample_sizes(20_000)
    found = expected_best(values, sizes)
    assert (sizes[0], sizes[-1]) == (1, 20_000)
    assert found[0] == pytest.approx(values.mean(), rel=1e-9)
    assert found[-1] == pytest.approx(values.min(), rel=1e-9)
    assert (np.diff(found) < 0).all()
    assert expected_near(1, 20_000, np.array([5_000]))[0] == pytest.approx(0.25)


def test_every_target_counts_once_and_missing_ones_do_not():
    values = np.array([1.0, np.nan, 3.0, 8.0])
    found = mean_over_targets(values, ["a", "b", "c", "d"], 500, 0.9)
    assert found.value == pytest.approx(4.0)
    assert found.low < 4.0 < found.high
    assert found.low >= 1.0
    assert found.high <= 8.0


def test_the_interval_is_that_of_the_mean_of_many_molecules():
    """Percentile interval of a mean of n values: about 1.96 standard errors on either side."""
    rng = np.random.default_rng(1)
    values = rng.normal(5.0, 2.0, 400)
    found = mean_over_targets(values, [str(i) for i in range(400)], 4000, 0.95)
    error = values.std() / 20.0
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.08)


def test_targets_of_one_molecule_are_no_independent_evidence():
    rng = np.random.default_rng(2)
    per_molecule = rng.normal(0.0, 1.0, 12)
    values = np.repeat(per_molecule, 30)
    molecules = np.repeat([f"m{i}" for i in range(12)], 30).tolist()
    clustered = mean_over_targets(values, molecules, 2000, 0.95)
    alone = mean_over_targets(per_molecule, [f"m{i}" for i in range(12)], 2000, 0.95)
    assert clustered.value == pytest.approx(alone.value)
    assert clustered.high - clustered.low == pytest.approx(alone.high - alone.low, rel=1e-9)


def test_a_single_molecule_has_no_interval():
    found = mean_over_targets(np.array([1.0, 3.0]), ["a", "a"], 200, 0.95)
    assert (float(found.value), np.isnan(found.low), np.isnan(found.high)) == (2.0, True, True)
    none = mean_over_targets(np.array([np.nan, np.nan]), ["a", "b"], 200, 0.95)
    assert np.isnan([none.value, none.low, none.high]).all()


def test_curves_keep_their_axis_and_repeat():
    values = np.random.default_rng(3).random((6, 4))
    values[:, 3] = np.nan
    names = list("abcdef")
    found = mean_over_targets(values, names, 300, 0.95)
    assert found.value.shape == found.low.shape == (4,)
    one = mean_over_targets(values[:, 1], names, 300, 0.95)
    for name in ("value", "low", "high"):
        assert getattr(found, name)[1] == pytest.approx(float(getattr(one, name)), rel=1e-12)
    assert np.isnan(found.low[3])
