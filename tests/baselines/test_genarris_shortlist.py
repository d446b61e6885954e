"""Shortlisting as appendix D says: equal shares of the space groups, the rest at random."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from packflow_core.baselines.genarris import GenarrisStructure, shortlist
from packflow_core.store.schema import Status


def pool(sizes, z=4):
    return [
        GenarrisStructure(f"{group}-{i}", "genarris-plain", z, space_group=group)
        for group, size in sizes.items()
        for i in range(size)
    ]


def shares(chosen):
    return Counter(s.space_group for s in chosen)


def test_shares_are_equal_where_the_groups_are_large_enough():
    chosen = shortlist(pool({2: 50, 14: 500, 19: 40}), 30, seed=1)
    assert shares(chosen) == {2: 10, 14: 10, 19: 10}
    assert len({s.original_id for s in chosen}) == 30


def test_deficit_is_filled_from_the_rest():
    chosen = shortlist(pool({2: 3, 14: 500, 19: 12}), 30, seed=1)
    counts = shares(chosen)
    assert counts[2] == 3
    assert counts[19] >= 10
    assert counts[14] >= 10
    assert sum(counts.values()) == 30


def test_a_pool_that_is_too_small_is_taken_whole():
    everything = pool({2: 3, 14: 5})
    chosen = shortlist(everything, 30, seed=1)
    assert {s.original_id for s in chosen} == {s.original_id for s in everything}
    assert shortlist([], 5, seed=0) == []
    assert shortlist(everything, 0, seed=0) == []


def test_fewer_than_groups_takes_one_of_each_of_some():
    chosen = shortlist(pool({g: (400 if g == 14 else 2) for g in range(2, 40)}), 6, seed=3)
    assert sorted(shares(chosen).values()) == [1] * 6


def test_what_failed_is_no_candidate():
    bad = [
        GenarrisStructure(f"bad-{i}", "genarris-plain", 4, space_group=2, status=Status.FAILED)
        for i in range(50)
    ]
    chosen = shortlist([*bad, *pool({2: 5, 14: 5})], 8, seed=0)
    assert len(chosen) == 8
    assert all(s.ok for s in chosen)


def test_group_found_now_counts_rather_than_the_attempted_one():
    one = GenarrisStructure("a", "genarris-press", 2, attempted_space_group=6, space_group=40)
    two = GenarrisStructure("b", "genarris-press", 2, attempted_space_group=6, space_group=6)
    three = GenarrisStructure("c", "genarris-press", 2, attempted_space_group=6, space_group=6)
    for seed in range(10):
        assert "a" in {s.original_id for s in shortlist([one, two, three], 2, seed)}


def test_every_z_has_its_share():
    chosen = shortlist(pool({2: 100}, z=2) + pool({2: 900}, z=4), 20, seed=0)
    assert Counter(s.z for s in chosen) == {2: 10, 4: 10}


@settings(deadline=None, max_examples=60)
@given(
    sizes=st.dictionaries(st.integers(1, 230), st.integers(1, 12), max_size=8),
    k=st.integers(0, 60),
    seed=st.integers(0, 5),
)
def test_size_quota_and_independence_of_order(sizes, k, seed):
    everything = pool(sizes)
    chosen = shortlist(everything, k, seed)
    assert len(chosen) == min(k, len(everything))
    assert len({s.original_id for s in chosen}) == len(chosen)
    counts = shares(chosen)
    if sizes and k >= len(sizes):
        assert all(counts[g] >= min(n, k // len(sizes)) for g, n in sizes.items())
    shuffled = [everything[i] for i in np.random.default_rng(seed).permutation(len(everything))]
    assert [s.original_id for s in shortlist(shuffled, k, seed)] == [s.original_id for s in chosen]


def test_seed_and_order_are_random():
    everything = pool({2: 50, 14: 50})
    lists = {tuple(s.original_id for s in shortlist(everything, 10, seed)) for seed in range(20)}
    assert len(lists) == 20
    # the first half of a shortlist is a sample, too, not the lowest space group
    first = [shares(shortlist(everything, 20, seed)[:10])[2] for seed in range(50)]
    assert 4 < np.mean(first) < 6
    with pytest.raises(ValueError, match="negative"):
        shortlist(everything, -1, seed=0)
