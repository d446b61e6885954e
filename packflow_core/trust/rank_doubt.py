"""Which ranks the doubt about energies leaves open."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class RankDoubt:
    """What is open about the place of one structure.

    Attributes:
        best, worst: places, from 1, that it may have.
        swaps_with: positions, from 0, of the structures that it may change places with.
    """

    best: int
    worst: int
    swaps_with: tuple[int, ...]


def rank_doubts(low: Sequence[float], high: Sequence[float]) -> list[RankDoubt]:
    """Places that structures may have when each energy lies somewhere in an interval.

    Two structures may change places where their intervals overlap.

    Args:
        low, high: [n] ends of the intervals, any unit, low <= high.

    Raises:
        ValueError: different lengths, or an interval the wrong way round.
    """
    if len(low) != len(high) or any(a > b for a, b in zip(low, high, strict=True)):
        raise ValueError("intervals need a low and a high end, in this order")
    n = len(low)
    doubts = []
    for i in range(n):
        surely_before = sum(high[j] < low[i] for j in range(n))
        surely_after = sum(low[j] > high[i] for j in range(n))
        swaps = tuple(j for j in range(n) if j != i and low[j] <= high[i] and low[i] <= high[j])
        doubts.append(RankDoubt(1 + surely_before, n - surely_after, swaps))
    return doubts
