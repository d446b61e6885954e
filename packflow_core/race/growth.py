"""Growing a leg to a budget of working time: a pilot, then forecasts, from below.

What a candidate costs is known only when it is done. A run may grow and its first candidates stay
the same, so a leg starts small and gets as many more as its measured cost says, a little fewer
while the forecast is uncertain. What it computes beyond the budget is the last step's error.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

#: Candidates of a first step for each Z.
PILOT_PER_Z = 4
#: Steps of at most this share of what is there, or so few candidates, are not held back any more.
_SMALL_STEP = 0.1
_FEW = 4
#: Whole blocks of the generator are taken where one costs at most this share of the budget.
_CHEAP_BLOCK = 0.05
#: A leg grows by this factor at most in one step.
_FASTEST = 20


def next_size(
    cost_s: FloatArray, budget_s: float, *, block: int = 1, largest: int = 1_000_000
) -> int | None:
    """How many candidates a leg shall have next; None where it needs no more.

    Args:
        cost_s: [n] working seconds of its candidates so far, n > 0.
        budget_s: what they shall add up to.
        block: candidates that the generator makes together; fewer cost it as much.
        largest: a leg never has more.
    """
    n, spent = len(cost_s), float(cost_s.sum())
    if spent >= budget_s or n >= largest:
        return None
    each = spent / n
    if each <= 0.0:
        return min(2 * n, largest)
    left = (budget_s - spent) / each
    wanted = n + math.ceil(left)
    if left > max(_SMALL_STEP * n, _FEW):
        wanted = n + max(1, math.floor(_cautious(cost_s, left)))
    if block > 1 and block * each <= _CHEAP_BLOCK * budget_s:
        wanted = math.ceil(wanted / block) * block
    return min(wanted, _FASTEST * n, largest)


def _cautious(cost_s: FloatArray, left: float) -> float:
    """Candidates that cost no more than what is left, one standard deviation on the safe side.

    The cost of m more candidates is uncertain by s sqrt(m + m^2 / n): their own spread, and that
    of the mean c of the n measured ones. Solves m c + s sqrt(m + m^2 / n) = left c for m.
    """
    n = len(cost_s)
    ratio = float(cost_s.std(ddof=1)) / float(cost_s.mean()) if n > 1 else 1.0
    # (left - m)^2 = ratio^2 (m + m^2 / n), the smaller root.
    a = 1.0 - ratio**2 / n
    b = -(2.0 * left + ratio**2)
    c = left**2
    if abs(a) < 1e-9:
        return c / -b
    return (-b - math.sqrt(max(b * b - 4 * a * c, 0.0))) / (2 * a)
