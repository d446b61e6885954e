"""The lowest energy so far, as a function of samples and of compute, without an order.

The order in which a run drew its candidates is one of many. The curves are exact expectations
over all orders: of n candidates, the lowest of k is the p-th lowest of all with the probability
C(n - p, k - 1) / C(n, k). Candidates that found nothing count as draws without an energy; the
expectation is that of the orders that found something, whose share is `found`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

#: Points of a curve at most.
GRID = 48


@dataclass(frozen=True, eq=False)
class Curve:
    """Expected lowest energy.

    Attributes:
        x: [k] samples, or working seconds.
        value: [k] expectation over the orders that found something; NaN where none did.
        low, high: [k] bootstrap interval.
        found: [k] share of the orders that found something.
    """

    x: FloatArray
    value: FloatArray
    low: FloatArray
    high: FloatArray
    found: FloatArray


def sample_grid(n: int, points: int = GRID) -> IntArray:
    """Numbers of samples from 1 to n, evenly spaced on a logarithmic scale, both ends in it."""
    if n < 1:
        return np.zeros(0, dtype=np.int64)
    return np.unique(np.round(np.geomspace(1, n, points)).astype(np.int64))


def order_weights(n: int, k: IntArray) -> FloatArray:
    """[n, len(k)] probability that the lowest of k among n candidates is the p-th lowest of all.

    Args:
        n: candidates.
        k: sizes of the draw without replacement, each 1 to n.
    """
    places = np.arange(1, n + 1, dtype=np.float64)[:, None]
    size = np.asarray(k, dtype=np.float64)[None, :]
    possible = places <= n - size + 1
    left = np.where(possible, n - places, size - 1)
    log = _log_choose(left, size - 1) - _log_choose(np.float64(n), size)
    return np.where(possible, np.exp(log), 0.0)


def expected_lowest(ordered: FloatArray, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Expected lowest value of draws without replacement, and the share that found one.

    Args:
        ordered: [r, n] values of n candidates, ascending in each row; infinity for those without
            one.
        weights: [n, k] of `order_weights`.

    Returns:
        [r, k] expectations (NaN where no candidate has a value) and [r, k] shares.
    """
    known = np.isfinite(ordered)
    total = np.where(known, ordered, 0.0) @ weights
    below = np.vstack([np.zeros((1, weights.shape[1])), np.cumsum(weights, axis=0)])
    found = np.minimum(below[known.sum(axis=1)], 1.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        value = np.where(found > 0, total / np.where(found > 0, found, 1.0), np.nan)
    return value, found


def drawn_ascending(values: FloatArray, counts: IntArray) -> FloatArray:
    """[r, n] values of resamples in ascending order; NaN becomes infinity.

    Args:
        values: [n]; NaN for candidates without one.
        counts: [r, n] how often each was drawn; rows add up to n.
    """
    filled = np.where(np.isnan(values), np.inf, values)
    order = np.argsort(filled, kind="stable")
    repeated = np.repeat(np.tile(filled[order], len(counts)), counts[:, order].reshape(-1))
    return np.asarray(repeated.reshape(counts.shape), dtype=np.float64)


def along_compute(
    grid_s: FloatArray, k: IntArray, seconds_each: FloatArray, values: FloatArray
) -> FloatArray:
    """Curves over samples as curves over compute; k candidates take k times the mean cost.

    Args:
        grid_s: [g] seconds wanted.
        k: [m] numbers of samples.
        seconds_each: [r] mean seconds of a candidate.
        values: [r, m] curves.

    Returns:
        [r, g]; before the first sample its value, behind the last one that of the last.
    """
    out = np.full((len(values), len(grid_s)), np.nan)
    for row, (each, curve) in enumerate(zip(seconds_each, values, strict=True)):
        known = np.isfinite(curve)
        if each > 0 and known.any():
            out[row] = np.interp(grid_s / each, k[known], curve[known])
    return out


def _log_choose(n: FloatArray | np.float64, k: FloatArray) -> FloatArray:
    return np.asarray(gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1), dtype=np.float64)
