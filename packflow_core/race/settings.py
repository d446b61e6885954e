"""How run folders are compared: the budget that all get, and how intervals are made."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class CompareSettings(BaseModel):
    """Settings of a comparison; none of them changes a run."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    n: int | None = Field(
        None, ge=1, description="compare the first so many candidates of each run"
    )
    compute_s: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="compare the first candidates of each run whose working time, from the "
        "generation to the last relaxation, adds up to so many seconds",
    )
    window_kJ_mol: float = Field(
        20.0,
        gt=0,
        allow_inf_nan=False,
        description="structures up to so far above the lowest of all count as low in energy, and "
        "their basins are compared, kJ/mol",
    )
    resamples: int = Field(
        1000, ge=100, le=100_000, description="bootstrap resamples of the candidates"
    )
    confidence: float = Field(0.95, gt=0.5, lt=1, description="confidence of the intervals")
    seed: int = Field(0, ge=0, lt=2**63, description="seed of the bootstrap")
    known_form: bool = Field(
        True,
        description="relax the known form, too, with the engine of the runs, so that its energy "
        "can be shown",
    )

    @model_validator(mode="after")
    def _one_budget(self) -> Self:
        if self.n is not None and self.compute_s is not None:
            raise ValueError("give n or compute_s, not both")
        return self
