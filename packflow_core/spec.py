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
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from packflow_core.baselines.genarris_settings import GenarrisSettings
from packflow_core.baselines.names import BASELINES, family_of
from packflow_core.baselines.random_params import RandomParams
from packflow_core.chem.conformer_params import ConformerParams
from packflow_core.chem.molecule import Molecule
from packflow_core.errors import UserInputError
from packflow_core.model.zoo import is_named
from packflow_core.stages.density_window import (
    Window,
    check_reachable,
    check_window,
    parse_window,
)
from packflow_core.stages.generate_params import GenerateParams
from packflow_core.stages.hydrogenate import HydrogenateParams
from packflow_core.stages.rank import RankParams
from packflow_core.stages.relax import RelaxParams
from packflow_core.stages.z_shares import lowest_terms, with_shares, z_cycle
from packflow_core.store.schema import refinement_name

#: Molecules per cell that a run accepts.
Z_MIN, Z_MAX = 1, 16
N_MAX = 1_000_000
#: Fields that narrow down what is sampled; one that is not given is not part of any key.
CONDITIONS = ("z_shares", "density", "volume", "racemic")
#: Refinements that a run accepts.
REFINEMENTS_MAX = 8

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")
_NAME_RULE = "use 1 to 64 letters, digits and . _ + -, beginning with a letter or digit"
_NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")


