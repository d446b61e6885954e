"""Rows: how a candidate's crystal and its story go into and come out of a stage table."""

from __future__ import annotations

import math
import socket
from typing import Any

import numpy as np

from packflow_core.chem.elements import AMU_PER_A3_TO_G_CM3, MASSES
from packflow_core.crystal.crystal import Crystal
from packflow_core.store.schema import COMMON, Reason, Status

#: One row of a stage table: column name to value; None where a value does not exist.
Row = dict[str, Any]

#: Columns that a row hands on to the next stage; everything else belongs to the attempt.
CARRIED = ("candidate_id", "index", "campaign", "target", "method", "z", "seed", "conformer")

#: Columns that may differ between two runs of the same candidate with the same result.
VOLATILE = frozenset({"attempt", "wall_s", "host", "device"})

_HOST = socket.gethostname()


def crystal_of(row: Row) -> Crystal:
    """The crystal stored in a row.

    Raises:
        ValueError: the row holds no valid crystal.
    """
    if row.get("positions") is None or row.get("cell") is None:
        raise ValueError(f"row {row.get('candidate_id')} holds no crystal")
    return Crystal(
        numbers=np.asarray(row["numbers"], dtype=np.int64),
        positions=np.asarray(row["positions"], dtype=np.float64),
        cell=np.asarray(row["cell"], dtype=np.float64),
        z=int(row["z"]),
    )


def next_row(
    previous: Row,
    *,
    status: Status,
    reason: Reason = Reason.NONE,
    detail: str = "",
    crystal: Crystal | None = None,
    **columns: Any,
) -> Row:
    """Row of the next stage for the candidate of `previous`.

    Args:
        previous: the candidate's row in the upstream stage (identity columns are carried on).
        status, reason, detail: what became of the attempt.
        crystal: the crystal after the stage, or None to keep the one in `previous` (so that a
            failed row still shows the structure that failed).
        columns: values of further columns of the stage.
    """
    row: Row = {name: previous.get(name) for name in CARRIED}
    row.update(status=str(status), reason=str(reason), detail=detail, host=_HOST)
    if crystal is not None:
        row.update(crystal_columns(crystal))
    else:
        for name in ("numbers", "positions", "cell", "n_atoms", "n_heavy", "volume_A3"):
            row[name] = previous.get(name)
        row["density_g_cm3"] = previous.get("density_g_cm3")
    row.update(columns)
    return row


def crystal_columns(crystal: Crystal, hydrogens_missing: int = 0) -> Row:
    """Columns of a crystal; `hydrogens_missing` counts hydrogens of the cell not yet drawn."""
    mass = float(MASSES[crystal.numbers].sum() + hydrogens_missing * MASSES[1])
    return {
        "numbers": crystal.numbers.tolist(),
        "positions": crystal.positions.reshape(-1).tolist(),
        "cell": crystal.cell.reshape(-1).tolist(),
        "n_atoms": len(crystal),
        "n_heavy": crystal.n_heavy,
        "z": crystal.z,
        "volume_A3": crystal.volume,
        "density_g_cm3": mass / crystal.volume * AMU_PER_A3_TO_G_CM3,
    }


def same_result(a: Row, b: Row) -> bool:
    """Whether two rows tell the same result; host, device, wall time and attempt do not count."""
    names = (set(a) | set(b)) - VOLATILE
    return all(_equal(a.get(name), b.get(name)) for name in names)


def _equal(x: Any, y: Any) -> bool:
    if isinstance(x, float) and isinstance(y, float) and math.isnan(x) and math.isnan(y):
        return True
    if x is None or y is None:
        return x is y
    return bool(np.array_equal(np.asarray(x), np.asarray(y)))


COMMON_NAMES = tuple(f.name for f in COMMON)
