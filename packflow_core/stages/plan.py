"""From a spec to a plan: every input checked, every stage with its key.

A stage key is a hash of the upstream key, the stage's parameters, the identity of the engine or
checkpoint and the schema version. Equal keys mean that rows may be shared; a changed parameter
means another key, hence another folder, never mixed results.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel

from packflow_core.baselines.names import family_of
from packflow_core.chem.molecule import Molecule
from packflow_core.crystal.validity_limits import ValidityLimits
from packflow_core.errors import PackflowError, RunFailedError, UserInputError
from packflow_core.model.zoo import is_named
from packflow_core.relax.protocol import RelaxParams
from packflow_core.spec import (
    CONDITIONS,
    RunSpec,
    engine_of,
    generator_field,
    make_spec,
    relax_params_of,
    unused_fields,
)
from packflow_core.store.schema import SCHEMA_VERSION, STAGES, Status, stage_kind

#: What a stage accepts from the one before. The H-only relaxation is cut off by design, so its
#: unconverged rows go on; an unconverged full relaxation has no energy worth comparing.
ACCEPTS: dict[str, frozenset[Status]] = {
    "generate": frozenset(),
    "hydrogenate": frozenset({Status.OK}),
    "relax_h": frozenset({Status.OK}),
    "relax": frozenset({Status.OK, Status.UNCONVERGED}),
    "refine": frozenset({Status.OK}),
    "rank": frozenset({Status.OK}),
}


def stage_names(spec: RunSpec) -> tuple[str, ...]:
    """Stages of a run in their order; refinements come after `relax`."""
    return (*STAGES[:-1], *spec.refinements, STAGES[-1])


def upstream_of(stage: str, names: Sequence[str] = STAGES) -> str | None:
    """The stage whose rows `stage` takes, None for the first; `names` are the run's stages.

    Raises:
        ValueError: not a stage.
    """
    position = list(names).index(stage)
    return names[position - 1] if position else None


def accepted_by(spec: RunSpec, stage: str) -> frozenset[Status]:
    """Statuses of the stage before that go on to `stage`."""
    if stage in spec.refinements:
        return ACCEPTS["refine"]
    if stage == "rank" and spec.rank.include_unconverged:
        return ACCEPTS[stage] | {Status.UNCONVERGED}
    return ACCEPTS[stage]


@dataclass(frozen=True)
class StagePlan:
    """One stage of a plan.

    Attributes:
        key: full stage key, 64 hexadecimal digits.
        identity: the engine, checkpoint or libraries that do the work, with versions.
    """

    key: str
    identity: str


@dataclass(frozen=True)
class RunPlan:
    """A checked spec with the key of each stage.

    Attributes:
        spec: what to do; paths in it are absolute.
        stages: plan of each stage, in order.
        generator: identity of the generator (name, sha256, version).
        reference_sha256: hash of the reference CIF, None without one.
        conformers: key of the pool of conformers, see `ensemble_key`.
    """

    spec: RunSpec
    stages: dict[str, StagePlan]
    generator: dict[str, str]
    reference_sha256: str | None
    conformers: str

    def key(self, stage: str) -> str:
        """Full key of a stage."""
        return self.stages[stage].key

    @property
    def stage_names(self) -> tuple[str, ...]:
        """Stages in their order."""
        return tuple(self.stages)

    @property
    def last_relaxation(self) -> str:
        """The stage whose energies are ranked."""
        return self.stage_names[-2]

    @property
    def engine(self) -> str:
        """Identity of the engine whose energies are ranked."""
        return self.stages[self.last_relaxation].identity

    def upstream_of(self, stage: str) -> str | None:
        """The stage whose rows `stage` takes, None for the first."""
        return upstream_of(stage, self.stage_names)

    def to_json(self) -> dict[str, Any]:
        """Plain types for run.json."""
        return {
            "spec": self.spec.model_dump(mode="json"),
            "spec_hash": digest(self.identity()),
            "generator": self.generator,
            "reference_sha256": self.reference_sha256,
            "conformers": self.conformers,
            "stages": {name: asdict(stage) for name, stage in self.stages.items()},
        }

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Self:
        """Plan as run.json recorded it; nothing is looked up again.

        Raises:
            RunFailedError: not what `to_json` wrote.
        """
        try:
            spec = make_spec(content["spec"], "run.json")
            return cls(
                spec=spec,
                stages={name: StagePlan(**content["stages"][name]) for name in stage_names(spec)},
                generator=dict(content["generator"]),
                reference_sha256=content["reference_sha256"],
                conformers=content.get("conformers", ""),  # runs of 0.1 had none
            )
        except (KeyError, TypeError, AttributeError, UserInputError) as error:
            raise RunFailedError(
                f"run.json is damaged or of another version of packflow-csp ({error}); start the "
                "run anew in another folder."
            ) from error

    def identity(self) -> dict[str, Any]:
        """What makes two runs the same: every field of the spec but those that may change.

        `n` may grow and `max_failed` change between two calls on one folder; files count by
        content, not by path.
        """
        values = self.spec.model_dump(
            mode="json",
            exclude={"n", "max_failed", "refine", *CONDITIONS} | unused_fields(self.spec),
        )
        values |= {name: None for name in CONDITIONS} | self.spec.conditions
        values["refine"] = {
            name: step.model_dump(mode="json") for name, step in self.spec.refinements.items()
        }
        values["generator"] = f"{self.spec.method} (sha256 {self.generator['sha256'][:12]})"
        values["reference"] = (
            f"a file with sha256 {self.reference_sha256[:12]}" if self.reference_sha256 else None
        )
        if self.spec.conformers.file is not None:
            values["conformers"] = f"a file (key {self.conformers[:12]})"
        return _flat(values)


def make_plan(
    spec: RunSpec,
    generator: dict[str, str] | None = None,
    recorded: dict[str, str] | None = None,
    conformers: str | None = None,
) -> RunPlan:
    """Check every input of a spec and compute the stage keys; nothing heavy is started.

    Args:
        spec: what to do.
        generator: recorded identity of the generator, to skip looking it up.
        recorded: recorded identities of stages that shall not be computed anew although an engine
            or library was exchanged since.
        conformers: recorded key of the pool, to skip looking at the file that it came from.

    Raises:
        UserInputError: an unknown generator or engine, one that is not trusted, a corrupt
            checkpoint, or a reference or a file of conformers that cannot be read or is of
            another molecule.
    """
    found = generator or _generator(spec.generator)
    spec = _with_absolute_engines(spec)
    identities = recorded or {}
    identities = {**_engines(spec, identities), **identities}
    reference_sha256 = None
    absolute: dict[str, Any] = {}
    if spec.reference is not None:
        reference_sha256 = check_reference_file(Path(spec.reference), spec.smiles)
        absolute["reference"] = str(Path(spec.reference).resolve())
    if conformers is None:
        conformers = check_conformers(spec)
    if spec.conformers.file is not None:
        path = Path(spec.conformers.file).expanduser().resolve()
        absolute["conformers"] = spec.conformers.model_copy(update={"file": str(path)})
    packflow = family_of(spec.generator) == "packflow"
    # A name is a name, also where a file is called so.
    named = is_named(spec.generator)
    if packflow and not named and Path(spec.generator).expanduser().is_file():
        absolute["generator"] = str(Path(spec.generator).expanduser().resolve())
    spec = spec.model_copy(update=absolute)
    identities = {
        "generate": _generator_identity(spec, found),
        "hydrogenate": _versions("rdkit"),
        "rank": _versions("spglib", "oxtalign"),
        **identities,
    }
    inputs: dict[str, dict[str, Any]] = {
        "generate": {
            "smiles": spec.smiles,
            "z": list(spec.z),
            "seed": spec.seed,
            **spec.conditions,
        },
        "rank": {"reference": reference_sha256, "conformers": conformers},
        **{name: {"window": step.window_kJ_mol} for name, step in spec.refinements.items()},
    }
    if not packflow:
        inputs["generate"]["conformers"] = conformers
    stages: dict[str, StagePlan] = {}
    upstream = ""
    for name in stage_names(spec):
        content = {
            "upstream": upstream,
            "stage": name,
            "params": _params_in_key(params_of(spec, name)),
            # The name of a checkpoint does not matter, its content does.
            "identity": found["sha256"] if name == "generate" else identities[name],
            "schema": SCHEMA_VERSION,
            **inputs.get(name, {}),
        }
        upstream = digest(content)
        stages[name] = StagePlan(key=upstream, identity=identities[name])
    return RunPlan(spec, stages, found, reference_sha256, conformers)


def _with_absolute_engines(spec: RunSpec) -> RunSpec:
    """The spec with checkpoint files as absolute paths, so that any folder may resume it."""

    def absolute(engine: str) -> str:
        family, colon, path = engine.partition(":")
        if family == "uma" and colon:
            return f"uma:{Path(path).expanduser().resolve()}"
        return engine

    refine = tuple(
        step.model_copy(update={"engine": absolute(step.engine)}) for step in spec.refine
    )
    return spec.model_copy(update={"engine": absolute(spec.engine), "refine": refine})


def params_of(spec: RunSpec, stage: str) -> BaseModel:
    """Parameters of a stage."""
    if stage_kind(stage) in ("relax_h", "relax"):
        return relax_params_of(spec, stage)
    params: BaseModel = getattr(spec, generator_field(spec) if stage == "generate" else stage)
    return params


def _params_in_key(params: BaseModel) -> dict[str, Any]:
    """Parameters of a stage as its key counts them.

    Limits of a relaxation's result count where they are not the default ones: relaxations of
    before there were any keep their key, and the ranking judges their results all the same.
    """
    values: dict[str, Any] = params.model_dump(mode="json")
    if isinstance(params, RelaxParams):
        usual = ValidityLimits().model_dump(mode="json")
        values = {k: v for k, v in values.items() if k not in usual or v != usual[k]}
    return values


def check_device(spec: RunSpec, workers: int | None, device: str) -> None:
    """Refuse a device that no engine of the run can have; nothing is started.

    Args:
        spec: names the engines.
        workers: worker processes; None where the user names no number.
        device: see `packflow_core.devices.make_seats`.

    Raises:
        UserInputError: no such device here, or no engine of the run can use it.
    """
    from packflow_core.devices import make_seats

    make_seats(workers, device, gpu=any(map(_uses_gpu, spec.engines)))


def device_of(spec: RunSpec, stage: str, device: str) -> str:
    """Device of a stage in a run on `device`: what cannot use a GPU works on the CPU."""
    relaxes = stage_kind(stage) in ("relax_h", "relax")
    return device if relaxes and _uses_gpu(engine_of(spec, stage)) else "cpu"


def _uses_gpu(engine: str) -> bool:
    from packflow_core.engines.registry import engine_traits

    return engine_traits(engine).gpu


def _engines(spec: RunSpec, recorded: Mapping[str, str]) -> dict[str, str]:
    """Identities of the relaxation stages that are not recorded; their engines are trusted."""
    from packflow_core.engines.registry import engine_identity, fetch_engine
    from packflow_core.engines.trust import check_trusted

    found: dict[str, str] = {}
    for stage in ("relax_h", "relax", *spec.refinements):
        if stage not in recorded:
            engine = engine_of(spec, stage)
            check_trusted(engine)
            fetch_engine(engine)  # weights are here before the first worker asks for them
            found[stage] = engine_identity(engine)
    return found


def _generator(name: str) -> dict[str, str]:
    family = family_of(name)
    if family != "packflow":
        version = _baseline_version(family)
        return {"name": name, "version": version, "sha256": digest(f"{name} {version}")}
    from packflow_core.stages.generate import generator_identity

    try:
        return {key: str(value) for key, value in generator_identity(name).items()}
    except PackflowError:
        raise
    except Exception as error:  # the loader of a file that is no checkpoint may raise anything
        raise UserInputError(
            f"The generator {name} cannot be loaded ({type(error).__name__}: {error}); it is "
            "corrupt or no PackFlow checkpoint."
        ) from error


def _generator_identity(spec: RunSpec, found: Mapping[str, str]) -> str:
    if "version" in found:
        return f"{spec.method} ({found['version']})"
    return f"{spec.method} sha256:{found['sha256']}"


def _baseline_version(family: str) -> str:
    """Version of a baseline's program.

    Raises:
        UserInputError: it is not installed.
    """
    if family == "random":
        from packflow_core.baselines.random_params import RANDOM_VERSION

        return f"random {RANDOM_VERSION}"
    from packflow_core.baselines.genarris_program import require_genarris

    return require_genarris().identity


def check_conformers(spec: RunSpec) -> str:
    """Key of the pool of conformers of a spec; a search is not begun, a file is read.

    Raises:
        UserInputError: a file that cannot be read, or is of another molecule.
    """
    from packflow_core.chem.conformer_pool import ensemble_key, make_ensemble

    molecule = Molecule.from_smiles(spec.smiles)
    if spec.conformers.file is not None:
        make_ensemble(molecule, spec.conformers)
    return ensemble_key(molecule, spec.conformers)


def check_reference_file(path: Path, smiles: str) -> str:
    """Hash of a reference CIF that can be read and is of the target's composition.

    Raises:
        UserInputError: it is not there, not a CIF of an ordered crystal, or of another molecule.
    """
    from packflow_core.crystal.cif import read_cif
    from packflow_core.stages.rank import check_reference

    path = path.expanduser()
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserInputError(
            f"The reference {path} cannot be read ({error.strerror}); give the path of a CIF."
        ) from error
    check_reference(read_cif(path), Molecule.from_smiles(smiles), str(path))
    return hashlib.sha256(content).hexdigest()


def z_of(index: int, z_values: Sequence[int]) -> int:
    """Molecules per cell of candidate `index`; independent of how many candidates there are."""
    return z_values[index % len(z_values)]


def digest(value: Any) -> str:
    """SHA-256 of the canonical JSON of a value."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def differences(old: RunPlan, new: RunPlan) -> list[str]:
    """What differs between two runs, one phrase per field; empty when they are the same run."""
    a, b = old.identity(), new.identity()
    names = [name for name in dict.fromkeys([*a, *b]) if a.get(name) != b.get(name)]
    # Of a refinement that only one of them has, the engine says enough.
    phrases = [
        f"{name} is {_show(a.get(name))} there and {_show(b.get(name))} here"
        for name in names
        if (name in a and name in b) or name.endswith(".engine")
    ]
    if new.spec.n < old.spec.n:
        phrases.append(f"n is {old.spec.n} there and {new.spec.n} here (it may only grow)")
    return phrases


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat.update(_flat(value, f"{prefix}{name}."))
        else:
            flat[prefix + name] = value
    return flat


def _show(value: Any) -> str:
    if value is None:
        return "not given"
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _versions(*packages: str) -> str:
    return ", ".join(f"{name} {metadata.version(name)}" for name in packages)
