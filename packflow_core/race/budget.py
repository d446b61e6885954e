"""An equal budget for all legs: the same number of candidates, or the same working time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from packflow_core.errors import UserInputError
from packflow_core.race.legs import FloatArray, Leg
from packflow_core.race.settings import CompareSettings


@dataclass(frozen=True)
class Budget:
    """What each leg was given.

    Attributes:
        kind: what is equal.
        amount: candidates, or working seconds.
        chosen: whether the user named it; else it is what the smallest leg has.
        before, after: candidates of each leg before and after the cut, by its name.
    """

    kind: Literal["candidates", "compute"]
    amount: float
    chosen: bool
    before: dict[str, int]
    after: dict[str, int]

    def describe(self) -> str:
        """One sentence."""
        if self.kind == "compute":
            text = f"Equal working time: the first candidates of each leg within {self.amount:g} s"
        elif self.chosen:
            text = f"Equal number of candidates: the first {self.amount:g} of each leg"
        else:
            text = f"Equal number of candidates: the first {self.amount:g}, all that a leg has"
        cut = [
            f"{name} {self.after[name]} of {n}"
            for name, n in self.before.items()
            if self.after[name] != n
        ]
        return f"{text} ({', '.join(cut)})." if cut else f"{text}."


def cut(legs: Sequence[Leg], settings: CompareSettings) -> tuple[list[Leg], Budget]:
    """Legs cut to an equal budget: by number, by working time, or to the smallest of them.

    Raises:
        UserInputError: a leg does not fill the budget.
    """
    before = {leg.name: len(leg) for leg in legs}
    kind: Literal["candidates", "compute"] = "candidates"
    if settings.compute_s is not None:
        kind, amount = "compute", settings.compute_s
        done = [leg.first(_within(leg, amount)) for leg in legs]
    else:
        n = settings.n or min(before.values())
        amount = float(n)
        for leg in legs:
            if len(leg) < n:
                raise UserInputError(
                    f"{leg.name} has {len(leg)} finished candidates and {n} are to be compared; "
                    f"choose at most {min(before.values())}, or let the run in {leg.folder} grow "
                    "with a larger --n."
                )
        done = [leg.first(n) for leg in legs]
    chosen = settings.compute_s is not None or settings.n is not None
    after = {leg.name: len(leg) for leg in done}
    return done, Budget(kind, amount, chosen, before, after)


def prefix_within(cost_s: FloatArray, budget_s: float) -> int:
    """Longest beginning of a sequence of candidates whose costs add up to the budget at most."""
    return int(np.searchsorted(np.cumsum(cost_s), budget_s, side="right"))


def _within(leg: Leg, budget_s: float) -> int:
    total = float(leg.cost_s.sum())
    if total < budget_s:
        raise UserInputError(
            f"{leg.name} holds {total:.4g} s of work and {budget_s:g} s are to be compared; choose "
            f"fewer seconds, or let the run in {leg.folder} grow with a larger --n."
        )
    return prefix_within(leg.cost_s, budget_s)
