"""Means over molecules with bootstrap intervals, and what more samples bring.

A metric is averaged over the proposals of a target, then over the targets, so that every target
counts once. Intervals come from resampling molecules: proposals of one molecule are no independent
evidence about the next one, however many there are (Efron and Tibshirani, An Introduction to the
Bootstrap, 1993, chapter 13).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

#: Numbers of one matrix of the bootstrap at most.
_CHUNK = 4_000_000
_SEED = 0xB007


@dataclass(frozen=True, eq=False)
class Mean:
    """A mean over targets with its interval; arrays where the values had further axes.

    Attributes:
        value, low, high: NaN where no target has a value.
    """

    value: FloatArray
    low: FloatArray
    high: FloatArray


def mean_over_targets(
    values: FloatArray, molecules: Sequence[str], resamples: int, confidence: float
) -> Mean:
    """Mean of the values [T, ...] of targets, with a percentile interval over molecules.

    Targets without a value (NaN) do not count. Targets of one molecule, its known forms one by
    one, are drawn together. With a single molecule there is no interval, but NaN.

    Args:
        values: of T targets.
        molecules: [T] the molecule of each.
        resamples: of the bootstrap.
        confidence: for example 0.95.
    """
    flat = np.asarray(values, dtype=np.float64).reshape(len(molecules), -1)
    _, which = np.unique(np.asarray(molecules, dtype=object).astype(str), return_inverse=True)
    n_molecules = int(which.max(initial=-1)) + 1
    sums, counts = np.zeros((2, n_molecules, flat.shape[1]))
    known = np.isfinite(flat)
    np.add.at(sums, which, np.where(known, flat, 0.0))
    np.add.at(counts, which, known.astype(np.float64))
    with np.errstate(invalid="ignore", divide="ignore"):
        value = sums.sum(axis=0) / counts.sum(axis=0)
    low, high = np.full_like(value, np.nan), np.full_like(value, np.nan)
    if n_molecules > 1:
        replicates = _replicates(sums, counts, resamples)
        usable = np.isfinite(replicates).mean(axis=0) >= 0.5
        edge = 50.0 * (1.0 - confidence)
        if usable.any():
            low[usable], high[usable] = np.nanpercentile(
                replicates[:, usable], [edge, 100.0 - edge], axis=0
            )
    shape = np.shape(values)[1:]
    return Mean(value.reshape(shape), low.reshape(shape), high.reshape(shape))


def _replicates(sums: FloatArray, counts: FloatArray, resamples: int) -> FloatArray:
    """[resamples, C] means of resampled molecules; the same molecules for every column."""
    n = len(sums)
    rng = np.random.default_rng([_SEED, n])
    parts = []
    size = max(1, _CHUNK // n)
    for begin in range(0, resamples, size):
        r = min(size, resamples - begin)
        drawn = rng.integers(0, n, size=(r, n)) + n * np.arange(r)[:, None]
        times = np.bincount(drawn.reshape(-1), minlength=r * n).reshape(r, n).astype(np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            parts.append((times @ sums) / (times @ counts))
    return np.concatenate(parts)


def expected_best(values: FloatArray, sizes: IntArray) -> FloatArray:
    """Expected smallest of k of n values, drawn without replacement, for every k of `sizes`.

    Exact: the i-th smallest is the smallest of a sample with C(n-i, k-1) / C(n, k). A value that
    is missing (NaN) counts as the largest that there is: a proposal that could not be measured
    costs a sample and brings nothing. NaN where all are missing, and for k above n.
    """
    known = np.sort(values[np.isfinite(values)])
    n = len(values)
    if not len(known):
        return np.full(len(sizes), np.nan)
    ordered = np.concatenate([known, np.full(n - len(known), known[-1])])
    k, i = np.asarray(sizes, dtype=np.int64)[:, None], np.arange(n)[None]
    with np.errstate(invalid="ignore"):
        weights = np.exp(_log_choose(n - 1 - i, k - 1) - _log_choose(np.array(n), k))
    return np.where(np.asarray(sizes) <= n, weights @ ordered, np.nan)


def expected_near(hits: int, n: int, sizes: IntArray) -> FloatArray:
    """Chance that k of n proposals, `hits` of which are hits, hold at least one; NaN above n."""
    k = np.asarray(sizes, dtype=np.int64)
    with np.errstate(invalid="ignore"):
        missed = np.exp(_log_choose(np.array(n - hits), k) - _log_choose(np.array(n), k))
    return np.where(k <= n, 1.0 - missed, np.nan)


def sample_sizes(n: int) -> IntArray:
    """Numbers of samples at which a curve up to n is drawn: all up to 20, then evenly in log k."""
    spaced = np.unique(np.geomspace(1, max(n, 1), 60).round().astype(np.int64))
    return np.unique(np.concatenate([np.arange(1, min(n, 20) + 1), spaced]))


def _log_choose(n: NDArray[np.int64], k: NDArray[np.int64]) -> FloatArray:
    """Logarithm of C(n, k); minus infinity where k > n."""
    n, k = np.broadcast_arrays(n, k)
    inside = (k >= 0) & (k <= n)
    a, b = np.where(inside, n, 0).astype(np.float64), np.where(inside, k, 0).astype(np.float64)
    log = gammaln(a + 1.0) - gammaln(b + 1.0) - gammaln(a - b + 1.0)
    return np.where(inside, log, -np.inf)
