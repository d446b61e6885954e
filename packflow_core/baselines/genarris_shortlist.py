"""K proposals from a pool of Genarris, stratified by space group (PackFlow, appendix D)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from packflow_core.baselines.genarris_structures import GenarrisStructure


def shortlist(
    structures: Sequence[GenarrisStructure], k: int, seed: int
) -> list[GenarrisStructure]:
    """Draw k of the ok structures so that the space groups have equal shares.

    Each of the S space groups gives k // S structures, or all it has, drawn at random; what is
    still missing is drawn at random from the rest of the pool. Where k is below S, that rule alone
    would forget about the groups, so k groups, drawn at random, give one each.

    The result depends on the set of structures, k and seed, not on their order, and comes in
    random order: its first m are no better or worse than any other m.

    Args:
        structures: the pool, of one or several runs; those that are not ok are passed over.
        k: how many are wanted.
        seed: of the drawing.

    Returns:
        k different structures, or all that are ok where there are fewer.

    Raises:
        ValueError: k is negative.

    Source:
        PackFlow, appendix D. The space group is the one that spglib finds in the structure, for
        the press can raise the symmetry; the attempted one where spglib finds none. With several
        values of Z, a group counts once for each.
    """
    if k < 0:
        raise ValueError(f"k must not be negative, it is {k}")
    pool = sorted((s for s in structures if s.ok), key=_identity)
    rng = np.random.default_rng([seed, 0xA44])
    groups: dict[tuple[int, int], list[int]] = {}
    for index, structure in enumerate(pool):
        groups.setdefault(_stratum(structure), []).append(index)
    strata = [groups[name] for name in sorted(groups)]
    if k < len(strata):
        strata = [strata[i] for i in rng.permutation(len(strata))[:k]]
    quota = max(1, k // max(len(strata), 1))
    chosen = [int(i) for members in strata for i in rng.permutation(members)[:quota]]
    rest = sorted(set(range(len(pool))) - set(chosen))
    chosen += [int(i) for i in rng.permutation(rest)[: k - len(chosen)]]
    return [pool[i] for i in rng.permutation(np.array(chosen, dtype=np.int64))]


def _stratum(structure: GenarrisStructure) -> tuple[int, int]:
    return structure.z, structure.space_group or structure.attempted_space_group or 0


def _identity(structure: GenarrisStructure) -> tuple[int, str, str, bytes]:
    """Ids repeat between runs; the numbers themselves settle such ties."""
    crystal = structure.crystal
    numbers = crystal.positions.tobytes() if crystal is not None else b""
    return structure.z, structure.original_id, structure.method, numbers
