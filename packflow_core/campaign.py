"""A campaign: many targets searched alike, described by one YAML file.

The file says what is known of each target, too, so that a campaign can be judged without any file
of coordinates. Fields of a run that all targets share stand under `defaults`; a target may replace
them under `run`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from packflow_core.chem.elements import AMU_PER_A3_TO_G_CM3
from packflow_core.chem.molecule import Molecule
from packflow_core.errors import UserInputError
from packflow_core.spec import RunSpec, make_spec

#: Degrees of freedom of a molecule in classes, after its number of rotatable bonds.
Tier = Literal["rigid", "moderate", "flexible"]
#: Where campaigns lie that come with this package, and what their files are called.
SHIPPED = Path(__file__).resolve().parents[1] / "deployments" / "campaigns"
#: Largest relative difference between a density and what its cell says.
_DENSITY_TOLERANCE = 0.005
#: Fields of a run that a campaign sets itself.
_OWN_FIELDS = frozenset({"smiles", "name", "campaign", "reference"})


class KnownForm(BaseModel):
    """What was published of an experimental crystal; what is not known is left out."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    refcode: str = Field(description="refcode in the Cambridge Structural Database, as a label")
    space_group: str | None = Field(None, description="Hermann-Mauguin symbol")
    z: int | None = Field(None, ge=1, description="molecules in the cell")
    cell: tuple[float, float, float, float, float, float] | None = Field(
        None, description="a, b, c in Å, alpha, beta, gamma in degrees"
    )
    density: float | None = Field(None, gt=0, description="density, g/cm3")

    @field_validator("space_group")
    @classmethod
    def _one_of_230(cls, value: str | None) -> str | None:
        import gemmi

        if value is not None and gemmi.find_spacegroup_by_name(value) is None:
            raise ValueError(f"'{value}' is not a space group; write it as P 1 21/c 1")
        return value

    @property
    def space_group_number(self) -> int | None:
        """Number of the space group in the International Tables."""
        import gemmi

        return None if self.space_group is None else gemmi.SpaceGroup(self.space_group).number

    @property
    def volume(self) -> float | None:
        """Volume of the cell, Å3."""
        import gemmi

        return None if self.cell is None else float(gemmi.UnitCell(*self.cell).volume)


class CampaignTarget(BaseModel):
    """A molecule of a campaign."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(description="name of the target, part of its folder")
    smiles: str = Field(description="SMILES of one neutral molecule")
    label: str = Field("", description="what the target is called elsewhere, for example XVII")
    blind_test: int | None = Field(None, ge=1, description="number of the blind test it is from")
    formula: str = Field("", description="Hill formula; checked against the SMILES when given")
    tier: Tier | None = Field(
        None, description="rigid (no rotatable bond, or one), moderate (two, three) or flexible"
    )
    z: tuple[int, ...] = Field((), description="molecules per cell to sample, instead of the run's")
    known: tuple[KnownForm, ...] = Field((), description="experimental crystals")
    reference: str | None = Field(
        None, description="CIF of the known crystal, relative to the file of the campaign"
    )
    run: dict[str, Any] = Field(
        default_factory=dict, description="fields of this target's run, instead of the defaults"
    )

    @model_validator(mode="after")
    def _agree(self) -> Self:
        try:
            molecule = Molecule.from_smiles(self.smiles)
        except UserInputError as error:
            raise ValueError(str(error)) from error
        if self.formula and molecule.formula != self.formula:
            raise ValueError(f"{self.name} is {molecule.formula} by its SMILES, not {self.formula}")
        for form in self.known:
            if form.volume is None or form.z is None or form.density is None:
                continue
            density = form.z * molecule.mass / form.volume * AMU_PER_A3_TO_G_CM3
            if abs(density / form.density - 1) > _DENSITY_TOLERANCE:
                raise ValueError(
                    f"{form.refcode} has {density:.3f} g/cm3 by its cell, z and formula, not "
                    f"{form.density:.3f}"
                )
        return self

    def called(self, name: str) -> bool:
        """Whether a user means this target: by its name or its label, in any case."""
        return name.strip().casefold() in (self.name.casefold(), self.label.casefold() or None)


class Campaign(BaseModel):
    """Targets and what their runs share."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(description="name of the campaign, part of the folders of its runs")
    description: str = Field("", description="one line for the report")
    defaults: dict[str, Any] = Field(default_factory=dict, description="fields of all runs")
    citations: dict[int, str] = Field(
        default_factory=dict, description="where the targets of each blind test were published"
    )
    targets: tuple[CampaignTarget, ...] = Field(min_length=1, description="what is searched")
    left_out: dict[str, str] = Field(
        default_factory=dict, description="targets that one would expect here, and why they miss"
    )

    @model_validator(mode="after")
    def _names_once(self) -> Self:
        seen: set[str] = set()
        for target in self.targets:
            for name in filter(None, {target.name.casefold(), target.label.casefold()}):
                if name in seen:
                    raise ValueError(f"two targets are called {name}")
                seen.add(name)
            for fields in (self.defaults, target.run):
                if wrong := sorted(_OWN_FIELDS & set(fields)):
                    raise ValueError(f"the field {wrong[0]} is set by the campaign itself")
        return self

    def select(self, names: Sequence[str]) -> list[CampaignTarget]:
        """Targets by name or label, in the campaign's order; all when no name is given.

        Raises:
            UserInputError: a name that no target has.
        """
        for name in names:
            if not any(target.called(name) for target in self.targets):
                if why := self.left_out.get(name.strip().upper()):
                    raise UserInputError(
                        f"The target {name} is not part of the campaign {self.name}: {why}."
                    )
                raise UserInputError(
                    f"The campaign {self.name} has no target '{name}'; its targets are "
                    f"{', '.join(target.name for target in self.targets)}."
                )
        return [t for t in self.targets if not names or any(t.called(name) for name in names)]

    def spec_of(self, target: CampaignTarget, changes: Mapping[str, Any] | None = None) -> RunSpec:
        """Spec of the run of a target.

        Args:
            target: one of the campaign's.
            changes: fields of the run that win over those of the file.

        Raises:
            UserInputError: one sentence that names the target and the field that is wrong.
        """
        values: dict[str, Any] = {**self.defaults}
        if target.z:
            values["z"] = list(target.z)
        values |= target.run
        for field, value in (changes or {}).items():
            old = values.get(field)
            if isinstance(old, dict) and isinstance(value, dict):
                values[field] = {**old, **value}
            else:
                values[field] = value
        values |= {"smiles": target.smiles, "name": target.name, "campaign": self.name}
        if target.reference is not None:
            values["reference"] = target.reference
        return make_spec(values, f"target {target.name}")


