"""An evaluation from its settings to its tables."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow as pa

from packflow_core.devices import make_seats
from packflow_core.errors import UserInputError
from packflow_core.evaluation.drawing import draw
from packflow_core.evaluation.measuring import measure, read_part
from packflow_core.evaluation.schema import PARTS
from packflow_core.evaluation.settings import EvaluationSettings
from packflow_core.evaluation.targets import Refused, Target, read_targets
from packflow_core.evaluation.units import Generator, make_generator, make_units
from packflow_core.stages import pools
from packflow_core.store.atomic import make_folder, remove_temporaries, storage_errors
from packflow_core.store.lock import RunLock

logger = logging.getLogger(__name__)

LOG = "csp.log"


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What an evaluation found.

    Attributes:
        settings: what was asked.
        generators: in the order of the settings.
        targets: that could be compared with.
        refused: targets and forms that could not be evaluated.
        impossible: why a generator could not do a molecule at all, by method and molecule.
        proposals: one row for each generator, variant, target, seed and index, with the columns
            of `schema.PARTS`.
    """

    settings: EvaluationSettings
    generators: list[Generator]
    targets: list[Target]
    refused: list[Refused]
    impossible: dict[tuple[str, str], str]
    proposals: pd.DataFrame


def evaluate(
    settings: EvaluationSettings,
    out: Path,
    workers: int | None = None,
    tell: Callable[[str], None] = logger.info,
) -> Evaluation:
    """Draw, repair and measure what is not in the folder yet, and collect everything.

    Args:
        settings: what to evaluate.
        out: folder of the evaluation; made when missing. It may hold other generators' parts.
        workers: worker processes; one per processor when None.
        tell: gets a sentence when something noteworthy happens.

    Raises:
        UserInputError: an input is wrong, or the folder holds proposals of other settings.
        StorageFullError: no space left; what is recorded is kept.
        StoppedError: somebody wants it to end.
    """
    found = read_targets(settings)
    tell(
        f"{len(found.targets)} targets with "
        f"{sum(len(target.forms) for target in found.targets)} known forms"
    )
    refused = list(found.refused)
    smiles = found.targets[0].smiles
    generators = [make_generator(name, settings, smiles) for name in settings.generators]
    _check_names(generators)
    make_folder(out)
    parts: list[Path] = []
    impossible: dict[tuple[str, str], str] = {}
    with RunLock(out):
        with storage_errors(out):
            remove_temporaries(out)
        pool = pools.pool(make_seats(workers, "cpu", gpu=False), out / LOG)
        for generator in generators:
            units = make_units(generator, found.targets, settings, out)
            undrawn = draw(list(units.values()), settings, pool)
            impossible |= {
                (generator.method, unit.molecule_name): reason for unit, reason in undrawn.items()
            }
            possible = [
                target
                for target in found.targets
                if (generator.method, target.molecule_name) not in impossible
            ]
            paths, problems = measure(generator, possible, units, settings, out, pool)
            parts += paths
            refused += problems
    return Evaluation(
        settings, generators, found.targets, list(dict.fromkeys(refused)), impossible,
        _collect(parts),
    )  # fmt: skip


def _check_names(generators: list[Generator]) -> None:
    methods = [generator.method for generator in generators]
    for generator in generators:
        if methods.count(generator.method) > 1:
            raise UserInputError(
                f"Two generators are called {generator.method}; rename a checkpoint file so that "
                "their proposals can be told apart."
            )


def _collect(paths: list[Path]) -> pd.DataFrame:
    tables = [read_part(path) for path in paths] or [PARTS.empty_table()]
    frame: pd.DataFrame = pa.concat_tables(tables).to_pandas()
    return frame
