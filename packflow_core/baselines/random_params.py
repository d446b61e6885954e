"""Settings of the baselines `random` and `random+press`."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from packflow_core.baselines.press_params import PressParams
from packflow_core.baselines.random_packing import PackParams

#: Version of the programs, part of the stage key: raised where the same settings give other
#: crystals.
RANDOM_VERSION = "1"


class RandomParams(BaseModel):
    """Settings of the baselines `random` and `random+press`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    pack: PackParams = Field(PackParams(), description="random packing")
    press: PressParams = Field(PressParams(), description="press of the packings, for random+press")
    n_conformers: int = Field(20, ge=1, le=1000, description="conformers embedded")
    conformer_seed: int = Field(0, ge=0, description="seed of the conformer embedding")
    energy_window_kcal: float = Field(
        5.0, ge=0, description="conformers up to this far above the lowest take part, kcal/mol"
    )
