"""How much a few measured candidates say about many: draws of a stage's mean cost and yield.

Costs of candidates are taken as log-normal about a median of their own for each Z, with one spread
for all Z of a stage. The unknown median and spread are drawn from their posterior under the usual
prior without information (Gelman et al., Bayesian Data Analysis, 3rd ed., section 3.2), so a pilot
of four says less than one of forty, and the interval shows it. Yields are drawn from the posterior
of a proportion under Jeffreys' prior.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

#: Spread of the logarithm of the cost that a single candidate is taken to have.
_SPREAD_OF_ONE = 0.5
#: Largest spread believed: two thirds of the candidates within a factor of e^1.5 of the median.
_SPREAD_MAX = 1.5
#: Time measured on a machine that others use, too: another day it is 10 % more or less.
_CLOCK_NOISE = 0.1
#: Shortest time believed, s; a candidate that took no measurable time has a logarithm, too.
_TICK_S = 1e-4

Draws = NDArray[np.float64]


def cost_draws(
    seconds: Mapping[int, Sequence[float]],
    shares: Mapping[int, float],
    limit_s: float,
    rng: np.random.Generator,
    draws: int,
) -> Draws:
    """Draws of the mean seconds of a candidate.

    Args:
        seconds: measured times by Z, s; at least one in all.
        shares: fraction of the candidates by Z; of a Z that was not measured, the others stand in.
        limit_s: no mean is above it, s.
        rng: source of the draws.
        draws: how many.

    Returns:
        Seconds a candidate, shape (draws,).

    Raises:
        ValueError: nothing was measured.
    """
    logs = {
        z: np.log(np.maximum(np.asarray(times, dtype=np.float64), _TICK_S))
        for z, times in seconds.items()
        if len(times)
    }
    count = sum(map(len, logs.values()))
    if not count:
        raise ValueError("no times were measured")
    freedom = count - len(logs)
    if freedom > 0:
        squares = sum(float(((values - values.mean()) ** 2).sum()) for values in logs.values())
        spread = np.sqrt(squares / rng.chisquare(freedom, draws))
    else:
        spread = np.full(draws, _SPREAD_OF_ONE)
    spread = np.minimum(spread, _SPREAD_MAX)
    everything = np.concatenate(list(logs.values()))
    mean = np.zeros(draws)
    for z, share in shares.items():
        values = logs.get(z, everything)
        median = values.mean() + spread / np.sqrt(len(values)) * rng.standard_normal(draws)
        mean += share * np.minimum(np.exp(median + spread**2 / 2), limit_s)
    return mean * np.exp(_CLOCK_NOISE * rng.standard_normal(draws))


def yield_draws(passed: int, attempted: int, rng: np.random.Generator, draws: int) -> Draws:
    """Draws of the fraction of candidates that go on, shape (draws,)."""
    return rng.beta(passed + 0.5, attempted - passed + 0.5, draws)


def interval(draws: Draws) -> tuple[float, float, float]:
    """The 5 %, 50 % and 95 % quantiles."""
    low, middle, high = np.quantile(draws, (0.05, 0.5, 0.95))
    return float(low), float(middle), float(high)
