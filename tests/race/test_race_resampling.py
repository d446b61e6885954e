"""Resamples and their intervals."""

import numpy as np
import pytest

from packflow_core.race import resampling
from packflow_core.race.resampling import (
    bootstrap,
    percentile_interval,
    resample_counts,
    resampled_medians,
)


def test_resamples_are_draws_with_replacement(monkeypatch):
    whole = np.concatenate(list(resample_counts(50, 4000, np.random.default_rng(1))))
    assert whole.shape == (4000, 50)
    assert (whole.sum(axis=1) == 50).all()
    # Binomial with n = 50, p = 1/50: mean 1, variance 0.98.
    np.testing.assert_allclose(whole.mean(axis=0), 1.0, atol=0.08)
    assert whole.var() == pytest.approx(0.98, abs=0.02)
    monkeypatch.setattr(resampling, "_CHUNK", 50 * 333)
    again = list(resample_counts(50, 4000, np.random.default_rng(1)))
    assert len(again) == 13
    np.testing.assert_array_equal(np.concatenate(again), whole)


def test_no_candidates_have_empty_resamples():
    (counts,) = resample_counts(0, 5, np.random.default_rng(0))
    assert counts.shape == (5, 0)


@pytest.mark.parametrize("lost", [0, 4, 11])
def test_medians_of_resamples_are_numpys(lost):
    rng = np.random.default_rng(2)
    values = rng.normal(size=11)
    values[:lost] = np.nan
    counts = np.concatenate(list(resample_counts(11, 200, rng)))
    expected = [
        np.median(drawn) if len(drawn := np.repeat(values, row)[~np.isnan(np.repeat(values, row))])
        else np.nan
        for row in counts
    ]  # fmt: skip
    np.testing.assert_allclose(resampled_medians(values, counts), expected)


def test_the_same_seed_gives_the_same_interval_and_another_leg_another():
    def mean(counts):
        return {"mean": counts @ np.arange(30.0) / 30}

    first, same, other = (
        bootstrap(30, 500, seed, mean)["mean"] for seed in ((0, 0), (0, 0), (0, 1))
    )
    np.testing.assert_array_equal(first, same)
    assert abs(np.corrcoef(first, other)[0, 1]) < 0.2


def test_percentile_intervals_cover_a_known_mean_about_as_often_as_they_say():
    rng = np.random.default_rng(3)
    covered = 0
    for trial in range(300):
        values = rng.exponential(2.0, size=60)

        def mean(counts, values=values):
            return {"mean": counts @ values / 60}

        low, high = percentile_interval(bootstrap(60, 400, (trial,), mean)["mean"], 0.9)
        covered += bool(low <= 2.0 <= high)
    assert 0.82 <= covered / 300 <= 0.95


def test_a_statistic_that_most_resamples_lack_has_no_interval():
    replicates = np.array([[1.0, np.nan], [2.0, np.nan], [3.0, 5.0], [np.nan, np.nan]])
    low, high = percentile_interval(replicates, 0.9)
    assert low[0] == pytest.approx(1.1)
    assert high[0] == pytest.approx(2.9)
    assert np.isnan(low[1])
    assert np.isnan(high[1])
