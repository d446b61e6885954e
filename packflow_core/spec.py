"""Everything that defines a run, in one validated, immutable object.

Two runs with equal specs give equal results on one machine; how many workers share the work, how
long a candidate may take and where the files go is not part of a spec.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from packflow_core.chem.molecule import Molecule
from packflow_core.errors import UserInputError
from packflow_core.stages.generate import GenerateParams
from packflow_core.stages.hydrogenate import HydrogenateParams
from packflow_core.stages.rank import RankParams
from packflow_core.stages.relax import RelaxParams

#: Molecules per cell that a run accepts.
Z_MIN, Z_MAX = 1, 16
N_MAX = 1_000_000
#: Generators that a later version brings; a clear sentence beats "file not found".
RESERVED_GENERATORS = ("random", "genarris-plain", "genarris-press")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")
_NAME_RULE = "use 1 to 64 letters, digits and . _ + -, beginning with a letter or digit"


class RunSpec(BaseModel):
    """What to predict and how.

    The SMILES is stored in canonical form, so two spellings of one molecule are one run.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    smiles: str = Field(description="SMILES of one neutral molecule")
    name: str = Field("", description="name of the target; made from the formula when empty")
    campaign: str = Field("single", description="name of the campaign the run belongs to")
    z: tuple[int, ...] = Field(
        (2, 4), description=f"molecules per cell to sample, each {Z_MIN} to {Z_MAX}"
    )
    n: int = Field(100, description=f"number of candidates in all, 1 to {N_MAX}")
    seed: int = Field(0, description="campaign seed, 0 to 2^63 - 1")
    generator: str = Field("packflow-open", description="name or path of a PackFlow checkpoint")
    engine: str = Field("gfnff", description="energy engine of both relaxations")
    reference: str | None = Field(
        None, description="path of a CIF of the known crystal, to find it among the candidates"
    )
    generate: GenerateParams = Field(default_factory=GenerateParams, description="sampler")
    hydrogenate: HydrogenateParams = Field(
        default_factory=HydrogenateParams, description="repair and hydrogens"
    )
    relax_h: RelaxParams = Field(
        default_factory=lambda: RelaxParams(protocol="h_only"),
        description="relaxation of the hydrogens",
    )
    relax: RelaxParams = Field(
        default_factory=lambda: RelaxParams(protocol="converged"),
        description="relaxation of atoms and cell",
    )
    rank: RankParams = Field(default_factory=RankParams, description="analysis and ranking")
    max_failed: float = Field(
        0.5, description="fraction of candidates that may fail before the run counts as failed"
    )

    @field_validator("smiles")
    @classmethod
    def _canonical(cls, value: str) -> str:
        return Molecule.from_smiles(value).smiles

    @field_validator("name", "campaign")
    @classmethod
    def _safe_name(cls, value: str) -> str:
        if value and not _NAME.fullmatch(value):
            raise ValueError(_NAME_RULE)
        return value

    @field_validator("campaign")
    @classmethod
    def _campaign_given(cls, value: str) -> str:
        if not value:
            raise ValueError(_NAME_RULE)
        return value

    @field_validator("z", mode="before")
    @classmethod
    def _one_z_is_enough(cls, value: Any) -> Any:
        return (value,) if isinstance(value, int) else value

    @field_validator("z")
    @classmethod
    def _z_in_range(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not value or any(not Z_MIN <= z <= Z_MAX for z in value):
            raise ValueError(f"z takes one or more whole numbers from {Z_MIN} to {Z_MAX}")
        return tuple(sorted(set(value)))

    @field_validator("n")
    @classmethod
    def _n_in_range(cls, value: int) -> int:
        if not 1 <= value <= N_MAX:
            raise ValueError(f"n takes a whole number from 1 to {N_MAX}")
        return value

    @field_validator("seed")
    @classmethod
    def _seed_in_range(cls, value: int) -> int:
        if not 0 <= value < 2**63:
            raise ValueError("seed takes a whole number from 0 to 2^63 - 1")
        return value

    @field_validator("max_failed")
    @classmethod
    def _fraction(cls, value: float) -> float:
        if not 0.0 <= value <= 1.0:
            raise ValueError("max_failed takes a fraction from 0 to 1")
        return value

    @field_validator("generator")
    @classmethod
    def _known_generator(cls, value: str) -> str:
        if value in RESERVED_GENERATORS:
            raise ValueError(
                f"the generator {value} is not part of this version yet; use packflow-open or the "
                "path of a PackFlow checkpoint"
            )
        return value

    @field_validator("relax_h", mode="before")
    @classmethod
    def _hydrogens_by_default(cls, value: Any) -> Any:
        return {"protocol": "h_only", **value} if isinstance(value, dict) else value

    @field_validator("relax_h")
    @classmethod
    def _hydrogens_only(cls, value: RelaxParams) -> RelaxParams:
        if value.protocol != "h_only":
            raise ValueError("relax_h takes the protocol h_only alone")
        return value

    @field_validator("relax")
    @classmethod
    def _full_relaxation(cls, value: RelaxParams) -> RelaxParams:
        if value.protocol == "h_only":
            raise ValueError("relax takes the protocols converged and paper")
        return value

    @model_validator(mode="after")
    def _name_the_target(self) -> Self:
        if not self.name:
            short = hashlib.sha256(self.smiles.encode()).hexdigest()[:8]
            formula = Molecule.from_smiles(self.smiles).formula
            object.__setattr__(self, "name", f"{formula}-{short}")
        return self

    @property
    def method(self) -> str:
        """How the candidates are generated, as a name that may be part of a path."""
        stem = Path(self.generator).name.removesuffix(".pt").removesuffix(".pth")
        return re.sub(r"[^A-Za-z0-9._+-]", "_", stem) or "generator"

    def default_folder(self, root: str | Path = "runs") -> Path:
        """Run folder `<root>/<campaign>/<target>/<method>` of this spec."""
        return Path(root) / self.campaign / self.name / self.method


def make_spec(values: dict[str, Any], source: str = "") -> RunSpec:
    """Spec of plain values.

    Args:
        values: field names to values.
        source: where they came from, named in the message.

    Raises:
        UserInputError: one sentence that names the field, the value and what is allowed.
    """
    try:
        return RunSpec.model_validate(values)
    except ValidationError as error:
        raise UserInputError(describe_validation_error(error, source)) from error


def read_target(path: Path) -> dict[str, Any]:
    """Fields of a target file: YAML with the field names of `RunSpec`.

    A relative `reference` or `generator` path is taken relative to the file.

    Raises:
        UserInputError: not readable, not YAML, or not a mapping.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not text"
        raise UserInputError(f"The target file {path} cannot be read ({why}).") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark else ""
        raise UserInputError(f"The target file {path} is not valid YAML{where}.") from error
    if not isinstance(content, dict) or "smiles" not in content:
        raise UserInputError(
            f"The target file {path} must hold 'field: value' lines with at least 'smiles'; fields "
            f"are {', '.join(RunSpec.model_fields)}."
        )
    fields = {str(name): value for name, value in content.items()}
    if isinstance(reference := fields.get("reference"), str):
        fields["reference"] = str(path.parent / Path(reference).expanduser())
    generator = fields.get("generator")
    if isinstance(generator, str) and (path.parent / generator).is_file():
        fields["generator"] = str(path.parent / generator)
    return fields


def describe_validation_error(error: ValidationError, source: str = "") -> str:
    """First fault of a validation error as one sentence."""
    fault = error.errors(include_url=False)[0]
    path = [str(part) for part in fault["loc"] if not isinstance(part, int)]
    field = ".".join(path) or "the input"
    where = f" in {source}" if source else ""
    if fault["type"] == "extra_forbidden":
        return f"'{field}'{where} is not a field of a run; fields are {_fields_beside(path)}."
    if fault["type"] == "missing":
        return f"The field '{field}' is missing{where}."
    reason = str(fault["msg"]).removeprefix("Value error, ").rstrip(".")
    if fault["type"] != "value_error":
        reason = reason[:1].lower() + reason[1:]
        if description := _description(path):
            reason += f"; {path[-1]} is: {description}"
    return f"{field} = {_short(fault['input'])}{where} is not allowed: {reason}."


def _short(value: Any) -> str:
    if isinstance(value, tuple | list):
        return ",".join(str(item) for item in value) or "(nothing)"
    if isinstance(value, int | float):
        return str(value)
    text = str(value)
    return repr(text if len(text) <= 60 else text[:57] + "...")


def _model_at(path: list[str]) -> type[BaseModel]:
    """Model that holds the last name of a path of fields."""
    model: type[BaseModel] = RunSpec
    for part in path[:-1]:
        field = model.model_fields.get(part)
        if field is None or not (
            isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
        ):
            break
        model = field.annotation
    return model


def _fields_beside(path: list[str]) -> str:
    return ", ".join(_model_at(path).model_fields)


def _description(path: list[str]) -> str:
    field = _model_at(path).model_fields.get(path[-1]) if path else None
    return (field.description or "") if field else ""
