"""How far a relaxed crystal may be from what was asked for: thresholds, part of a spec."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class ValidityLimits(BaseModel):
    """Limits beyond which a relaxed crystal is no crystal of the molecule any more.

    They are wide: docs/ranking.md says how many known crystals lie within.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    bond_tolerance_A: float = Field(
        0.4, gt=0, le=1, description="a pair is bonded up to this beyond its covalent radii, Å"
    )
    reject_stereo_change: bool = Field(
        True, description="reject crystals with a molecule of another stereochemistry than asked"
    )
    min_density_ratio: float = Field(
        0.2,
        ge=0,
        description="lowest density, over the one that the average volumes of the atoms give",
    )
    max_density_ratio: float = Field(
        1.7, gt=0, description="highest density, over the one that the average volumes give"
    )
    min_reduced_height_A: float = Field(
        2.0, ge=0, description="lowest height of the Niggli-reduced cell, Å"
    )
    min_cell_openness: float = Field(
        0.01,
        ge=0,
        lt=1,
        description="lowest volume of the cell over that of a box with its edges; near zero its "
        "angles no longer close a cell",
    )
