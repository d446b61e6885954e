"""Settings of the press; apart from it, for a spec is read without torch."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class PressParams(BaseModel):
    """Settings of the press."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    wanted_contact: float | None = Field(
        None,
        gt=0.3,
        le=1.2,
        description="hard-sphere diameter over the van der Waals sum; none: so that packings of "
        "the molecule have the volume expected of its crystals",
    )
    wanted_hydrogen_bond: float = Field(
        0.86,
        gt=0.3,
        le=1.2,
        description="the largest it is between a hydrogen of N or O and another N or O",
    )
    min_contact: float = Field(
        0.85, gt=0, le=1.2, description="smallest contact in the result, over that sum"
    )
    pressures: tuple[float, ...] = Field(
        (0.05, 0.01, 0.002, 0.0005), min_length=1, description="pressures, one after the other, 1/Å"
    )
    max_steps: int = Field(150, ge=1, le=10_000, description="steps at each pressure at most")
    tolerance: float = Field(
        0.02,
        gt=0,
        description="largest gradient at the end of a pressure, over pressure times the face of "
        "a molecule",
    )
    max_growth: float = Field(
        1.1, ge=1, le=2, description="linear growth at most that may take away the last overlaps"
    )
