"""From what came out of a worker to a row in a journal: every attempt is recorded, none is lost."""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING

from packflow_core import progress
from packflow_core.store.rows import CARRIED, Row, next_row
from packflow_core.store.schema import Reason, Status
from packflow_core.store.stage_store import StageJournal

if TYPE_CHECKING:
    from packflow_core.workers import Outcome

logger = logging.getLogger(__name__)

#: Reasons by what a worker pool says of an attempt that gave no row.
ERRORS = {
    "timeout": Reason.TIMEOUT,
    "worker_lost": Reason.WORKER_LOST,
    "exception": Reason.INTERNAL,
}
_DETAIL_LENGTH = 500


def row_of(outcome: Outcome, previous: Row, seconds: float) -> Row:
    """Row of a finished candidate; whatever went wrong outside the stage becomes `failed`."""
    if outcome.error is None and isinstance(outcome.value, dict):
        return {**outcome.value, **{name: previous.get(name) for name in CARRIED}}
    if outcome.error is None:
        return failed(previous, Reason.INTERNAL, f"the stage returned {type(outcome.value)}")
    detail = outcome.detail or ""
    if outcome.error == "timeout":
        detail = f"no result within {seconds:g} s"
    return failed(previous, ERRORS.get(outcome.error, Reason.INTERNAL), detail)


def failed(previous: Row, reason: Reason, detail: str) -> Row:
    """Row of a candidate that broke, with the crystal it came with."""
    logger.warning("%s: %s: %s", previous.get("candidate_id"), reason, detail)
    return next_row(previous, status=Status.FAILED, reason=reason, detail=shorten(detail))


def shorten(detail: str) -> str:
    """The end of a long text, where a traceback says what happened."""
    text = detail.strip()
    return text if len(text) <= _DETAIL_LENGTH else "..." + text[3 - _DETAIL_LENGTH :]


def record(journal: StageJournal, row: Row, counts: Counter[str]) -> None:
    """Append a row to a journal, count it and tell the progress."""
    try:
        journal.append(row)
    except ValueError as error:  # the row does not fit the schema: record that instead
        again = {name: row.get(name) for name in ("stage_key", "attempt", "wall_s")}
        row = {**failed(row, Reason.INTERNAL, str(error)), **again}
        journal.append(row)
    counts[row["status"]] += 1
    progress.current().advance(journal.stage, row["status"])


def device_name(said: str | None, seat: str) -> str:
    """Device of an attempt: the seat's, with the name of the card where the engine told it.

    A worker sees one GPU alone and calls it the first.
    """
    _, bracket, card = (said or "").partition(" (")
    return f"{seat} ({card}" if bracket and seat != "cpu" else seat
