"""Failed candidates that somebody wants attempted again, kept in the run folder.

`requeue.json` names, for each stage, the attempt that a candidate shall get. It is a wish that
`RunStore.pending` grants: an attempt that is recorded has granted it, so the file never needs to
be cleared, and asking twice is asking once.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packflow_core.errors import RunFailedError, UserInputError
from packflow_core.store.atomic import storage_errors, write_json
from packflow_core.store.lock import RunLock
from packflow_core.store.schema import Status

if TYPE_CHECKING:
    from packflow_core.stages.run_store import RunStore
    from packflow_core.store.ledger import Attempt

REQUEUE_JSON = "requeue.json"


@dataclass(frozen=True)
class Requeued:
    """Candidates that a run attempts again.

    Attributes:
        reason: why they failed.
        stages: indices by stage, each ascending.
    """

    reason: str
    stages: dict[str, list[int]]

    @property
    def count(self) -> int:
        """Candidates in all stages."""
        return sum(map(len, self.stages.values()))


def wanted_attempts(folder: Path, stage: str, key: str) -> dict[int, int]:
    """Attempts wanted of the candidates of a stage: index to attempt number.

    Args:
        folder: of the run.
        stage: its name.
        key: full stage key; a wish for rows of another key means nothing here.

    Raises:
        RunFailedError: the file is damaged.
    """
    entry = _read(folder).get(stage)
    if entry is None or entry["key"] != key:
        return {}
    return {int(index): int(attempt) for index, attempt in entry["attempts"].items()}


def requeue(
    run: RunStore, reason: str, stage: str | None = None, missing_ok: bool = False
) -> Requeued:
    """Mark the candidates that failed for a reason for another attempt; safe to repeat.

    Args:
        run: of a folder that no process works in.
        reason: of the failures, see `Reason`.
        stage: only failures in this stage; in all stages when None.
        missing_ok: nothing happens when no candidate has that reason.

    Raises:
        UserInputError: no candidate failed for that reason, or a process works in the folder.
        StorageFullError: no space left; nothing was changed.
    """
    names = run.stage_selection(stage)
    with RunLock(run.folder):
        found = {name: run.attempts(name) for name in names}
        chosen = {
            name: [i for i, last in attempts.items() if _is_failure(last, reason)]
            for name, attempts in found.items()
        }
        chosen = {name: indices for name, indices in chosen.items() if indices}
        seen = any(last.reason == reason for rows in found.values() for last in rows.values())
        if not chosen and not (missing_ok and not seen):
            raise UserInputError(_nothing_to_requeue(run, found, reason, stage))
        content = _read(run.folder)
        for name, indices in chosen.items():
            wanted = wanted_attempts(run.folder, name, run.plan.key(name))
            wanted.update({i: found[name][i].attempt + 1 for i in indices})
            content[name] = {
                "key": run.plan.key(name),
                "attempts": {str(i): wanted[i] for i in sorted(wanted)},
            }
        with storage_errors(run.folder):
            write_json(run.folder / REQUEUE_JSON, content)
    return Requeued(reason, chosen)


def _is_failure(last: Attempt, reason: str) -> bool:
    return last.status == Status.FAILED and last.reason == reason


def _nothing_to_requeue(
    run: RunStore, found: Mapping[str, Mapping[int, Attempt]], reason: str, stage: str | None
) -> str:
    """Why there is nothing to attempt again, in one sentence."""
    where = f" in stage {stage}" if stage else ""
    ends = Counter((a.status, a.reason) for rows in found.values() for a in rows.values())
    others = [status for status, why in ends if why == reason and status != Status.FAILED]
    if reason and others:
        cure = _CURES.get(others[0], "parameters")
        return (
            f"Candidates with the reason {reason}{where} are {others[0]}, not failed, and the same "
            f"parameters give the same result; {cure}."
        )
    present = sorted(why for status, why in ends if status == Status.FAILED)
    if not present:
        return f"No candidate of {run.folder} failed{where}, so there is nothing to attempt again."
    return (
        f"No candidate of {run.folder} failed{where} with the reason '{reason}'; reasons there "
        f"are {', '.join(present)}."
    )


#: What to change where another attempt would end the same way.
_CURES: dict[str, str] = {
    Status.UNCONVERGED: "start a run in another folder with, for example, more steps "
    "(--set relax.max_steps=3000)",
    Status.REJECTED: "start a run in another folder with wider limits (--set FIELD=VALUE, "
    "--refine ENGINE:WINDOW) or another seed",
}


def _read(folder: Path) -> dict[str, Any]:
    path = folder / REQUEUE_JSON
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not all(isinstance(e["attempts"], dict) and e["key"] for e in content.values()):
            raise ValueError("not what csp failures --requeue writes")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise RunFailedError(
            f"{path} is damaged ({error}); remove it and queue the failures again with "
            f"'csp failures {folder} --requeue REASON'."
        ) from error
    return dict(content)
