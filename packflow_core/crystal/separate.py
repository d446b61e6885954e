"""Overlapping molecules pushed apart by the smallest isotropic growth of the cell."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from packflow_core.chem.elements import VDW_RADII
from packflow_core.crystal.contacts import Pairs, intermolecular_pairs
from packflow_core.crystal.crystal import Crystal

FloatArray = NDArray[np.float64]

#: Relative slack that keeps the contact which set the growth from counting as an overlap again.
_SLACK = 1e-9
_MAX_ROUNDS = 200


class Separation(NamedTuple):
    """Outcome of `separate_molecules`.

    Attributes:
        crystal: the crystal without overlaps.
        growth: linear factor of the cell, 1 where nothing overlapped.
    """

    crystal: Crystal
    growth: float


def grown(crystal: Crystal, factor: float) -> Crystal:
    """The crystal with its cell scaled and rigid molecules.

    Centroids keep their fractional coordinates; inside a molecule no distance changes.
    """
    molecules = crystal.positions.reshape(crystal.z, -1, 3)
    centroids = molecules.mean(axis=1, keepdims=True)
    return crystal.with_positions(
        (molecules + (factor - 1.0) * centroids).reshape(-1, 3), crystal.cell * factor
    )


def separate_molecules(
    crystal: Crystal,
    min_contact: float,
    min_contact_hydrogen: float = 0.0,
    max_growth: float = 1.35,
) -> Separation | None:
    """Grow the cell by the smallest factor that leaves no two molecules overlapping.

    While the cell grows by s, the vector between two atoms of different molecules is o + s R with
    R the vector between the centroids, so each pair overlaps on an interval of s whose end is the
    root of a quadratic. From s = 1 on, s jumps to the farthest end of the intervals that contain
    it until none does. That is exact: no smaller growth is free of overlaps, also where molecules
    that interlock pass through each other.

    Args:
        crystal: molecules whole.
        min_contact: smallest allowed distance of two heavy atoms over their van der Waals sum.
        min_contact_hydrogen: the same where a hydrogen takes part.
        max_growth: largest linear factor allowed.

    Returns:
        The separated crystal and its growth, or None where `max_growth` does not suffice.

    Raises:
        ValueError: the cell is too flat for a neighbour search.
    """
    radii, heavy = VDW_RADII[crystal.numbers], crystal.heavy
    molecules = crystal.positions.reshape(crystal.z, -1, 3)
    centroids = np.repeat(molecules.mean(axis=1), molecules.shape[1], axis=0)
    offsets = crystal.positions - centroids

    def overlaps(now: Crystal, pairs: Pairs, heavy_only: bool, ratio: float) -> FloatArray:
        """Ends of the intervals of s in which the pairs overlap; empty where none does."""
        pairs = pairs.take(pairs.i <= pairs.j)
        if not heavy_only:
            pairs = pairs.take(~(heavy[pairs.i] & heavy[pairs.j]))
        limit = ratio * (radii[pairs.i] + radii[pairs.j])
        closer = pairs.distance < limit * (1.0 - _SLACK)
        pairs, limit = pairs.take(closer), limit[closer]
        o = offsets[pairs.j] - offsets[pairs.i]
        r = centroids[pairs.j] - centroids[pairs.i] + pairs.shift @ crystal.cell
        oo, rr = (o * o).sum(axis=1), (r * r).sum(axis=1)
        product = (o * r).sum(axis=1)
        root = np.sqrt(np.maximum(product**2 - rr * (oo - limit**2), 0.0))
        # Coinciding centroids (rr = 0) never separate: infinity, which ends the search.
        with np.errstate(divide="ignore", invalid="ignore"):
            end = (root - product) / rr
        return np.asarray(np.where(np.isfinite(end), end, np.inf), dtype=np.float64)

    growth, now = 1.0, crystal
    largest_heavy = float(radii[heavy].max(initial=0.0))
    largest = float(radii.max(initial=0.0))
    hydrogens = bool((~heavy).any()) and min_contact_hydrogen > 0
    for _ in range(_MAX_ROUNDS):
        pairs = intermolecular_pairs(now, 2.0 * min_contact * largest_heavy, heavy_only=True)
        ends = overlaps(now, pairs, True, min_contact)
        if hydrogens:
            cutoff = min_contact_hydrogen * (largest + 1.2)
            pairs = intermolecular_pairs(now, cutoff)
            ends = np.append(ends, overlaps(now, pairs, False, min_contact_hydrogen))
        if not ends.size:
            return Separation(now, growth)
        growth = max(float(ends.max()), growth) * (1.0 + _SLACK)
        if growth > max_growth:
            return None
        now = grown(crystal, growth)
    return None
