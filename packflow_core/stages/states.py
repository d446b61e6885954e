"""States of unfinished relaxations in a stage folder: found for another attempt, then removed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable, Iterable
from pathlib import Path
from typing import Any

from packflow_core.relax.state import read_file, read_states, state_files
from packflow_core.store.ledger import Attempt
from packflow_core.store.stage_store import StageStore

#: Folder inside the stage folder.
NAME = "states"


def states_folder(store: StageStore) -> Path:
    """Where the states of a stage are."""
    return store.folder / NAME


def load_states(store: StageStore, indices: Iterable[int]) -> dict[int, dict[str, Any]]:
    """Packed states of candidates that were interrupted, by index."""
    wanted = set(indices)
    found = read_states(states_folder(store))
    return {index: state for index, state in found.items() if index in wanted}


def renewer(store: StageStore) -> Callable[[Hashable, Any], Any]:
    """For `WorkerPool.map_groups`: give a candidate whose worker was lost its newest state."""

    def renew(key: Hashable, payload: Any) -> Any:
        row, packed = payload
        index = int(str(key))
        return row, load_states(store, [index]).get(index, packed)

    return renew


def clean_states(
    store: StageStore, attempts: Callable[[Iterable[int]], dict[int, Attempt]]
) -> None:
    """Remove the files of candidates that all are done.

    Args:
        store: table of the stage.
        attempts: latest attempts of candidates. One that ran out of time or lost its worker is
            not done: it is continued when it is tried again.
    """
    folder = states_folder(store)
    for path in state_files(folder):
        indices = [int(row["index"]) for row in read_file(path)]
        latest = attempts(indices)
        if all(i in latest and not latest[i].retryable for i in indices):
            path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # not there, or not empty
        folder.rmdir()
