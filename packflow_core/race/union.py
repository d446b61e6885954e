"""The structures of all legs in one ranking: the same clustering as in a run, over the union."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from packflow_core.errors import RunFailedError
from packflow_core.race.basins import Basins
from packflow_core.race.legs import Leg
from packflow_core.race.scale import Scale
from packflow_core.stages.functions import run_rank
from packflow_core.stages.run_store import RunStore
from packflow_core.store.rows import Row

logger = logging.getLogger(__name__)

_TIMEOUT_S = 24 * 3600.0
#: What a ranking needs of a row.
_COLUMNS = (
    "candidate_id", "index", "status", "energy_eV", "z", "numbers", "positions", "cell",
    "matches_reference",
)  # fmt: skip


def find_basins(legs: Sequence[Leg], scale: Scale, window_kJ_mol: float, log: Path) -> Basins:
    """Cluster the structures of all legs inside a window above the zero.

    Args:
        legs: cut to the budget.
        scale: the zero.
        window_kJ_mol: structures above it belong to no basin.
        log: where the worker's output goes.

    Raises:
        RunFailedError: the clustering broke, or a run folder is damaged.
    """
    rows: list[Row] = []
    for number, leg in enumerate(legs):
        above = scale.above_zero(leg.energy)
        wanted = np.flatnonzero(above <= window_kJ_mol)
        table = RunStore(leg.folder).stage("rank").table(_COLUMNS, wanted.tolist())
        # Ids of two legs may be the same; here they only settle the order of equal energies.
        rows += [
            {**row, "candidate_id": f"{number} {row['candidate_id']}", "leg": number}
            for row in table.to_pylist()
        ]
    labels = tuple(np.full(len(leg), -1, dtype=np.int64) for leg in legs)
    if not rows:
        return Basins(labels, np.zeros(0), np.zeros(0, dtype=np.bool_))
    ranked = _clustered(rows, legs[0], log)
    n_basins = max(int(row["cluster"]) for row in ranked)
    energy = np.full(n_basins, np.inf)
    match = np.zeros(n_basins, dtype=np.bool_)
    for row in ranked:
        leg_number, basin = int(row["leg"]), int(row["cluster"]) - 1
        labels[leg_number][int(row["index"])] = basin
        above_zero = scale.above_zero(np.array([row["energy_eV"] / row["z"]]))[0]
        energy[basin] = min(energy[basin], above_zero)
        match[basin] |= row["matches_reference"] is True
    return Basins(labels, energy, match)


def _clustered(rows: list[Row], leg: Leg, log: Path) -> list[Row]:
    """The rows with their clusters; in a worker, where a crash of a library costs an error."""
    from packflow_core.devices import make_seats
    from packflow_core.stages import pools

    # Unconverged structures are among the ranked where the runs say so; each row counts here.
    params = leg.plan.spec.rank.model_copy(update={"include_unconverged": True})
    workers = pools.pool(make_seats(1, "cpu", gpu=False), log)
    for outcome in workers.map(run_rank, [(0, (rows, params))], _TIMEOUT_S):
        if outcome.error is None:
            found: list[Row] = outcome.value
            return found
        raise RunFailedError(
            f"Clustering the {len(rows)} structures of all runs broke ({outcome.error}: "
            f"{outcome.detail}); a smaller --window compares fewer of them."
        )
    raise RunFailedError("Clustering the structures of all runs gave no result.")
