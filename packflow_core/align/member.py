"""A candidate of an alignment's step, with all that is known of it."""

from __future__ import annotations

from dataclasses import dataclass

from packflow_core.align.rewards import Score
from packflow_core.align.rollouts import Group
from packflow_core.store.rows import Row


@dataclass(frozen=True)
class Member:
    """A candidate that has a crystal to learn from.

    Attributes:
        group: molecule and Z.
        family: which candidates it is compared with.
        row: of the stage `generate`.
        score: by the engine.
        advantage: as recorded; `factor` is in it.
        factor: what the diversity filter leaves of an advantage.
        kl_weight: of the divergence.
    """

    group: Group
    family: tuple[int, int]
    row: Row
    score: Score
    advantage: float
    factor: float
    kl_weight: float
