"""Settings of a pre-training, the published sizes and what belongs to each architecture."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from packflow_core.model.ablations import AblatedConfig, Bonds
from packflow_core.model.official import OfficialConfig
from packflow_core.model.open_model import OpenConfig

Architecture = Literal["open", "official"]
Preset = Literal["open", "2M", "20M", "60M"]

#: Shapes of the published models, by their names.
_SIZES: dict[str, dict[str, int]] = {
    "2M": {"d_model": 256, "nhead": 8, "num_layers": 4, "dim_feedforward": 512},
    "20M": {"d_model": 320, "nhead": 8, "num_layers": 12, "dim_feedforward": 1280},
    "60M": {"d_model": 640, "nhead": 10, "num_layers": 12, "dim_feedforward": 2560},
}
#: Flow and loss of the published models (section 2.2, eq. 5): white noise, canonical images of the
#: molecules, independent times, no part of the loss but the velocities.
_OFFICIAL: dict[str, Any] = {
    **_SIZES["2M"],
    "lattice_weight": 1.0,
    "geometry_weight": 0.0,
    "shape_weight": 0.0,
    "shared_fraction": 0.0,
    "pairing": 0,
    "structured_noise": False,
    "invert": False,
    "wrap": True,
}
#: Optimiser of the published models (appendix, table 1): a constant rate and no average.
_PUBLISHED_OPTIMISER: dict[str, Any] = {
    "learning_rate": 3e-5,
    "warmup": 0,
    "cooldown": 0,
    "beta2": 0.999,
    "weight_decay": 0.01,
    "clip": 1.0,
    "ema": 0.0,
}
#: May be changed while a training is on its way; they do not change what is learned.
FREE_FIELDS = frozenset({"steps", "cooldown", "save_every", "learning_rate", "compile", "bf16"})


class TrainParams(BaseModel):
    """Settings of a pre-training.

    A preset and an architecture fill in what is not given: the preset its shape and, for the
    official architecture, the optimiser of the paper; the architecture its flow and its loss.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    preset: Preset | None = Field(None, description="a size by name")
    architecture: Architecture = Field("open", description="open, or official: the published one")
    steps: int = Field(10_000, ge=1, description="optimiser steps in all")
    warmup: int = Field(300, ge=0, description="steps of linear warm-up")
    cooldown: int = Field(3_000, ge=0, description="last steps, over which the rate falls to zero")
    learning_rate: float = Field(1e-3, gt=0, description="peak learning rate of AdamW")
    weight_decay: float = Field(0.01, ge=0, description="weight decay of AdamW")
    beta2: float = Field(0.98, gt=0, lt=1, description="memory of AdamW for squared gradients")
    clip: float = Field(1.0, gt=0, description="largest norm of the gradient")
    ema: float = Field(0.999, ge=0, lt=1, description="decay of the averaged weights")
    lattice_weight: float = Field(0.3, gt=0, description="weight of the lattice loss")
    geometry_weight: float = Field(0.5, ge=0, description="weight of the local geometry loss")
    shape_weight: float = Field(
        0.5, ge=0, description="weight of the same loss over all pairs inside a molecule"
    )
    shared_fraction: float = Field(0.5, ge=0, le=1, description="crystals with one time for both")
    time_power: float = Field(1.0, gt=0, description="t = u^power; above 1 favours small times")
    atoms: int = Field(1200, ge=64, description="heavy atoms in a batch, about")
    pairing: int = Field(6, ge=0, description="origins tried in pairing with noise; 0: no pairing")
    structured_noise: bool = Field(True, description="noise correlated along bonds")
    invert: bool = Field(True, description="invert half of the crystals through the origin")
    wrap: bool = Field(False, description="every molecule in its canonical image (appendix B)")
    seed: int = Field(0, ge=0, description="seed of weights, batches and times")
    bf16: bool = Field(True, description="bfloat16 matrix products")
    compile: bool = Field(False, description="torch.compile: a minute more, then a third faster")
    save_every: int = Field(500, ge=1, description="steps between two saves and validations")
    bonds: Bonds = Field("bias", description="how the official architecture is told of bonds")
    d_model: int = Field(256, ge=16, description="width")
    nhead: int = Field(8, ge=1, description="attention heads")
    num_layers: int = Field(6, ge=1, description="layers")
    dim_feedforward: int = Field(768, ge=16, description="width of the feed-forward blocks")

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        size = _SIZES.get(str(values.get("preset")), {})
        architecture = values.get("architecture") or ("official" if size else "open")
        filled: dict[str, Any] = {"architecture": architecture}
        if architecture == "official":
            filled |= _OFFICIAL | (_PUBLISHED_OPTIMISER if size else {})
        filled |= size
        given = {k: v for k, v in values.items() if not (k == "architecture" and v is None)}
        return filled | given

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.d_model % self.nhead:
            raise ValueError(f"d_model={self.d_model} is no multiple of nhead={self.nhead}")
        if self.architecture == "official":
            if self.preset == "open":
                raise ValueError("preset open is of the open architecture; take 2M, 20M or 60M")
            if self.structured_noise:
                raise ValueError("the official architecture is sampled from white noise")
        elif self.bonds != "bias":
            raise ValueError("bonds can be left out of the official architecture alone")
        return self

    @property
    def network(self) -> OpenConfig | OfficialConfig:
        """Configuration of the network."""
        shape = {
            "d_model": self.d_model,
            "nhead": self.nhead,
            "num_layers": self.num_layers,
            "dim_feedforward": self.dim_feedforward,
        }
        if self.architecture == "open":
            return OpenConfig(**shape)
        if self.bonds == "bias":
            return OfficialConfig(**shape)
        return AblatedConfig(**shape, bonds=self.bonds)

    def differing(self, saved: dict[str, Any]) -> list[str]:
        """Fields in which the settings of an earlier training differ and must not.

        Args:
            saved: its settings; fields that it does not know yet count as their defaults.
        """
        mine = self.model_dump()
        default = {k: field.default for k, field in TrainParams.model_fields.items()}
        fixed = [k for k in mine if k not in FREE_FIELDS and k != "preset"]
        return [k for k in fixed if mine[k] != saved.get(k, default[k])]
