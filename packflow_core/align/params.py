"""Settings of an alignment."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

#: May be changed while an alignment is on its way.
FREE_FIELDS = frozenset({"steps", "save_every", "validate_every", "learning_rate"})


class AlignParams(BaseModel):
    """Settings of an alignment; defaults for the open model and a force field on a CPU."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    engine: str = Field("gfnff", description="energy engine of the rewards")
    mode: Literal["heavy", "hydrogens", "pressed"] = Field(
        "hydrogens",
        description="what the engine sees: heavy atoms alone (UMA), hydrogens added and relaxed, "
        "or the crystal that a run would relax",
    )
    hydrogen_steps: int = Field(
        0,
        ge=0,
        description="steps of the relaxation of the hydrogens; 0 takes them where they are placed",
    )
    steps: int = Field(40, ge=1, description="batches of rollouts in all")
    groups: int = Field(16, ge=1, description="groups of a batch")
    group_size: int = Field(16, ge=2, description="candidates of a group, K")
    z: tuple[int, ...] = Field((2, 4), description="molecules per cell, drawn for every group")
    max_heavy: int = Field(64, ge=1, description="heavy atoms of a cell at most")
    energy_share: float = Field(
        0.5, ge=0, le=1, description="lambda: 1 for energies alone, 0 for forces alone"
    )
    advantage_clip: float = Field(5.0, gt=0, description="largest advantage")
    ranks: bool = Field(
        False,
        description="energies and forces count by their ranks in the group: one candidate with "
        "huge forces squeezes no other",
    )
    penalise: bool = Field(
        True,
        description="clashing and torn candidates count as worse than the worst; otherwise they "
        "take no part",
    )
    draws: int = Field(2, ge=1, description="times and noises at which a candidate is scored")
    epochs: int = Field(2, ge=1, description="optimiser steps on a batch of rollouts")
    clip: float = Field(0.2, gt=0, description="clip range of the ratio")
    kl_weight: float = Field(0.1, ge=0, description="beta: weight of the divergence")
    keep_volume: bool = Field(
        True,
        description="the checkpoint that comes out draws cells of the reference's size on average: "
        "a policy swells them; open models only",
    )
    kl_stop: float | None = Field(
        1.0, gt=0, description="divergence from the reference at which the alignment ends"
    )
    ratio_stop: float | None = Field(
        0.1, gt=0, description="divergence from the sampling policy that ends a batch's epochs"
    )
    lattice_weight: float = Field(1.0, ge=0, description="weight of the lattice in the surrogate")
    learning_rate: float = Field(5e-4, gt=0, description="learning rate of AdamW")
    warmup: int = Field(2, ge=0, description="batches of linear warm-up")
    weight_decay: float = Field(0.0, ge=0, description="weight decay of AdamW")
    max_norm: float = Field(1.0, gt=0, description="largest norm of the gradient")
    replay: int = Field(
        0, ge=0, description="good earlier candidates that join a group of their kind (MatInvent)"
    )
    diversity: bool = Field(
        False, description="advantages fade where the same packing comes again (MatInvent)"
    )
    weighted_kl: bool = Field(
        False, description="good candidates are held less to the reference (MatInvent)"
    )
    shaping: bool = Field(
        False,
        description="energies count from that of the crystal which the policy expects at the time "
        "of the score (Elign); as many evaluations more as there are draws",
    )
    shared_prefix: int = Field(
        1,
        ge=1,
        description="candidates that share their way until a restart and are compared with each "
        "other alone (Elign); open models only",
    )
    part_at: float = Field(
        0.5, gt=0, le=1, description="time at which candidates of a shared prefix part"
    )
    seed: int = Field(0, ge=0, description="seed of molecules, rollouts, times and noise")
    save_every: int = Field(2, ge=1, description="batches between two saves")
    validate_every: int = Field(5, ge=0, description="batches between two validations; 0: none")

    @field_validator("z", mode="before")
    @classmethod
    def _one_is_enough(cls, value: Any) -> Any:
        return (value,) if isinstance(value, int) else value

    @field_validator("z")
    @classmethod
    def _positive(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not value or min(value) < 1:
            raise ValueError("z takes one or more whole numbers above 0")
        return tuple(sorted(set(value)))

    @field_validator("shared_prefix")
    @classmethod
    def _whole_families(cls, value: int, info: ValidationInfo) -> int:
        if info.data.get("group_size", value) % value:
            raise ValueError("it must divide group_size")
        if value > 1 and info.data.get("replay"):
            raise ValueError("earlier candidates share no prefix, so replay=0 is needed")
        return value

    def differing(self, saved: dict[str, Any]) -> list[str]:
        """Fields in which the settings of an earlier alignment differ and must not."""
        mine = self.model_dump(mode="json")
        default = AlignParams().model_dump(mode="json")
        return [k for k in mine if k not in FREE_FIELDS and mine[k] != saved.get(k, default[k])]
