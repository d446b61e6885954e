"""Intervals of counts: fractions of candidates, and events per hour."""

from __future__ import annotations

import math

from scipy.stats import chi2


def fraction_interval(count: int, total: int, confidence: float) -> tuple[float, float]:
    """Exact interval of a fraction (Clopper and Pearson, Biometrika 26, 404, 1934).

    NaN where there is nothing to count in.
    """
    from scipy.stats import binomtest

    if total == 0:
        return math.nan, math.nan
    found = binomtest(count, total).proportion_ci(confidence, method="exact")
    return float(found.low), float(found.high)


def rate_interval(count: int, exposure: float, confidence: float) -> tuple[float, float]:
    """Exact interval of a Poisson rate (Garwood, Biometrika 28, 437, 1936).

    With no event there is an upper bound alone: the rate that gives none with a probability of
    1 - confidence, -ln(1 - confidence) / exposure (3 over the exposure at 95 %).

    Args:
        count: events.
        exposure: hours, or whatever the rate is per; NaN bounds where it is not positive.
        confidence: of the interval.
    """
    if not exposure > 0:
        return math.nan, math.nan
    if count == 0:
        return 0.0, -math.log(1.0 - confidence) / exposure
    tail = 0.5 * (1.0 - confidence)
    low = 0.5 * float(chi2.ppf(tail, 2 * count))
    high = 0.5 * float(chi2.ppf(1.0 - tail, 2 * count + 2))
    return low / exposure, high / exposure


def draws_until_first(count: int, total: int) -> float:
    """Expected candidates until the first of `count` good ones among `total`, in any order.

    (total + 1) / (count + 1), the mean of the negative hypergeometric distribution; NaN where
    there is none.
    """
    return (total + 1) / (count + 1) if count else math.nan
