"""From a spec to a plan: every input checked, every stage with its key.

A stage key is a hash of the upstream key, the stage's parameters, the identity of the engine or
checkpoint and the schema version. Equal keys mean that rows may be shared; a changed parameter
means another key, hence another folder, never mixed results.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Self

from packflow_core.chem.molecule import Molecule
from packflow_core.errors import PackflowError, RunFailedError, UserInputError
from packflow_core.spec import RunSpec, make_spec
from packflow_core.store.schema import SCHEMA_VERSION, STAGES, Status

#: What a stage accepts from the one before. The H-only relaxation is cut off by design, so its
#: unconverged rows go on; an unconverged full relaxation has no energy worth ranking.
ACCEPTS: dict[str, frozenset[Status]] = {
    "generate": frozenset(),
    "hydrogenate": frozenset({Status.OK}),
    "relax_h": frozenset({Status.OK}),
    "relax": frozenset({Status.OK, Status.UNCONVERGED}),
    "rank": frozenset({Status.OK}),
}


def upstream_of(stage: str) -> str | None:
    """The stage whose rows `stage` takes, None for the first.

    Raises:
        ValueError: not a stage.
    """
    position = STAGES.index(stage)
    return STAGES[position - 1] if position else None


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
    """

    spec: RunSpec
    stages: dict[str, StagePlan]
    generator: dict[str, str]
    reference_sha256: str | None

    def key(self, stage: str) -> str:
        """Full key of a stage."""
        return self.stages[stage].key

    def to_json(self) -> dict[str, Any]:
        """Plain types for run.json."""
        return {
            "spec": self.spec.model_dump(mode="json"),
            "spec_hash": digest(self.identity()),
            "generator": self.generator,
            "reference_sha256": self.reference_sha256,
            "stages": {name: asdict(stage) for name, stage in self.stages.items()},
        }

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Self:
        """Plan as run.json recorded it; nothing is looked up again.

        Raises:
            RunFailedError: not what `to_json` wrote.
        """
        try:
            return cls(
                spec=make_spec(content["spec"], "run.json"),
                stages={name: StagePlan(**value) for name, value in content["stages"].items()},
                generator=dict(content["generator"]),
                reference_sha256=content["reference_sha256"],
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
        values = self.spec.model_dump(mode="json", exclude={"n", "max_failed"})
        values["generator"] = f"{self.spec.method} (sha256 {self.generator['sha256'][:12]})"
        values["reference"] = (
            f"a file with sha256 {self.reference_sha256[:12]}" if self.reference_sha256 else None
        )
        return _flat(values)


def make_plan(
    spec: RunSpec,
    generator: dict[str, str] | None = None,
    recorded: dict[str, str] | None = None,
) -> RunPlan:
    """Check every input of a spec and compute the stage keys; nothing heavy is started.

    Args:
        spec: what to do.
        generator: recorded identity of the generator, to skip looking it up.
        recorded: recorded identities of stages that shall not be computed anew although an engine
            or library was exchanged since.

    Raises:
        UserInputError: an unknown generator or engine, a corrupt checkpoint, or a reference that
            cannot be read or is of another molecule.
    """
    from packflow_core.engines.registry import engine_identity

    found = generator or _generator(spec.generator)
    engine = engine_identity(spec.engine)
    reference_sha256 = None
    absolute: dict[str, str] = {}
    if spec.reference is not None:
        reference_sha256 = check_reference_file(Path(spec.reference), spec.smiles)
        absolute["reference"] = str(Path(spec.reference).resolve())
    if Path(spec.generator).expanduser().is_file():
        absolute["generator"] = str(Path(spec.generator).expanduser().resolve())
    spec = spec.model_copy(update=absolute)
    identities = {
        "generate": f"{spec.method} sha256:{found['sha256']}",
        "hydrogenate": _versions("rdkit"),
        "relax_h": engine,
        "relax": engine,
        "rank": _versions("spglib", "oxtalign"),
    }
    identities.update(recorded or {})
    inputs: dict[str, dict[str, Any]] = {
        "generate": {"smiles": spec.smiles, "z": list(spec.z), "seed": spec.seed},
        "rank": {"reference": reference_sha256},
    }
    stages: dict[str, StagePlan] = {}
    upstream = ""
    for name in STAGES:
        content = {
            "upstream": upstream,
            "stage": name,
            "params": getattr(spec, name).model_dump(mode="json"),
            # The name of a checkpoint does not matter, its content does.
            "identity": found["sha256"] if name == "generate" else identities[name],
            "schema": SCHEMA_VERSION,
            **inputs.get(name, {}),
        }
        upstream = digest(content)
        stages[name] = StagePlan(key=upstream, identity=identities[name])
    return RunPlan(spec, stages, found, reference_sha256)


def _generator(name: str) -> dict[str, str]:
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
    phrases = [
        f"{name} is {_show(a.get(name))} there and {_show(b.get(name))} here"
        for name in dict.fromkeys([*a, *b])
        if a.get(name) != b.get(name)
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
