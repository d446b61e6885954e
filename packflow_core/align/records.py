"""What became of every candidate of an alignment: one Parquet file a step."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from packflow_core.align.rewards import Score
from packflow_core.align.rollouts import Group
from packflow_core.store.atomic import atomic_path, storage_errors
from packflow_core.store.rows import Row

FOLDER = "candidates"


def _field(name: str, kind: pa.DataType, description: str, unit: str = "") -> pa.Field:
    return pa.field(name, kind, metadata={"description": description, "unit": unit})


SCHEMA = pa.schema(
    [
        _field("step", pa.int64(), "step of the alignment, from 0"),
        _field("group", pa.int64(), "group of the step"),
        _field("smiles", pa.string(), "the molecule"),
        _field("z", pa.int64(), "molecules in the cell"),
        _field("candidate_id", pa.string(), "identity of the candidate"),
        _field("replayed", pa.bool_(), "it is of an earlier step"),
        _field("status", pa.string(), "ok, rejected (unsound) or failed"),
        _field("reason", pa.string(), "why it is not ok"),
        _field("detail", pa.string(), "the reason in words and numbers"),
        _field("energy_per_molecule_eV", pa.float64(), "energy by the engine", "eV"),
        _field("force_eV_A", pa.float64(), "mean length of the forces on heavy atoms", "eV/Å"),
        _field("severity", pa.float64(), "fraction of clashing atoms plus that of bonds off"),
        _field("advantage", pa.float64(), "as it entered the objective"),
        _field("positions", pa.list_(pa.float32()), "heavy atoms, 3 numbers each", "Å"),
        _field("cell", pa.list_(pa.float32()), "rows a, b, c", "Å"),
    ]
)


def write_candidates(
    folder: Path,
    step: int,
    groups: Sequence[Group],
    rows: Sequence[Sequence[Row]],
    scores: Sequence[Sequence[Score]],
    advantages: Sequence[NDArray[np.float64]],
    replayed: Sequence[int],
) -> Path:
    """Write the candidates of a step; the file of a step that is repeated is replaced.

    Args:
        folder: of the alignment.
        step: from 0.
        groups, rows, scores, advantages: of the step; the last `replayed` of a group are earlier
            candidates.
        replayed: how many of each group.

    Raises:
        StorageFullError: the disk is full.
    """
    lines = []
    for number, group in enumerate(groups):
        new = len(rows[number]) - replayed[number]
        for k, (row, score) in enumerate(zip(rows[number], scores[number], strict=True)):
            lines.append(
                {
                    "step": step, "group": number, "smiles": group.smiles, "z": group.z,
                    "candidate_id": row["candidate_id"], "replayed": k >= new,
                    "status": score.status, "reason": score.reason, "detail": score.detail,
                    "energy_per_molecule_eV": score.energy, "force_eV_A": score.force,
                    "severity": score.severity, "advantage": float(advantages[number][k]),
                    "positions": row.get("positions"), "cell": row.get("cell"),
                }
            )  # fmt: skip
    where = folder / FOLDER
    path = where / f"step-{step:06d}.parquet"
    with storage_errors(folder):
        where.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            pq.write_table(pa.Table.from_pylist(lines, schema=SCHEMA), temporary)
    return path
