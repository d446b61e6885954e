"""What an evaluation is: targets, generators, how many proposals, and how they are measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from packflow_core.errors import UserInputError
from packflow_core.spec import Z_MAX, Z_MIN

Variant = Literal["raw", "restarts", "repaired"]
#: What a proposal is measured as, in the order of a run: drawn once from noise; drawn again from
#: part of the noise with mended molecules; after the repair and relief of stage `hydrogenate`.
VARIANTS: tuple[Variant, ...] = ("raw", "restarts", "repaired")

#: Origins of crystals that count as known forms, as the column `origin` of the tables has them.
KNOWN_ORIGINS = ("experimental", "minimised_experimental", "csp_matches_experiment")

#: Fields of a run that say how proposals are drawn and repaired.
SPEC_FIELDS = ("conformers", "generate", "random", "genarris", "hydrogenate")


class EvaluationSettings(BaseModel):
    """Everything that decides about the numbers of an evaluation."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    generators: tuple[str, ...] = Field(
        ("packflow-open",), min_length=1, description="generators, as for a run"
    )
    targets: tuple[Path, ...] = Field(
        min_length=1, description="tables of crystals (.parquet) or folders of CIFs with a manifest"
    )
    n: int = Field(
        100, ge=1, le=100_000, description="proposals of a molecule and seed, shared among its Z"
    )
    seeds: tuple[int, ...] = Field((0,), min_length=1, description="campaign seeds")
    z: tuple[int, ...] | None = Field(
        None, description="molecules per cell; those of the known forms when None"
    )
    variants: tuple[Variant, ...] = Field(
        VARIANTS, min_length=1, description="what is measured, where the generator has it"
    )
    split: str | None = Field(None, description="only molecules of this split; all when None")
    origins: tuple[str, ...] = Field(
        KNOWN_ORIGINS, min_length=1, description="crystals that count as known forms"
    )
    molecules: int = Field(0, ge=0, description="evenly spaced subset of the molecules; 0: all")
    each_form: bool = Field(
        False, description="compare with every known form by itself, not with the nearest"
    )
    official: bool = Field(
        False, description="tables and single precision of the published evaluation"
    )
    near_A: float = Field(
        0.15, gt=0, description="AMD distance up to which a proposal counts as near a known form, Å"
    )
    resamples: int = Field(2000, ge=100, le=100_000, description="bootstrap resamples")
    confidence: float = Field(0.95, gt=0, lt=1, description="of the intervals")
    spec: dict[str, Any] = Field(
        default_factory=dict, description="further fields of the runs, for example generate.steps"
    )

    @field_validator("generators", "seeds", "targets", "variants")
    @classmethod
    def _once_each(cls, value: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(dict.fromkeys(value))

    @field_validator("seeds")
    @classmethod
    def _seeds_in_range(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if any(not 0 <= seed < 2**63 for seed in value):
            raise ValueError("a seed is a whole number from 0 to 2^63 - 1")
        return value

    @field_validator("spec")
    @classmethod
    def _settings_of_drawing(cls, value: dict[str, Any]) -> dict[str, Any]:
        if wrong := [name for name in value if name not in SPEC_FIELDS]:
            raise ValueError(f"{wrong[0]} is none of {', '.join(SPEC_FIELDS)}")
        return value

    @field_validator("z")
    @classmethod
    def _z_in_range(cls, value: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if value is not None and (not value or any(not Z_MIN <= z <= Z_MAX for z in value)):
            raise ValueError(f"z takes one or more whole numbers from {Z_MIN} to {Z_MAX}")
        return None if value is None else tuple(sorted(set(value)))

    @field_validator("variants")
    @classmethod
    def _in_order(cls, value: tuple[Variant, ...]) -> tuple[Variant, ...]:
        return tuple(v for v in VARIANTS if v in value)


#: What the command line calls a field, where that is another name.
_OPTIONS = {
    "generators": "generator", "seeds": "seed", "variants": "variant", "origins": "origin",
    "near_A": "near", "spec": "set",
}  # fmt: skip


def make_settings(values: dict[str, Any]) -> EvaluationSettings:
    """Settings of plain values; None stands for the default.

    Raises:
        UserInputError: one sentence about the first value that is not allowed.
    """
    try:
        return EvaluationSettings.model_validate(
            {name: value for name, value in values.items() if value is not None}
        )
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in fault["loc"])
        reason = str(fault["msg"]).removeprefix("Value error, ").rstrip(".")
        name = fault["loc"][0] if fault["loc"] else ""
        option = "--" + _OPTIONS.get(str(name), field.replace("_", "-"))
        raise UserInputError(
            f"{option} {fault['input']} is not allowed: {reason[:1].lower()}{reason[1:]}."
        ) from error
