"""Shares of Z: exact over a cycle, even on the way, and the plain list as it ever was."""

import random
from collections import Counter

import pytest

from packflow_core.errors import UserInputError
from packflow_core.stages.z_shares import (
    block_of,
    lowest_terms,
    parse_z,
    with_shares,
    z_cycle,
    z_of_index,
)

_RNG = random.Random(0)
SHARES = [[1], [5], [1, 999], [1, 1], [60, 1, 1, 1, 1, 1]] + [
    [_RNG.randint(1, 60) for _ in range(_RNG.randint(2, 6))] for _ in range(20)
]


@pytest.mark.parametrize("z_values", [(2,), (2, 4), (1, 3, 8)])
def test_without_shares_z_values_take_turns(z_values):
    assert z_cycle(z_values) == z_values
    for index in range(40):
        number, which = divmod(index, len(z_values))
        assert z_of_index(index, z_values) == (z_values[which], number)


def test_one_to_three():
    cycle = z_cycle((2, 4), (1, 3))
    assert cycle == (4, 2, 4, 4)
    assert [z_of_index(i, cycle) for i in range(8)] == [
        (4, 0), (2, 0), (4, 1), (4, 2), (4, 3), (2, 1), (4, 4), (4, 5),
    ]  # fmt: skip


@pytest.mark.parametrize("shares", SHARES)
def test_a_cycle_has_each_z_as_often_as_its_share(shares):
    z_values = tuple(range(1, len(shares) + 1))
    reduced = lowest_terms(shares, len(shares))
    cycle = z_cycle(z_values, reduced)
    counts = Counter(cycle)
    total = sum(counts.values())
    assert [counts[z] * sum(shares) for z in z_values] == [s * total for s in shares]


@pytest.mark.parametrize("shares", SHARES)
def test_shares_hold_at_every_length(shares):
    z_values = tuple(range(1, len(shares) + 1))
    cycle = z_cycle(z_values, lowest_terms(shares, len(shares)))
    counts = Counter()
    # never off by more than half a candidate for each of the other Z
    bound = 0.5 * (len(shares) - 1)
    for n in range(1, 400):
        counts[z_of_index(n - 1, cycle)[0]] += 1
        for z, share in zip(z_values, shares, strict=True):
            assert abs(counts[z] - n * share / sum(shares)) <= bound + 1e-9


@pytest.mark.parametrize("shares", SHARES)
def test_candidates_of_a_z_are_numbered_without_gaps(shares):
    cycle = z_cycle(tuple(range(1, len(shares) + 1)), lowest_terms(shares, len(shares)))
    seen = Counter()
    for index in range(500):
        z, number = z_of_index(index, cycle)
        assert number == seen[z]
        seen[z] += 1


def test_shares_are_a_ratio():
    assert lowest_terms([100, 300], 2) == (1, 3)
    assert lowest_terms([7, 7, 7], 3) == ()
    assert lowest_terms([5], 1) == ()
    assert lowest_terms([], 2) == ()


@pytest.mark.parametrize(("shares", "n_z"), [([1], 2), ([1, 2, 3], 2), ([0, 1], 2), ([1001], 1)])
def test_shares_out_of_range(shares, n_z):
    with pytest.raises(ValueError, match="share"):
        lowest_terms(shares, n_z)


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("2,4", [2, 4]),
        (" 4 , 2,", [4, 2]),
        ("", []),
        ("2:1,4:3", {2: 1, 4: 3}),
        ("4:300, 2:100", {4: 300, 2: 100}),
    ],
)
def test_what_is_typed(text, meaning):
    assert parse_z(text) == meaning


@pytest.mark.parametrize("text", ["2;4", "2,x", "2:1,4", "2:1:3", "2:a", "2:0.5", "2:1,2:3"])
def test_what_cannot_be_understood_is_one_sentence(text):
    with pytest.raises(UserInputError, match=r"--z .*(2:1,4:3|one share)\."):
        parse_z(text)


def test_a_mapping_becomes_two_fields():
    assert with_shares({"z": {4: 300, "2": 100}, "n": 5}) == {
        "z": [2, 4], "z_shares": [100, 300], "n": 5,
    }  # fmt: skip
    assert with_shares({"z": [4, 2], "z_shares": [3, 1]}) == {"z": [2, 4], "z_shares": [1, 3]}
    assert with_shares({"z": "4:3,2:1"}) == {"z": [2, 4], "z_shares": [1, 3]}
    assert with_shares({"z": "4,2"}) == {"z": [4, 2]}
    for untouched in ({"z": [4, 2]}, {"z": 2}, {}, {"z": [2], "z_shares": []}, "text"):
        assert with_shares(untouched) == untouched
    assert with_shares({"z": {"x": 1}}) == {"z": ["x"], "z_shares": [1]}


def test_blocks_hold_whole_blocks_of_every_z():
    for shares in ((), (1, 3), (2, 3)):
        cycle = z_cycle((2, 4), shares)
        block = block_of(cycle, 16)
        counts = Counter(z_of_index(i, cycle)[0] for i in range(block))
        assert all(count % 16 == 0 for count in counts.values())
    assert block_of((2, 4), 16) == 32
    assert block_of(z_cycle((2, 4), (1, 999)), 16) == 1024
