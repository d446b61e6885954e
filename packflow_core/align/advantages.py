"""From energies and forces of a group to advantages (PackFlow, eq. 7, 8, 10, 11 and 21).

A group is the candidates of one molecule with one number of molecules per cell: their energies can
be compared, those of different groups cannot.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm, rankdata

FloatArray = NDArray[np.float64]

#: Added to the standard deviation of a group.
EPSILON = 1e-8
#: Advantages end here.
CLIP = 5.0


def standardised(rewards: ArrayLike) -> FloatArray:
    """[K] rewards of a group minus their mean, over their standard deviation.

    The standard deviation is that of the population, as in the published code. NaN marks a
    candidate without a reward: it stays NaN and takes no part in mean and deviation.

    Args:
        rewards: [K], larger is better.
    """
    r = np.asarray(rewards, dtype=np.float64)
    known = np.isfinite(r)
    out = np.full(r.shape, np.nan)
    if known.any():
        kept = r[known]
        out[known] = (kept - kept.mean()) / (kept.std() + EPSILON)
    return out


def normal_scores(rewards: ArrayLike) -> FloatArray:
    """[K] quantiles of the normal distribution at the ranks of a group's rewards.

    A force field's forces spread over orders of magnitude where molecules nearly clash: one such
    candidate leaves the deviation of its group to itself, and the others standardise to one number.

    Args:
        rewards: [K], larger is better; NaN stays NaN and takes no part, equal ones share a rank.

    Source:
        G. Blom, Statistical Estimates and Transformed Beta-Variables (1958).
    """
    r = np.asarray(rewards, dtype=np.float64)
    known = np.isfinite(r)
    out = np.full(r.shape, np.nan)
    if known.any():
        out[known] = norm.ppf((rankdata(r[known]) - 0.375) / (known.sum() + 0.25))
    return out


def mixed_advantages(
    energies: ArrayLike,
    forces: ArrayLike,
    energy_share: float,
    clip: float = CLIP,
    *,
    ranks: bool = False,
) -> FloatArray:
    """[K] advantages of a group: the channels are standardised first, then mixed and clipped.

    Args:
        energies: [K] energies, NaN where a candidate has none; any unit, lower is better.
        forces: [K] force statistics, likewise.
        energy_share: lambda of the paper: 1 for energies alone, 0 for forces alone.
        clip: advantages end at plus and minus this.
        ranks: by `normal_scores` of each channel instead of its values.

    Returns:
        Advantages; 0 for a candidate without energy or force, which therefore teaches nothing,
        and for all of a group in which fewer than two have them.

    Source:
        PackFlow, eq. 7, 8 and 21.
    """
    e, f = np.asarray(energies, dtype=np.float64), np.asarray(forces, dtype=np.float64)
    known = np.isfinite(e) & np.isfinite(f)
    if known.sum() < 2:
        return np.zeros(e.shape)
    r_e, r_f = np.where(known, -e, np.nan), np.where(known, -f, np.nan)
    if ranks:
        r_e, r_f = normal_scores(r_e), normal_scores(r_f)
    # A channel that does not count must not spoil the sum with rounding noise of its own.
    mixed = np.zeros(e.shape)
    if energy_share > 0:
        mixed = mixed + energy_share * standardised(r_e)
    if energy_share < 1:
        mixed = mixed + (1.0 - energy_share) * standardised(r_f)
    return np.nan_to_num(np.clip(mixed, -clip, clip), nan=0.0)
