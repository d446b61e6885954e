"""From proposals to a table of metrics: one Parquet part for each target and seed."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from packflow_core import progress
from packflow_core.errors import RunFailedError
from packflow_core.evaluation.drawing import proposals
from packflow_core.evaluation.schema import PARTS, Row
from packflow_core.evaluation.scoring import SCORING_VERSION, Forms, make_forms, score_members
from packflow_core.evaluation.settings import EvaluationSettings, Variant
from packflow_core.evaluation.targets import Refused, Target
from packflow_core.evaluation.units import Generator, Unit
from packflow_core.stages.plan import digest
from packflow_core.stages.pools import go_on
from packflow_core.stages.recording import ERRORS, shorten
from packflow_core.stages.run_store import RunStore
from packflow_core.store.atomic import atomic_path, make_folder, storage_errors
from packflow_core.store.schema import Reason, Status

if TYPE_CHECKING:
    from packflow_core.workers import WorkerPool

logger = logging.getLogger(__name__)

METRICS_FOLDER = "metrics"

#: Proposals that a worker measures together, and silence after which it is taken for stuck, s.
_BLOCK = 64
_TIMEOUT_S = 600.0

Units = dict[tuple[str, tuple[int, ...], int, Variant], Unit]


@dataclass(eq=False)
class _Part:
    """A part that is to be written: one target and seed, all variants."""

    path: Path
    generator: Generator
    target: Target
    seed: int
    forms: Forms
    units: dict[Variant, Unit]
    rows: dict[tuple[Variant, int], Row]
    waiting: set[tuple[Variant, int]]


def measure(
    generator: Generator,
    targets: Sequence[Target],
    units: Units,
    settings: EvaluationSettings,
    out: Path,
    pool: WorkerPool,
) -> tuple[list[Path], list[Refused]]:
    """Compute the metrics that are not there yet.

    Args:
        generator: whose proposals.
        targets: those whose proposals could be drawn.
        units: of the generator.
        settings: of the evaluation.
        out: folder of the evaluation.
        pool: worker processes.

    Returns:
        Parts of this generator, in the order of targets and seeds, and targets that cannot be
        compared with.

    Raises:
        StorageFullError: no space left.
        RunFailedError: a part is damaged.
    """
    folder = out / METRICS_FOLDER / generator.method
    make_folder(folder)
    paths: list[Path] = []
    refused: list[Refused] = []
    missing: list[_Part] = []
    for target in targets:
        try:
            forms = make_forms(target.forms, settings.official)
        except ValueError as error:
            refused.append(Refused(target.name, str(error)))
            continue
        for seed in settings.seeds:
            own = {
                variant: units[target.molecule_name, target.z, seed, sampling]
                for variant, sampling in generator.sampling.items()
            }
            key = _key(own, forms, settings)
            path = folder / f"{target.name}-s{seed}-{key[:8]}.parquet"
            paths.append(path)
            if not path.is_file():
                missing.append(_Part(path, generator, target, seed, forms, own, {}, set()))
    _measure_missing(missing, len(paths), settings.n, pool)
    return paths, refused


def read_part(path: Path) -> pa.Table:
    """A part.

    Raises:
        RunFailedError: it is damaged.
    """
    try:
        return pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise RunFailedError(
            f"The table {path} is damaged; remove it and give the same command again, which "
            "computes it anew."
        ) from error


def _key(units: dict[Variant, Unit], forms: Forms, settings: EvaluationSettings) -> str:
    """What the metrics of a part depend on."""
    sources = {}
    for variant, unit in units.items():
        run, stage = RunStore(unit.folder), _stage(variant)
        attempts = [a.attempt for a in run.attempts("generate", range(settings.n)).values()]
        attempts += [a.attempt for a in run.attempts(stage, range(settings.n)).values()]
        sources[variant] = [run.plan.key(stage), sum(attempts)]
    known = np.concatenate([forms.amd.reshape(-1), forms.rdf.reshape(-1), forms.volume])
    return digest(
        {
            "version": SCORING_VERSION,
            "n": settings.n,
            "official": settings.official,
            "sources": sources,
            "labels": list(forms.labels),
            "forms": known.tolist(),
        }
    )


def _stage(variant: Variant) -> str:
    return "hydrogenate" if variant == "repaired" else "generate"


def _measure_missing(parts: list[_Part], total: int, n: int, pool: WorkerPool) -> None:
    """Measure the proposals of `parts`, those that are missing of a total, by the same workers."""
    if not parts:
        return
    generator = parts[0].generator
    label = f"measure {generator.method}"
    each = n * len(generator.sampling)
    sink = progress.current()
    sink.start(label, total * each, {str(Status.OK): (total - len(parts)) * each})
    owners: list[tuple[_Part, Variant]] = []

    def groups() -> Iterator[tuple[list[tuple[Any, Row]], tuple[Any, ...]]]:
        for part in parts:
            loaded = {variant: _load(unit, variant, n) for variant, unit in part.units.items()}
            part.rows = {
                (variant, index): {**_identity(part, variant, row), **timing}
                for variant, rows in loaded.items()
                for index, (row, timing) in rows.items()
            }
            part.waiting = set(part.rows)
            if not part.waiting:  # no proposal was wanted of it, and none is there
                _write(part)
            for variant, rows in loaded.items():
                indices = sorted(rows)
                for begin in range(0, len(indices), _BLOCK):
                    block = indices[begin : begin + _BLOCK]
                    members = [((len(owners), index), rows[index][0]) for index in block]
                    owners.append((part, variant))
                    yield members, (part.target.smiles, part.forms)

    try:
        for outcome in pool.map_groups(score_members, groups(), timeout_s=_TIMEOUT_S):
            go_on()  # the outcomes of a stopped pool say nothing about the candidates
            key: Any = outcome.key
            number, index = int(key[0]), int(key[1])
            part, variant = owners[number]
            measured = outcome.value
            if not isinstance(measured, dict):
                reason = ERRORS.get(outcome.error or "", Reason.INTERNAL)
                detail = shorten(outcome.detail or "")
                measured = {"status": "failed", "reason": str(reason), "detail": detail}
            part.rows[variant, index].update(measured)
            part.waiting.discard((variant, index))
            sink.advance(label, measured["status"])
            if not part.waiting:
                _write(part)
    finally:
        sink.finish(label)


def _load(unit: Unit, variant: Variant, n: int) -> dict[int, tuple[Row, Row]]:
    """Rows of the proposals of a variant, with the times that they took, by index."""
    loaded = {}
    repaired = proposals(unit, "hydrogenate", n) if variant == "repaired" else {}
    for index, row in proposals(unit, "generate", n).items():
        # What was refused before it was drawn took no time, which is not the same as being quick.
        timing = {"wall_s": row.get("wall_s") or None, "repair_s": None}
        if variant == "repaired" and row["status"] == Status.OK:
            # What was no crystal before the repair is none after it and has no row there.
            after = repaired.get(index)
            if after is None:
                raise RunFailedError(f"Candidate {index} of {unit.folder} was not repaired.")
            row, timing["repair_s"] = after, after.get("wall_s")  # noqa: PLW2901
        loaded[index] = (row, timing)
    return loaded


def _identity(part: _Part, variant: Variant, row: Row) -> Row:
    return {
        "generator": part.generator.method,
        "variant": variant,
        "target": part.target.name,
        "molecule": part.target.molecule_name,
        "smiles": part.target.smiles,
        "seed": part.seed,
        "index": row["index"],
        "candidate_id": row["candidate_id"],
        "z": row["z"],
        "device": row.get("device"),
    }


def _write(part: _Part) -> None:
    rows = [part.rows[key] for key in sorted(part.rows)]
    table = pa.Table.from_pylist(rows, schema=PARTS)
    with storage_errors(part.path.parent), atomic_path(part.path) as temporary:
        pq.write_table(table, temporary, compression="zstd")
    part.rows.clear()
