"""Candidates of a group at one volume, so that looseness is not rewarded.

A larger cell has fewer clashes whatever the arrangement in it, and a policy finds that within a few
steps: cells swell, and the crystals that come out are too light. What is wanted is a better
arrangement at the volume that the policy expects anyway.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from packflow_core.store.rows import Row
from packflow_core.store.schema import Status


def at_common_volume(rows: Sequence[Row]) -> list[Row]:
    """Copies of rows of the stage `generate`, scaled to the median volume of the sound ones.

    Molecules stay as they are; their centres keep their fractional coordinates.

    Args:
        rows: of a group: one molecule, one Z.
    """
    cells = {
        k: np.array(row["cell"], dtype=np.float64).reshape(3, 3)
        for k, row in enumerate(rows)
        if row["status"] == Status.OK
    }
    if not cells:
        return list(rows)
    volumes = {k: abs(float(np.linalg.det(cell))) for k, cell in cells.items()}
    wanted = float(np.median(list(volumes.values())))
    out = [dict(row) for row in rows]
    for k, cell in cells.items():
        scale = (wanted / volumes[k]) ** (1 / 3)
        x = np.array(rows[k]["positions"], dtype=np.float64).reshape(rows[k]["z"], -1, 3)
        x = x + (scale - 1.0) * x.mean(1, keepdims=True)
        out[k].update(positions=x.ravel().tolist(), cell=(scale * cell).ravel().tolist())
    return out
