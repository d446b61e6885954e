"""Which Z a candidate gets: Z values take turns, evenly or by shares.

The turn is a fixed cycle, so a candidate keeps its Z, and its number among the candidates of that
Z, when more are asked for. Shares of 1 and 3 give a cycle of four candidates; without shares the
cycle is the list of Z values itself.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from packflow_core.errors import UserInputError

#: Largest share that can be given; a cycle is as long as the shares in lowest terms add up to.
SHARE_MAX = 1000
#: Candidates that are made together at most, where whole cycles would be more.
_BLOCK_MAX = 1024


def parse_z(text: str) -> list[int] | dict[int, int]:
    """Z values as a user writes them: `2,4`, or with shares `2:1,4:3`.

    Raises:
        UserInputError: not of either form.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    try:
        if not any(":" in part for part in parts):
            return [int(part) for part in parts]
        pairs = [tuple(map(int, part.split(":"))) for part in parts]
        shares = {z: share for z, share in pairs}  # a part of three numbers has no share
    except ValueError:
        raise UserInputError(
            f"--z {text} is not a list of whole numbers; write for example --z 2,4, or with a "
            "share for each, --z 2:1,4:3."
        ) from None
    if len(shares) < len(pairs):
        raise UserInputError(f"--z {text} names a Z twice; give each Z one share.")
    return shares


def with_shares(values: Any) -> Any:
    """Fields of a run with a mapping from Z to share as two fields, `z` and `z_shares`.

    A text is taken as `parse_z` does. What is wrong with the numbers is left for the checks of the
    fields to say.

    Raises:
        UserInputError: a text that is no list of Z.
    """
    if not isinstance(values, Mapping):
        return values
    z, shares = values.get("z"), values.get("z_shares")
    if isinstance(z, str):
        z = parse_z(z)
        values = {**values, "z": z}
    if isinstance(z, Mapping):
        pairs = list(z.items())
    elif isinstance(z, list | tuple) and isinstance(shares, list | tuple) and shares:
        if len(z) != len(shares):
            return values
        pairs = list(zip(z, shares, strict=True))
    else:
        return values
    with contextlib.suppress(TypeError, ValueError):  # the check of the field z says so
        pairs = sorted((int(key), share) for key, share in pairs)
    found = dict(values)
    found["z"] = [key for key, _ in pairs]
    found["z_shares"] = [share for _, share in pairs]
    return found


def lowest_terms(shares: Sequence[int], n_z: int) -> tuple[int, ...]:
    """Shares of Z values in lowest terms; empty where all are alike, which is no share at all.

    Args:
        shares: one for each Z; empty for even ones.
        n_z: how many Z values there are.

    Raises:
        ValueError: not one share for each Z, or out of range.
    """
    if not shares:
        return ()
    if len(shares) != n_z:
        raise ValueError(f"give one share for each of the {n_z} Z values, each Z once")
    if any(not 1 <= share <= SHARE_MAX for share in shares):
        raise ValueError(f"a share is a whole number from 1 to {SHARE_MAX}")
    divisor = math.gcd(*shares)
    reduced = tuple(share // divisor for share in shares)
    return () if set(reduced) == {1} else reduced


@lru_cache(maxsize=64)
def z_cycle(z_values: tuple[int, ...], shares: tuple[int, ...] = ()) -> tuple[int, ...]:
    """The Z of each candidate of one cycle.

    Each Z is spread as evenly as it goes: its k-th candidate, of s in a cycle, stands where the
    fraction (k + 1/2) / s of the cycle is over. (Seats are given to parties so, by Webster's
    method.)

    Args:
        z_values: different Z values.
        shares: as `lowest_terms` gives them.
    """
    if not shares:
        return z_values
    common = math.lcm(*shares)
    turns = sorted(
        ((2 * k + 1) * (common // share), place)
        for place, share in enumerate(shares)
        for k in range(share)
    )
    return tuple(z_values[place] for _, place in turns)


def z_of_index(index: int, z_values: Sequence[int]) -> tuple[int, int]:
    """Z of candidate number `index`, and its number among the candidates of that Z.

    The candidates take the Z values in turns, so that a candidate keeps its crystal when more are
    asked for.

    Args:
        index: of the candidate.
        z_values: one cycle; a Z may be in it several times, see `z_cycle`.
    """
    turn, place = divmod(index, len(z_values))
    ranks, counts = _numbering(tuple(z_values))
    return z_values[place], turn * counts[place] + ranks[place]


def block_of(cycle: Sequence[int], each: int) -> int:
    """Consecutive candidates with about `each` of every Z, or its multiple, in whole cycles.

    Where that is very many, as for shares of 1 and 999, it is a plain number instead.
    """
    return min(each * len(cycle), max(_BLOCK_MAX, each))


@lru_cache(maxsize=64)
def _numbering(cycle: tuple[int, ...]) -> tuple[list[int], list[int]]:
    """For each place of a cycle: the number of its Z among equal ones, and how many there are."""
    seen: dict[int, int] = {}
    ranks = []
    for z in cycle:
        ranks.append(seen.get(z, 0))
        seen[z] = ranks[-1] + 1
    return ranks, [seen[z] for z in cycle]
