"""Basins: which distinct structures each leg found, and which of them another leg found, too.

The structures of all legs are clustered together, as one run's are. A leg has a basin when one of
its candidates is in the cluster.

How many different basins a leg holds is no mean: a resample holds some candidates twice and others
not at all, so it has fewer basins than the leg, always. In simulated races (30 to 2000 basins, 64
to 500 candidates) plain percentile intervals of such counts covered what races give on average in
0 to 75 % of the cases where 95 % were claimed. So counts take the delete-one jackknife (76 to
99 %), and the overlap takes bootstrap percentiles scaled by what the resamples fall short of the
legs themselves (92 to 99 %).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from packflow_core.race.resampling import percentile_interval

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Basins:
    """Basins of all legs of a race.

    Attributes:
        labels: for each leg [n] the basin of each candidate, -1 for none.
        energy: [b] lowest energy of each basin above the common zero, kJ/mol, ascending.
        match: [b] whether a member matches the reference.
    """

    labels: tuple[IntArray, ...]
    energy: FloatArray
    match: BoolArray

    def __len__(self) -> int:
        return len(self.energy)

    def found(self) -> BoolArray:
        """[legs, b] whether a leg has a basin."""
        return np.stack(
            [present(labels, np.ones((1, len(labels)), np.int64), len(self))[0]
             for labels in self.labels]
        )  # fmt: skip


@dataclass(frozen=True)
class Overlap:
    """Basins that two sets of found basins share.

    Attributes:
        shared: [...] basins in both.
        jaccard: [...] those over the basins in either; NaN where there are none.
    """

    shared: FloatArray
    jaccard: FloatArray


def present(labels: IntArray, counts: IntArray, n_basins: int) -> BoolArray:
    """[r, b] which basins are in resamples.

    Args:
        labels: [n] basin of each candidate, -1 for none.
        counts: [r, n] how often each candidate was drawn.
        n_basins: b.
    """
    out = np.zeros((len(counts), n_basins), dtype=np.bool_)
    members = np.flatnonzero(labels >= 0)
    if not len(members):
        return out
    members = members[np.argsort(labels[members], kind="stable")]
    basins, starts = np.unique(labels[members], return_index=True)
    out[:, basins] = np.add.reduceat(counts[:, members], starts, axis=1) > 0
    return out


def overlap(a: BoolArray, b: BoolArray) -> Overlap:
    """Overlap of two sets of basins, [..., b] each."""
    shared = (a & b).sum(axis=-1).astype(np.float64)
    either = (a | b).sum(axis=-1)
    with np.errstate(invalid="ignore"):
        jaccard = np.where(either > 0, shared / np.maximum(either, 1), np.nan)
    return Overlap(shared, jaccard)


def only_in(found: Sequence[BoolArray], which: int) -> FloatArray:
    """[...] basins that leg `which` alone has; found are [..., b] for each leg."""
    others = np.zeros_like(found[which])
    for k, leg in enumerate(found):
        if k != which:
            others |= leg
    return np.asarray((found[which] & ~others).sum(axis=-1), dtype=np.float64)


def alone(labels: IntArray, n_basins: int) -> BoolArray:
    """[b] basins that exactly one candidate of a leg is in."""
    sizes = np.bincount(labels[labels >= 0], minlength=n_basins)
    return np.asarray(sizes == 1, dtype=np.bool_)


def count_interval(
    value: float, changes: Sequence[tuple[FloatArray, int]], confidence: float
) -> tuple[float, float]:
    """Interval of how many basins races of this size find, by the delete-one jackknife.

    A basin is lost with a candidate that is alone in it; no other candidate changes a count. The
    variance is the sum over the legs of (n - 1) / n times the squared deviations of the changes
    from their mean.

    Args:
        value: the count.
        changes: for each leg that matters what the count loses (negative: gains) with each of the
            candidates that change it, and the number n of all its candidates.
        confidence: of the interval.

    Returns:
        An interval that does not go below 0; NaN where no candidate changes the count, for then
        nothing is known about its spread.
    """
    variance = 0.0
    for change, n in changes:
        if n == 0:
            continue
        mean = change.sum() / n
        squares = ((change - mean) ** 2).sum() + (n - len(change)) * mean**2
        variance += (n - 1) / n * float(squares)
    if variance == 0.0:
        return math.nan, math.nan
    half = NormalDist().inv_cdf(0.5 + 0.5 * confidence) * math.sqrt(variance)
    return max(value - half, 0.0), value + half


def found_changes(labels: IntArray, n_basins: int) -> list[tuple[FloatArray, int]]:
    """Changes, for `count_interval`, of the number of basins that a leg found."""
    return [(np.ones(int(alone(labels, n_basins).sum())), len(labels))]


def shared_changes(basins: Basins, i: int, j: int) -> list[tuple[FloatArray, int]]:
    """Changes, for `count_interval`, of the number of basins that legs i and j share."""
    own = basins.found()
    both = own[i] & own[j]
    return [
        (np.ones(int((alone(labels, len(basins)) & both).sum())), len(labels))
        for labels in (basins.labels[i], basins.labels[j])
    ]


def only_changes(basins: Basins, which: int) -> list[tuple[FloatArray, int]]:
    """Changes, for `count_interval`, of the number of basins that one leg alone found.

    It loses its own singletons, and gains a basin that the others lose.
    """
    own = basins.found()
    legs = own.sum(axis=0)
    changes = []
    for k, labels in enumerate(basins.labels):
        single = alone(labels, len(basins))
        if k == which:
            changes.append((np.ones(int((single & (legs == 1)).sum())), len(labels)))
        else:
            gained = int((single & own[which] & (legs == 2)).sum())
            changes.append((-np.ones(gained), len(labels)))
    return changes


def scaled_interval(
    value: float, replicates: FloatArray, confidence: float, largest: float = math.inf
) -> tuple[float, float]:
    """Percentile interval of resamples, scaled by what they fall short of the value on average.

    Args:
        value: of the candidates themselves.
        replicates: [resamples].
        confidence: of the interval.
        largest: what the statistic cannot exceed.

    Returns:
        An interval; NaN where the value is 0 or does not exist, for then the resamples say nothing
        about how large it may be.
    """
    low, high = percentile_interval(replicates, confidence)
    if not (math.isfinite(value) and value > 0 and np.isfinite(low)):
        return math.nan, math.nan
    factor = value / float(np.nanmean(replicates))
    return min(float(low) * factor, value), max(min(float(high) * factor, largest), value)