def shipped_campaigns() -> list[str]:
    """Names of the campaigns that come with this package."""
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


def find_campaign(name: str) -> Path:
    """Path of a campaign: that of a file, or one that comes with this package by its name.

    Raises:
        UserInputError: neither.
    """
    path = Path(name).expanduser()
    if path.is_file():
        return path
    shipped = SHIPPED / f"{name.replace('-', '_')}.yaml"
    if path.name == name and shipped.is_file():
        return shipped
    raise UserInputError(
        f"There is no campaign file {name}; give the path of one, or a name of those that come "
        f"with packflow-csp: {', '.join(shipped_campaigns()) or 'none is installed'}."
    )


def read_campaign(path: Path) -> Campaign:
    """Campaign of a YAML file; paths of references in it are relative to the file.

    Raises:
        UserInputError: one sentence about the first thing that is wrong.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not text"
        raise UserInputError(f"The campaign file {path} cannot be read ({why}).") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark else ""
        raise UserInputError(f"The campaign file {path} is not valid YAML{where}.") from error
    if not isinstance(content, dict):
        raise UserInputError(f"The campaign file {path} must hold the fields name and targets.")
    try:
        campaign = Campaign.model_validate(content)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        reason = str(fault["msg"]).removeprefix("Value error, ").rstrip(".")
        where = _where(content, fault["loc"])
        raise UserInputError(f"The campaign file {path} is wrong{where}: {reason}.") from error
    return campaign.model_copy(
        update={"targets": tuple(_beside(path, target) for target in campaign.targets)}
    )


def _beside(path: Path, target: CampaignTarget) -> CampaignTarget:
    if target.reference is None:
        return target
    found = path.parent / Path(target.reference).expanduser()
    return target.model_copy(update={"reference": str(found)})


def _where(content: dict[str, Any], loc: tuple[int | str, ...]) -> str:
    """The place of a fault in words, with the name of the target instead of its number."""
    parts = [str(part) for part in loc]
    if len(loc) > 1 and loc[0] == "targets" and isinstance(loc[1], int):
        target = content["targets"][loc[1]]
        if isinstance(target, dict) and target.get("name"):
            parts[:2] = [f"target {target['name']}"]
    return f" at {'.'.join(parts)}" if parts else ""