class Refinement(BaseModel):
    """Relaxing the best candidates once more, with another engine.

    Its stage is called relax_2 for the first refinement, relax_3 for the second, and so on; it
    takes the candidates that ended `ok` in the stage before and lie within the window there.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    engine: str = Field(description="energy engine of the refinement")
    window_kJ_mol: float = Field(
        40.0,
        gt=0,
        allow_inf_nan=False,
        description="energy per molecule above the minimum of the stage before, up to which "
        "candidates are refined, kJ/mol",
    )
    relax: RelaxParams = Field(
        default_factory=lambda: RelaxParams(protocol="converged"),
        description="relaxation of atoms and cell",
    )

    @field_validator("engine")
    @classmethod
    def _engine_given(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("give the name of an energy engine")
        return value

    @field_validator("relax")
    @classmethod
    def _full_relaxation(cls, value: RelaxParams) -> RelaxParams:
        return _moves_the_cell(value)


def parse_refinement(text: str) -> dict[str, object]:
    """Fields of a refinement written as ENGINE[:WINDOW], the window in kJ/mol.

    Names of engines may hold colons; what follows the last one is a window if it is a number.
    """
    engine, colon, window = text.rpartition(":")
    if colon and _NUMBER.fullmatch(window):
        return {"engine": engine, "window_kJ_mol": float(window)}
    return {"engine": text}


def refinements_by_stage(value: Any) -> Any:
    """Refinements as a mapping from stage to fields; what is no list of them stays as it is."""
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, list | tuple):
        return items
    return {
        refinement_name(k): parse_refinement(item) if isinstance(item, str) else item
        for k, item in enumerate(items, start=1)
    }


class RunSpec(BaseModel):
    """What to predict and how.

    The SMILES is stored in canonical form, so two spellings of one molecule are one run.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    smiles: str = Field(description="SMILES of one neutral molecule")
    name: str = Field("", description="name of the target; made from the formula when empty")
    campaign: str = Field("single", description="name of the campaign the run belongs to")
    racemic: bool = Field(
        False,
        description="crystals of both hands of the molecule; without it every molecule has the "
        "hand of the SMILES",
    )
    z: tuple[int, ...] = Field(
        (2, 4),
        description=f"molecules per cell to sample, each {Z_MIN} to {Z_MAX}; a mapping gives each "
        "its share of the candidates",
    )
    z_shares: tuple[int, ...] = Field(
        (), description="share of the candidates for each z, as in 2:1,4:3; empty: even shares"
    )
    n: int = Field(100, description=f"number of candidates in all, 1 to {N_MAX}")
    density: Window | None = Field(
        None,
        description="lowest and highest density of candidates, g/cm3; others are rejected before "
        "anything is spent on them",
    )
    volume: Window | None = Field(
        None, description="lowest and highest volume of candidates, Å3 a molecule; likewise"
    )
    seed: int = Field(0, description="campaign seed, 0 to 2^63 - 1")
    generator: str = Field(
        "packflow-open",
        description="name or path of a PackFlow checkpoint, or a baseline: " + ", ".join(BASELINES),
    )
    engine: str = Field("gfnff", description="energy engine of relax_h and relax")
    reference: str | None = Field(
        None, description="path of a CIF of the known crystal, to find it among the candidates"
    )
    conformers: ConformerParams = Field(
        default_factory=ConformerParams,
        description="conformers of the molecule: what baselines pack, and what the molecules of "
        "every ranked crystal are compared with",
    )
    generate: GenerateParams = Field(
        default_factory=GenerateParams, description="sampler of PackFlow models"
    )
    random: RandomParams = Field(
        default_factory=RandomParams, description="the baselines random and random+press"
    )
    genarris: GenarrisSettings = Field(
        default_factory=GenarrisSettings,
        description="the baselines genarris-plain and genarris-press",
    )
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
    refine: tuple[Refinement, ...] = Field(
        (),
        max_length=REFINEMENTS_MAX,
        description="further relaxations of the best candidates, each an engine with its window; "
        "ENGINE:WINDOW for short",
    )
    rank: RankParams = Field(default_factory=RankParams, description="analysis and ranking")
    max_failed: float = Field(
        0.5, description="fraction of candidates that may fail before the run counts as failed"
    )

    @model_validator(mode="before")
    @classmethod
    def _shares_of_z(cls, values: Any) -> Any:
        return with_shares(values)

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

    @field_validator("z_shares")
    @classmethod
    def _one_share_a_z(cls, value: tuple[int, ...], info: ValidationInfo) -> tuple[int, ...]:
        # Without z, which was refused then, there is nothing to compare with.
        return lowest_terms(value, len(info.data["z"])) if "z" in info.data else ()

    @field_validator("density", "volume", mode="before")
    @classmethod
    def _window_as_text(cls, value: Any) -> Any:
        return parse_window(value)

    @field_validator("density", "volume")
    @classmethod
    def _window(cls, value: Window | None) -> Window | None:
        return check_window(value)

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
    def _generator_given(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("give the name of a generator or the path of a PackFlow checkpoint")
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
        return _moves_the_cell(value)

    @field_validator("refine", mode="before")
    @classmethod
    def _short_refinements(cls, value: Any) -> Any:
        """Accept texts, and a mapping from the names of the stages."""
        found = refinements_by_stage(value)
        if not isinstance(found, dict):
            return found
        names = [refinement_name(k) for k in range(1, len(found) + 1)]
        if set(found) != set(names):
            raise ValueError(f"a mapping has the stages {', '.join(names)} as keys")
        return [found[name] for name in names]

    @model_validator(mode="after")
    def _molecule_as_asked(self) -> Self:
        molecule = Molecule.from_smiles(self.smiles)
        if self.racemic and not molecule.racemic:
            molecule = molecule.as_racemate()
        object.__setattr__(self, "smiles", molecule.smiles)
        object.__setattr__(self, "racemic", molecule.racemic)
        if self.density or self.volume:
            check_reachable(molecule, self.density, self.volume)
        return self

    @model_validator(mode="after")
    def _name_the_target(self) -> Self:
        if not self.name:
            short = hashlib.sha256(self.smiles.encode()).hexdigest()[:8]
            formula = Molecule.from_smiles(self.smiles).formula
            object.__setattr__(self, "name", f"{formula}-{short}")
        return self

    @property
    def z_cycle(self) -> tuple[int, ...]:
        """Z of the candidates of one turn; the candidates go round and round."""
        return z_cycle(self.z, self.z_shares)

    @property
    def conditions(self) -> dict[str, Any]:
        """The fields of `CONDITIONS` that were given, in plain types."""
        values = self.model_dump(mode="json", include=set(CONDITIONS))
        return {name: values[name] for name in CONDITIONS if values[name]}

    @property
    def refinements(self) -> dict[str, Refinement]:
        """Refinements by the name of their stage, in order."""
        return {refinement_name(k): step for k, step in enumerate(self.refine, start=1)}

    @property
    def engines(self) -> tuple[str, ...]:
        """Engines of the run, each once, in the order of their first use."""
        return tuple(dict.fromkeys([self.engine, *(step.engine for step in self.refine)]))

    @property
    def method(self) -> str:
        """How the candidates are generated, as a name that may be part of a path."""
        if self.generator in BASELINES:
            return self.generator
        stem = Path(self.generator).name
        for suffix in (".pt", ".pth", ".safetensors"):
            stem = stem.removesuffix(suffix)
        return re.sub(r"[^A-Za-z0-9._+-]", "_", stem) or "generator"

    def default_folder(self, root: str | Path = "runs") -> Path:
        """Run folder `<root>/<campaign>/<target>/<method>` of this spec."""
        return Path(root) / self.campaign / self.name / self.method


#: Field of a spec that holds the settings of a family of generators.
_GENERATOR_FIELDS = {"packflow": "generate", "random": "random", "genarris": "genarris"}


def generator_field(spec: RunSpec) -> str:
    """Name of the field with the settings of the spec's generator."""
    return _GENERATOR_FIELDS[family_of(spec.generator)]


def unused_fields(spec: RunSpec) -> set[str]:
    """Fields with the settings of other generators, which say nothing about the run."""
    return set(_GENERATOR_FIELDS.values()) - {generator_field(spec)}


def engine_of(spec: RunSpec, stage: str) -> str:
    """Engine of a relaxation stage.

    Raises:
        ValueError: the spec has no such relaxation.
    """
    if stage in ("relax_h", "relax"):
        return spec.engine
    return _refinement(spec, stage).engine


def relax_params_of(spec: RunSpec, stage: str) -> RelaxParams:
    """Parameters of a relaxation stage.

    Raises:
        ValueError: the spec has no such relaxation.
    """
    if stage == "relax_h":
        return spec.relax_h
    return spec.relax if stage == "relax" else _refinement(spec, stage).relax


def _refinement(spec: RunSpec, stage: str) -> Refinement:
    try:
        return spec.refinements[stage]
    except KeyError:
        raise ValueError(f"'{stage}' is no relaxation of this run") from None


def _moves_the_cell(value: RelaxParams) -> RelaxParams:
    if value.protocol == "h_only":
        raise ValueError("relax takes the protocols converged and paper")
    return value


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

    A relative path (`reference`, `generator`, `conformers.file`) is relative to the file.

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
    baseline = generator in BASELINES
    if isinstance(generator, str) and not baseline and not is_named(generator):
        beside = path.parent / generator
        fields["generator"] = str(beside) if beside.is_file() else generator
    conformers = fields.get("conformers")
    if isinstance(conformers, dict) and isinstance(name := conformers.get("file"), str):
        fields["conformers"] = {**conformers, "file": str(path.parent / Path(name).expanduser())}
    return fields


def describe_validation_error(error: ValidationError, source: str = "") -> str:
    """First fault of a validation error as one sentence."""
    fault = error.errors(include_url=False)[0]
    path = _path(fault["loc"])
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


def _path(loc: tuple[int | str, ...]) -> list[str]:
    """Names on the way to a field; a refinement is called by its stage."""
    path: list[str] = []
    for part in loc:
        if not isinstance(part, int):
            path.append(part)
        elif path == ["refine"]:
            path.append(refinement_name(part + 1))
    return path


def _short(value: Any) -> str:
    if isinstance(value, tuple | list):
        return ",".join(str(item) for item in value) or "(nothing)"
    if isinstance(value, int | float):
        return str(value)
    text = str(value)
    return repr(text if len(text) <= 60 else text[:57] + "...")


def _model_at(path: list[str]) -> type[BaseModel]:
    """Model that holds the last name of a path of fields, of which there is one or more."""
    model: type[BaseModel] = RunSpec
    if path[0] == "refine" and len(path) > 2:
        model, path = Refinement, path[2:]
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
