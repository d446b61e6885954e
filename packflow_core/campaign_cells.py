"""Does a predicted cell agree with a published one? A hint without coordinates.

Reduced cells of equal volume are compared, so settings, origins and an engine that makes all
crystals too dense do not matter. Two different packings may have the same cell: only a comparison
of the structures, with a reference CIF, shows a match.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import gemmi
import numpy as np

from packflow_core.campaign import KnownForm
from packflow_core.crystal.lattice import cell_to_parameters

#: How far lengths (relative) and angles (degrees) of reduced cells of equal volume may differ.
LENGTH_TOLERANCE, ANGLE_TOLERANCE = 0.05, 4.0
#: How far the volumes may differ, relative. mcGFN-FF makes crystals about 11 % too small.
VOLUME_TOLERANCE = 0.25


@dataclass(frozen=True)
class Agreement:
    """A candidate whose cell agrees with a published one.

    Attributes:
        rank: of the candidate.
        candidate_id: its name.
        energy_kJ_mol: its lattice energy above the lowest candidate's, kJ/mol.
        density_g_cm3: its density.
        same_space_group: whether its space group is the published one, too.
    """

    rank: int
    candidate_id: str
    energy_kJ_mol: float
    density_g_cm3: float
    same_space_group: bool


def best_agreement(form: KnownForm, rows: Iterable[dict[str, Any]]) -> Agreement | None:
    """The lowest ranked candidate whose cell agrees with a known form's.

    Args:
        form: with cell and z; without them nothing can agree.
        rows: ranked candidates, best first, with the columns of `ranked.parquet`.
    """
    if form.cell is None or form.z is None:
        return None
    group = gemmi.SpaceGroup(form.space_group or "P 1")
    # The published cell may be centred, the candidate's is not always: both become primitive.
    centrings = {"P": 1, "A": 2, "B": 2, "C": 2, "I": 2, "F": 4, "R": 3}
    per_cell = form.z / centrings.get(group.centring_type(), 1)
    published = gemmi.GruberVector(gemmi.UnitCell(*form.cell), group)
    published.niggli_reduce()
    target = _lattice(published.cell_parameters())
    for row in rows:
        if row.get("rank") is None or row["z"] != per_cell:
            continue
        volume_ratio = row["volume_A3"] / target.volume
        if abs(volume_ratio - 1) > VOLUME_TOLERANCE:
            continue
        found = _lattice(cell_to_parameters(np.reshape(row["cell"], (3, 3)))).scale(target.volume)
        if target.find_mapping(found, LENGTH_TOLERANCE, ANGLE_TOLERANCE, skip_rotation_matrix=True):
            return Agreement(
                int(row["rank"]),
                str(row["candidate_id"]),
                float(row["lattice_energy_rel_kJ_mol"]),
                float(row["density_g_cm3"]),
                row.get("space_group_number") == form.space_group_number,
            )
    return None


def _lattice(parameters: Iterable[float]) -> Any:
    from pymatgen.core import Lattice

    return Lattice.from_parameters(*parameters)
