"""Distances of PDDs: against the authors' package, and their properties."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from packflow_core.analysis import pdd as module
from packflow_core.analysis.metrics import amd_by_element
from packflow_core.analysis.pdd import Pdd, pdd, pdd_distance, transport_cost
from packflow_core.crystal.crystal import Crystal


def random_crystal(seed: int, n: int = 9) -> Crystal:
    rng = np.random.default_rng(seed)
    cell = np.eye(3) * rng.uniform(5, 8, 3)[:, None] + rng.uniform(-1, 1, (3, 3))
    return Crystal(rng.choice([6, 8], n), rng.random((n, 3)) @ cell, cell)


@settings(deadline=None, max_examples=8)
@given(st.integers(0, 10_000), st.integers(3, 9))
def test_distance_equals_that_of_the_authors_package(seed, n):
    amd = pytest.importorskip("amd")
    a, b = random_crystal(seed), random_crystal(seed + 1, n)
    theirs = [amd.PDD(amd.PeriodicSet((c.fractional % 1.0) @ c.cell, c.cell), 40) for c in (a, b)]
    found = pdd_distance(pdd(a, 40, by_element=False), pdd(b, 40, by_element=False))
    assert found == pytest.approx(amd.EMD(*theirs), abs=1e-6)


def test_equal_crystals_are_at_no_distance(monoclinic):
    q, _ = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))
    turned = monoclinic.repeated((1, 2, 1))
    cell = turned.cell @ q
    turned = Crystal(turned.numbers, turned.positions @ q + 1.0,
                     cell if np.linalg.det(cell) > 0 else -cell, turned.z)  # fmt: skip
    one, two = pdd(monoclinic.heavy_only()), pdd(turned.heavy_only())
    # Z' = 1: one row for each of the ten heavy atoms of the molecule.
    assert len(one.weights) == len(two.weights) == 10
    assert pdd_distance(one, two) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("size", [0.01, 0.1])
def test_it_changes_by_twice_the_displacement_at_most_and_by_no_less_than_the_amd(monoclinic, size):
    rng = np.random.default_rng(0)
    way = rng.normal(size=(len(monoclinic), 3))
    way *= size / np.linalg.norm(way, axis=1, keepdims=True)
    moved = monoclinic.with_positions(monoclinic.positions + way)
    found = pdd_distance(pdd(monoclinic), pdd(moved))
    assert 0.2 * size < found <= 2.0 * size
    share = [(monoclinic.numbers == e).mean() for e in np.unique(monoclinic.numbers)]
    bound = np.abs(amd_by_element(moved) - amd_by_element(monoclinic)).max(axis=1) @ share
    assert bound <= found + 1e-9


def test_another_packing_is_far(monoclinic, triclinic):
    assert pdd_distance(pdd(monoclinic), pdd(triclinic)) > 0.5


def test_elements_are_kept_apart():
    """Rock salt and its mirror under exchange of the elements: the same points."""
    cell = np.array([[0, 2, 2], [2, 0, 2], [2, 2, 0]]) * 1.0
    mixed = Crystal([6, 8, 8], [[0, 0, 0], [2, 0, 0], [1, 1, 1]], cell)
    exchanged = Crystal([8, 6, 8], mixed.positions, cell)
    blind = [pdd(c, 20, by_element=False) for c in (mixed, exchanged)]
    assert pdd_distance(*blind) == pytest.approx(0.0, abs=1e-9)
    swapped = Crystal([8, 8, 6], mixed.positions, cell)
    assert pdd_distance(pdd(mixed, 20), pdd(swapped, 20)) > 0.3


def test_small_transports_by_hand():
    cost = np.array([[0.0, 1.0], [3.0, 0.5]])
    half = np.array([0.5, 0.5])
    assert transport_cost(cost, half, half) == pytest.approx(0.25)
    # A quarter of the second source goes to the first sink: 0.25 * 0 + 0.5 * 3 + 0.25 * 0.5.
    assert transport_cost(cost, np.array([0.25, 0.75]), np.array([0.75, 0.25])) == pytest.approx(
        0.25 * 0.0 + 0.5 * 3.0 + 0.25 * 0.5
    )
    assert transport_cost(cost[:1], np.array([1.0]), half) == pytest.approx(0.5)


def test_both_ways_of_solving_agree():
    rng = np.random.default_rng(5)
    cost = rng.random((5, 7))
    supply, demand = (rng.multinomial(48 - n, np.ones(n) / n) + 1.0 for n in (5, 7))
    supply, demand = supply / supply.sum(), demand / demand.sum()
    quick = transport_cost(cost, supply, demand)
    assert module._common_pieces(supply, demand) is not None
    assert quick == pytest.approx(module._transport_by_program(cost, supply, demand), abs=1e-9)
    irrational = np.array([1.0, np.sqrt(2.0), np.pi, np.e, 1.7])
    assert module._common_pieces(irrational / irrational.sum(), demand) is None
    assert transport_cost(cost, irrational / irrational.sum(), demand) > 0


def test_what_cannot_be_compared_raises(monoclinic):
    one = pdd(monoclinic, 10)
    with pytest.raises(ValueError, match="10 and 12 neighbours"):
        pdd_distance(one, pdd(monoclinic, 12))
    with pytest.raises(ValueError, match="compositions"):
        pdd_distance(one, pdd(monoclinic.heavy_only(), 10))
    with pytest.raises(ValueError, match="at least 1"):
        pdd(monoclinic, 0)


def test_rows_are_merged_within_the_tolerance_only():
    cell = np.eye(3) * 4.0
    pair = Crystal([6, 6], [[0, 0, 0], [2.0, 2.0, 2.0]], cell)
    found = pdd(pair, 8)
    assert isinstance(found, Pdd)
    assert found.weights.tolist() == [1.0]
    assert found.distances[0] == pytest.approx([12.0**0.5] * 8)
    assert pdd(pair, 8, merge=0.0).weights.tolist() == [0.5, 0.5]
