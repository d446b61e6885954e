"""Bootstrap over candidates: percentile intervals, vectorised over the resamples.

A resample of n candidates is how often each of them was drawn, so a statistic of many resamples
is a product with a matrix of counts (Efron and Tibshirani, An Introduction to the Bootstrap,
1993, chapter 13).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

#: Numbers of one matrix of counts at most; keeps a chunk at some tens of megabytes.
_CHUNK = 4_000_000

#: Statistics of resamples: counts [r, n] to named arrays [r, ...].
Statistic = Callable[[IntArray], dict[str, NDArray[Any]]]


def resample_counts(n: int, resamples: int, rng: np.random.Generator) -> Iterator[IntArray]:
    """Chunks [r, n] of how often each of n candidates is in each resample; rows add up to n.

    The draws do not depend on how they are cut into chunks.
    """
    size = max(1, _CHUNK // max(n, 1))
    for begin in range(0, resamples, size):
        r = min(size, resamples - begin)
        drawn = rng.integers(0, max(n, 1), size=(r, n))
        flat = drawn + n * np.arange(r)[:, None]
        yield np.bincount(flat.reshape(-1), minlength=r * n).reshape(r, n)


def bootstrap(
    n: int, resamples: int, seed: tuple[int, ...], statistic: Statistic
) -> dict[str, NDArray[Any]]:
    """Statistics of resamples of n candidates.

    Args:
        n: candidates.
        resamples: how many.
        seed: same seed, same resamples; legs of one race take different ones.
        statistic: see `Statistic`.

    Returns:
        Arrays [resamples, ...].
    """
    rng = np.random.default_rng(np.random.SeedSequence(seed))
    parts = [statistic(counts) for counts in resample_counts(n, resamples, rng)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def percentile_interval(replicates: FloatArray, confidence: float) -> tuple[FloatArray, FloatArray]:
    """Percentile interval along the first axis of [resamples, ...].

    A resample in which the statistic does not exist (NaN) does not count; where it exists in
    fewer than half of them there is no interval, but NaN.
    """
    values = np.asarray(replicates, dtype=np.float64)
    edge = 50.0 * (1.0 - confidence)
    exists = np.isfinite(values).mean(axis=0) >= 0.5
    filled = np.where(exists, values, 0.0)
    with np.errstate(invalid="ignore"):
        low, high = np.nanpercentile(filled, [edge, 100.0 - edge], axis=0)
    return np.where(exists, low, np.nan), np.where(exists, high, np.nan)


def resampled_medians(values: FloatArray, counts: IntArray) -> FloatArray:
    """[r] medians of resamples of the values [n] that are not NaN; counts are [r, n].

    NaN for a resample that drew none of them.
    """
    known = np.flatnonzero(~np.isnan(values))
    if not len(known):
        return np.full(len(counts), np.nan)
    order = known[np.argsort(values[known], kind="stable")]
    places = np.cumsum(counts[:, order], axis=1)
    total = places[:, -1]
    # Zero-based places of the two middle draws; the same one when their number is odd.
    lower, upper = (
        (places <= middle[:, None]).sum(axis=1)
        for middle in (np.maximum(total - 1, 0) // 2, total // 2)
    )
    last = len(order) - 1
    middle = 0.5 * (values[order[np.minimum(lower, last)]] + values[order[np.minimum(upper, last)]])
    return np.where(total > 0, middle, np.nan)
