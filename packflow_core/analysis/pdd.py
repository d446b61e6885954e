"""Pointwise distance distributions, and how far two crystals are apart by them.

The PDD of a crystal is the list of its atoms' distances to their k nearest neighbours, one row an
atom, equal rows merged and weighted (Widdowson and Kurlin, "Resolving the data ambiguity for
periodic crystals", NeurIPS 2022). It does not depend on the choice of cell, origin, orientation,
hand or order of atoms, and it changes continuously: when every atom moves by at most e, the earth
mover's distance of the PDDs changes by at most 2 e. So a large distance proves that two crystals
differ, and for all but exceptional pairs a vanishing one proves that they are the same.

Rows of different elements are kept apart here, which sharpens the distance and keeps both
properties.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment, linprog
from scipy.sparse import csr_array
from scipy.spatial.distance import cdist

from packflow_core.analysis.neighbors import nearest_distances
from packflow_core.crystal.crystal import Crystal

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

NEIGHBOURS = 100
#: Rows whose distances all agree within this (Å) are merged.
MERGE_A = 1e-4
#: Rows up to which equal weights are matched one to one; beyond, a linear program is smaller.
_MAX_ASSIGNED = 1200


@dataclass(frozen=True, eq=False)
class Pdd:
    """Pointwise distance distribution of a crystal.

    Attributes:
        elements: [R] atomic numbers of the rows, ascending; 0 throughout where elements do not
            count.
        weights: [R] shares of the atoms, summing to 1.
        distances: [R, k] Å, ascending along a row.
    """

    elements: IntArray
    weights: FloatArray
    distances: FloatArray


def pdd(
    crystal: Crystal, k: int = NEIGHBOURS, *, by_element: bool = True, merge: float = MERGE_A
) -> Pdd:
    """Pointwise distance distribution of the atoms of a crystal.

    Neighbours of every element count in a row; `by_element` only keeps the rows apart.

    Args:
        crystal: what to describe; strip the hydrogens first where they should not count.
        k: neighbours of each atom.
        by_element: whether rows of different elements stay apart.
        merge: rows that agree within this in Å are merged; 0 for none.

    Raises:
        ValueError: k < 1, an empty crystal, or a collapsed cell.
    """
    distances = nearest_distances(crystal, k)
    elements = crystal.numbers if by_element else np.zeros(len(crystal), dtype=np.int64)
    # Rounded, so that copies of one crystal come in one order; ties are equal rows anyway.
    order = np.lexsort((*np.round(distances, 6).T[::-1], elements))
    elements, distances = elements[order], distances[order]
    firsts: list[int] = []
    counts: list[int] = []
    group = np.full(len(distances), -1)
    for row in range(len(distances)):
        if group[row] >= 0:
            continue
        alike = (group < 0) & (elements == elements[row])
        if merge > 0:
            alike &= np.abs(distances - distances[row]).max(axis=1) <= merge
        else:
            alike &= np.arange(len(distances)) == row
        group[alike] = len(firsts)
        firsts.append(row)
        counts.append(int(alike.sum()))
    means = np.stack([distances[group == g].mean(axis=0) for g in range(len(firsts))])
    return Pdd(elements[firsts], np.array(counts) / len(distances), means)


def pdd_distance(a: Pdd, b: Pdd) -> float:
    """Earth mover's distance in Å between two PDDs; rows differ by their largest difference.

    With elements kept apart it is the mean over the elements, weighted by their shares.

    Raises:
        ValueError: the PDDs have different numbers of neighbours, or crystals of different
            composition.
    """
    if a.distances.shape[1] != b.distances.shape[1]:
        raise ValueError(
            f"the PDDs have {a.distances.shape[1]} and {b.distances.shape[1]} neighbours"
        )
    total = 0.0
    for element in np.union1d(a.elements, b.elements):
        i, j = a.elements == element, b.elements == element
        share = float(a.weights[i].sum())
        if not math.isclose(share, float(b.weights[j].sum()), abs_tol=1e-9):
            raise ValueError("the crystals have different compositions")
        cost = cdist(a.distances[i], b.distances[j], "chebyshev")
        total += share * transport_cost(cost, a.weights[i] / share, b.weights[j] / share)
    return total


def transport_cost(cost: FloatArray, supply: FloatArray, demand: FloatArray) -> float:
    """Least cost of moving one distribution into another (the transportation problem).

    Args:
        cost: [m, n] of moving a unit from each source to each sink.
        supply: [m] positive, summing to 1.
        demand: [n] positive, summing to 1.

    Raises:
        ValueError: the program could not be solved.
    """
    m, n = cost.shape
    if m == 1 or n == 1:
        return float((cost * supply[:, None] * demand[None]).sum())
    pieces = _common_pieces(supply, demand)
    if pieces is not None:
        rows = np.repeat(np.arange(m), np.rint(supply * pieces).astype(np.int64))
        columns = np.repeat(np.arange(n), np.rint(demand * pieces).astype(np.int64))
        expanded = cost[np.ix_(rows, columns)]
        return float(expanded[linear_sum_assignment(expanded)].mean())
    return _transport_by_program(cost, supply, demand)


def _common_pieces(supply: FloatArray, demand: FloatArray) -> int | None:
    """A number of equal pieces that both distributions are made of; None where it is large."""
    smallest = min(float(supply.min()), float(demand.min()))
    for pieces in range(max(1, math.floor(1.0 / smallest + 1e-9)), _MAX_ASSIGNED + 1):
        both = np.concatenate([supply, demand]) * pieces
        if np.abs(both - np.rint(both)).max() < 1e-6:
            return pieces
    return None


def _transport_by_program(cost: FloatArray, supply: FloatArray, demand: FloatArray) -> float:
    m, n = cost.shape
    flow = np.arange(m * n)
    rows = np.concatenate([np.repeat(np.arange(m), n), m + np.tile(np.arange(n), m)])
    sums = csr_array((np.ones(2 * m * n), (rows, np.tile(flow, 2))), shape=(m + n, m * n))
    # The last equation follows from the others; left in, rounding could make them contradict.
    wanted = np.concatenate([supply, demand])[:-1]
    found = linprog(cost.reshape(-1), A_eq=sums[:-1], b_eq=wanted, bounds=(0, None))
    if not found.success:
        raise ValueError(f"the transportation problem was not solved: {found.message}")
    return float(found.fun)
