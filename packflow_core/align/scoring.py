"""Rollouts and their scores at once: workers score one group while the next one is sampled."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from packflow_core.align.rewards import Mode, Score, score_candidates
from packflow_core.engines.registry import engine_traits
from packflow_core.store.rows import Row
from packflow_core.store.schema import Reason, Status

if TYPE_CHECKING:
    from packflow_core.workers import WorkerPool

#: Candidates that a worker takes at once from an engine that evaluates one at a time; the press of
#: the mode `pressed` works on many together.
_FEW, _FEW_PRESSED = 4, 16
#: Longest silence of a worker, s.
_TIMEOUT_S = 600.0
_REASONS = {"timeout": Reason.TIMEOUT, "worker_lost": Reason.WORKER_LOST}


def score_groups(
    groups: Iterable[tuple[str, Sequence[Row]]],
    engine: str,
    mode: Mode,
    hydrogen_steps: int,
    pool: WorkerPool,
    on_score: Callable[[], None] = lambda: None,
) -> list[list[Score]]:
    """Scores of the candidates of groups, in their order.

    Args:
        groups: pairs (SMILES, rows), drawn only as workers become free.
        engine: name of an engine that may be used.
        mode, hydrogen_steps: see `packflow_core.align.rewards`.
        pool: workers; a candidate that kills one has the score `failed`, and only that one.
        on_score: called after every candidate.
    """
    few = _FEW_PRESSED if mode == "pressed" else _FEW
    if engine_traits(engine).batched:
        few = 10_000
    sizes: list[int] = []

    def items() -> Iterator[tuple[Sequence[tuple[tuple[int, int], Any]], tuple[Any, ...]]]:
        for number, (smiles, rows) in enumerate(groups):
            sizes.append(len(rows))
            keyed = [((number, k), row) for k, row in enumerate(rows)]
            for start in range(0, len(keyed), few):
                yield keyed[start : start + few], (smiles, engine, mode, hydrogen_steps)

    found: dict[tuple[int, int], Score] = {}
    for outcome in pool.map_groups(score_candidates, items(), _TIMEOUT_S):
        key = outcome.key
        assert isinstance(key, tuple)
        if outcome.error is None:
            found[key] = outcome.value
        else:
            reason = _REASONS.get(outcome.error, Reason.INTERNAL)
            found[key] = Score(str(Status.FAILED), str(reason), outcome.detail)
        on_score()
    return [[found[number, k] for k in range(size)] for number, size in enumerate(sizes)]
