"""What an alignment remembers: the best candidates of every kind, and how often each came.

Experience replay and the diversity filter of MatInvent ("Accelerating inverse materials design with
reinforcement learning"), for groups of one molecule and Z.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from packflow_core.align.rewards import Score
from packflow_core.store.rows import Row, crystal_of

#: Good candidates that are kept of a molecule and Z.
_KEPT = 16
#: Packings whose AMD vectors are closer than this count as one, Å.
_SAME_A = 0.1
#: Earlier occurrences that cost nothing, and those from which an advantage is gone.
_TOLERANCE, _BUFFER = 1, 4


class ReplayBuffer:
    """The best scored candidates of every molecule and Z, lowest energy first."""

    def __init__(self, content: dict[str, list[dict[str, Any]]] | None = None) -> None:
        self._kept: dict[str, list[dict[str, Any]]] = content or {}

    def take(self, kind: str, number: int) -> list[tuple[Row, Score]]:
        """Up to `number` of the best earlier candidates of a kind."""
        return [(one["row"], Score(**one["score"])) for one in self._kept.get(kind, [])[:number]]

    def put(self, kind: str, candidates: list[tuple[Row, Score]]) -> None:
        """Remember the sound ones among new candidates."""
        new = [
            {"row": _plain(row), "score": vars(score).copy()}
            for row, score in candidates
            if score.energy is not None
        ]
        every = self._kept.get(kind, []) + new
        every.sort(key=lambda one: one["score"]["energy"])
        self._kept[kind] = every[:_KEPT]

    @property
    def content(self) -> dict[str, list[dict[str, Any]]]:
        """Plain types, for the state of the alignment."""
        return self._kept


class DiversityFilter:
    """How often each packing of every molecule and Z came up."""

    def __init__(self, content: dict[str, list[list[Any]]] | None = None) -> None:
        self._seen: dict[str, list[list[Any]]] = content or {}

    def factors(self, kind: str, rows: list[Row]) -> NDArray[np.float64]:
        """[K] factors for advantages above zero: 1 for a new packing, 0 for a worn one.

        The penalty grows linearly with earlier occurrences beyond a tolerance (MatInvent). Every
        candidate counts as seen from then on.

        Args:
            kind: molecule and Z.
            rows: with a crystal; those without one have the factor 1.
        """
        from packflow_core.analysis.metrics import amd

        seen = self._seen.setdefault(kind, [])
        factors = np.ones(len(rows))
        for k, row in enumerate(rows):
            try:
                vector = amd(crystal_of(row))
            except ValueError:
                continue
            near = [one for one in seen if np.abs(np.array(one[0]) - vector).max() < _SAME_A]
            if near:
                closest = min(near, key=lambda one: float(np.abs(np.array(one[0]) - vector).max()))
                closest[1] += 1
                beyond = closest[1] - 1 - _TOLERANCE
                factors[k] = 1.0 - np.clip(beyond / (_BUFFER - _TOLERANCE), 0.0, 1.0)
            else:
                seen.append([[float(v) for v in vector], 1])
        return factors

    @property
    def content(self) -> dict[str, list[list[Any]]]:
        """Plain types, for the state of the alignment."""
        return self._seen


def _plain(row: Row) -> Row:
    names = ("numbers", "positions", "cell", "z", "status", "reason", "detail", "candidate_id",
             "index", "method", "space_group_drawn", "expected_volume_A3")  # fmt: skip
    return {name: row.get(name) for name in names}
