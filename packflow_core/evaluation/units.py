"""What has to be drawn: one run folder for each generator, way of sampling, molecule, Z and seed.

The folders are those of `csp run`, of which an evaluation fills the first one or two stages. So
proposals are kept with status and reason, a larger n continues, and `csp resume` could relax them.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packflow_core.baselines.names import family_of
from packflow_core.errors import UserInputError
from packflow_core.evaluation.settings import EvaluationSettings, Variant
from packflow_core.evaluation.targets import Target
from packflow_core.spec import RunSpec, make_spec
from packflow_core.stages.plan import make_plan
from packflow_core.stages.run_store import RUN_JSON, OpenRun, RunStore

logger = logging.getLogger(__name__)

RUNS = "runs"


@dataclass(frozen=True)
class Generator:
    """A generator of an evaluation.

    Attributes:
        name: as a run takes it.
        method: as a path and the column `generator` take it.
        sampling: the variant that stage `generate` makes, for each variant that is measured:
            {"repaired": "restarts"} where a repaired proposal was drawn with restarts.
    """

    name: str
    method: str
    sampling: Mapping[Variant, Variant]


@dataclass(frozen=True, eq=False)
class Unit:
    """Proposals of one molecule that share a run folder.

    Attributes:
        generator: what draws them.
        sampling: how: raw or restarts.
        molecule_name, smiles, z: the molecule.
        seed: campaign seed.
        folder: the run folder.
        repaired: whether stage `hydrogenate` is wanted.
    """

    generator: Generator
    sampling: Variant
    molecule_name: str
    smiles: str
    z: tuple[int, ...]
    seed: int
    folder: Path
    repaired: bool

    @property
    def label(self) -> str:
        """Name for messages."""
        return f"{self.generator.method} {self.molecule_name} seed {self.seed}"


def make_generator(name: str, settings: EvaluationSettings, smiles: str) -> Generator:
    """A generator that exists and can be used, with the variants that it has.

    Models of the open preset draw again from part of the noise (restarts); baselines pack whole
    molecules, which need no repair.

    Args:
        name: as a run takes it.
        settings: of the evaluation.
        smiles: any molecule of the targets, to check the settings of the runs with.

    Raises:
        UserInputError: no such generator, a setting of its runs is wrong, or it has none of the
            variants that are wanted.
    """
    spec = make_spec({**settings.spec, "smiles": smiles, "generator": name, "z": 1, "n": 1})
    plan = make_plan(spec)
    sampling: dict[Variant, Variant] = {"raw": "raw"}
    if family_of(name) == "packflow":
        restarts = bool(spec.generate.restarts) and plan.generator.get("preset") == "open"
        if restarts:
            sampling["restarts"] = "restarts"
        sampling["repaired"] = "restarts" if restarts else "raw"
    chosen = {variant: sampling[variant] for variant in settings.variants if variant in sampling}
    if not chosen:
        raise UserInputError(
            f"The generator {name} has only the variant{'s' if len(sampling) > 1 else ''} "
            f"{', '.join(sampling)}; add one with --variant."
        )
    return Generator(name, spec.method, chosen)


def make_units(
    generator: Generator, targets: Sequence[Target], settings: EvaluationSettings, out: Path
) -> dict[tuple[str, tuple[int, ...], int, Variant], Unit]:
    """Units of a generator by molecule, Z, seed and sampling; targets may share them."""
    units: dict[tuple[str, tuple[int, ...], int, Variant], Unit] = {}
    for target in targets:
        for seed in settings.seeds:
            for sampling in dict.fromkeys(generator.sampling.values()):
                z = ".".join(map(str, target.z))
                folder = f"{target.molecule_name}-z{z}-s{seed}"
                units[target.molecule_name, target.z, seed, sampling] = Unit(
                    generator=generator,
                    sampling=sampling,
                    molecule_name=target.molecule_name,
                    smiles=target.smiles,
                    z=target.z,
                    seed=seed,
                    folder=out / RUNS / generator.method / sampling / folder,
                    repaired=generator.sampling.get("repaired") == sampling,
                )
    return units


def open_unit(unit: Unit, settings: EvaluationSettings) -> RunStore:
    """The run of a unit, created or continued; nothing is drawn.

    Raises:
        UserInputError: the molecule cannot be run, or the folder holds another run.
    """
    n = settings.n
    if (unit.folder / RUN_JSON).is_file():
        # A folder keeps what it has when fewer are asked for.
        n = max(n, RunStore(unit.folder).plan.spec.n)
    plan = make_plan(_spec(unit, settings, n))
    with OpenRun(unit.folder, plan, workers=None) as run:
        run.end_session("interrupted")
        return run


def _spec(unit: Unit, settings: EvaluationSettings, n: int) -> RunSpec:
    values: dict[str, Any] = {
        **settings.spec,
        "smiles": unit.smiles,
        "name": unit.molecule_name,
        "campaign": "evaluation",
        "z": unit.z,
        "n": n,
        "seed": unit.seed,
        "generator": unit.generator.name,
    }
    if family_of(unit.generator.name) == "packflow" and unit.sampling == "raw":
        values["generate"] = {**values.get("generate", {}), "restarts": ()}
    return make_spec(values)
