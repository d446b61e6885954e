"""Structures as plain data for the 3D viewer of a report: the molecules of one cell, its edges."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from packflow_core.analysis.pictures import bonds_between
from packflow_core.chem.elements import symbol
from packflow_core.store.rows import Row, crystal_of

logger = logging.getLogger(__name__)

#: Structures with more atoms in the cell keep their flat picture only.
MAX_ATOMS = 1500
_EDGES = tuple(
    (corner, corner | bit) for corner in range(8) for bit in (1, 2, 4) if not corner & bit
)


def view_of(row: Row) -> dict[str, Any] | None:
    """What the viewer draws of a row; None where there is nothing, or too much, to draw.

    Returns:
        `elements` [n], `positions` [n, 3] Å, `bonds` [nb, 2], `edges` [12, 2, 3] of the cell and
        `axes`, the places of the letters a, b and c.
    """
    try:
        crystal = crystal_of(row).wrapped()
    except ValueError as error:  # a report without a view is better than no report
        logger.warning("no 3D view of %s: %s", row.get("candidate_id"), error)
        return None
    if not 0 < len(crystal) <= MAX_ATOMS:
        return None
    corners = np.array([[c & 1, c >> 1 & 1, c >> 2 & 1] for c in range(8)]) @ crystal.cell
    return {
        "elements": [symbol(int(n)) for n in crystal.numbers],
        "positions": crystal.positions.round(3).tolist(),
        "bonds": bonds_between(crystal.numbers, crystal.positions).tolist(),
        "edges": [[corners[i].round(3).tolist(), corners[j].round(3).tolist()] for i, j in _EDGES],
        "axes": (1.06 * crystal.cell).round(3).tolist(),
    }
