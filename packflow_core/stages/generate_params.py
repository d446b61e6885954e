"""Settings of the PackFlow sampler; needs no torch, as a spec does not."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from packflow_core.stages.z_shares import z_of_index

__all__ = ["GenerateParams", "z_of_index"]


class GenerateParams(BaseModel):
    """Settings of the sampler."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    steps: int | None = Field(
        None,
        ge=1,
        le=10_000,
        description="ODE steps; not given: 10 for open models, 100 for published ones",
    )
    solver: Literal["euler", "ab2", "heun", "midpoint"] | None = Field(
        None,
        description="ODE solver; ab2 and euler call the network once a step, others twice; not "
        "given: ab2 for open models, euler for published ones",
    )
    symmetry: bool = Field(
        True,
        description="hold every candidate to a space group, drawn as often as in the CSD; open "
        "models only",
    )
    power: float = Field(
        1.0, ge=1, le=4, description="time grid (1 - i/steps)^power; above 1: finer near the data"
    )
    restarts: tuple[float, ...] = Field(
        (),
        description="times from which a sample is drawn again, its molecules mended before; "
        "empty: none; open models only",
    )
    restart_steps: int = Field(2, ge=1, le=1000, description="ODE steps of each restart")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="where the model runs")
    min_height_A: float = Field(
        2.5, gt=0, description="smallest height of a cell between opposite faces, Å"
    )

    volume_scale: float | None = Field(
        None,
        ge=0.5,
        le=2,
        description="factor of the expected volume of a molecule that open models aim at; not "
        "given: 1, or into the window of density or volume where that leaves the expected one out",
    )

    @field_validator("restarts")
    @classmethod
    def _times(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if any(not 0 < t <= 1 for t in value):
            raise ValueError("restarts takes times above 0 and up to 1")
        return value
