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
