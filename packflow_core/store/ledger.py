"""The ledger: what became of every candidate in every stage, counted from the files alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from packflow_core.store.schema import RETRY, RETRYABLE, Reason, Status
from packflow_core.store.stage_store import StageStore

_COLUMNS = ("index", "status", "reason", "attempt", "wall_s")


class Attempt(NamedTuple):
    """What the latest attempt at a candidate came to."""

    status: str
    reason: str
    attempt: int

    @property
    def retryable(self) -> bool:
        """Whether another attempt may do better."""
        return self.status == Status.FAILED and self.reason in RETRYABLE

    @property
    def final(self) -> bool:
        """Whether the run leaves it at this: only some failures get another attempt, see RETRY."""
        return self.status != Status.FAILED or self.attempt >= _attempts_allowed(self.reason)


@dataclass(frozen=True)
class StageLedger:
    """Counts of one stage.

    Attributes:
        stage: its name.
        eligible: candidates that the stage before hands on (the run's n for the first stage).
        ok, unconverged, rejected, failed: attempted candidates by status.
        reasons: candidates by reason, of those that are not ok, most frequent first.
        wall_s: working time of all attempts counted, s.
        median_wall_s: median working time of a candidate, s; NaN where none was attempted.
        again: candidates with a row that the run attempts once more.
    """

    stage: str
    eligible: int
    ok: int
    unconverged: int
    rejected: int
    failed: int
    reasons: dict[str, int]
    wall_s: float
    median_wall_s: float
    again: int = 0

    @property
    def attempted(self) -> int:
        """Candidates with a row."""
        return self.ok + self.unconverged + self.rejected + self.failed

    @property
    def pending(self) -> int:
        """Eligible candidates without a row, and those that get another attempt."""
        return max(0, self.eligible - self.attempted) + self.again

    def as_dict(self) -> dict[str, object]:
        """Plain types, for JSON; no NaN."""
        median = None if np.isnan(self.median_wall_s) else round(self.median_wall_s, 3)
        return {
            "stage": self.stage,
            "eligible": self.eligible,
            "attempted": self.attempted,
            "ok": self.ok,
            "unconverged": self.unconverged,
            "rejected": self.rejected,
            "failed": self.failed,
            "pending": self.pending,
            "reasons": self.reasons,
            "wall_s": round(self.wall_s, 3),
            "median_wall_s": median,
        }


def attempts(store: StageStore, indices: Iterable[int] | None = None) -> dict[int, Attempt]:
    """Latest attempt of the candidates of a stage (all when None), by candidate index."""
    table = store.table(("index", "status", "reason", "attempt"), indices)
    columns = [table.column(name).to_pylist() for name in ("index", "status", "reason", "attempt")]
    return {
        index: Attempt(status, reason or "", attempt or 0)
        for index, status, reason, attempt in zip(*columns, strict=True)
    }


def stage_ledger(store: StageStore, eligible: int, again: int = 0) -> StageLedger:
    """Count a stage; `eligible` and `again` as in `StageLedger`."""
    table: pa.Table = store.table(_COLUMNS)
    status = Counter(table.column("status").to_pylist())
    reasons = Counter(
        f"{s}: {r}" if r else str(s)
        for s, r in zip(
            table.column("status").to_pylist(), table.column("reason").to_pylist(), strict=True
        )
        if s != Status.OK
    )
    wall = table.column("wall_s").drop_null().to_numpy()  # null where no work was done
    return StageLedger(
        stage=store.stage,
        eligible=eligible,
        ok=status[Status.OK],
        unconverged=status[Status.UNCONVERGED],
        rejected=status[Status.REJECTED],
        failed=status[Status.FAILED],
        reasons=dict(sorted(reasons.items(), key=lambda item: (-item[1], item[0]))),
        wall_s=float(wall.sum()),
        median_wall_s=float(np.median(wall)) if len(wall) else float("nan"),
        again=again,
    )


def _attempts_allowed(reason: str) -> int:
    return RETRY[Reason(reason)] if reason in RETRY else 1
