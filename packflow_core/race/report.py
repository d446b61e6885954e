"""A comparison as files: numbers for programs, pages for people, figures for both."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from packflow_core.race.comparison import Comparison
from packflow_core.race.figures import write_figures
from packflow_core.race.legs import Leg
from packflow_core.race.page import markdown
from packflow_core.race.tables import Document
from packflow_core.stages.run_store import now, versions
from packflow_core.store.atomic import atomic_path, storage_errors, write_bytes, write_json

PARQUET = "comparison.parquet"
JSON = "comparison.json"
MARKDOWN = "comparison.md"
CANDIDATES = "candidates.parquet"
CURVES = "curves.parquet"

_METRIC_COLUMNS = (
    ("leg", pa.string(), "leg", ""),
    ("other", pa.string(), "second leg of an overlap or difference (leg minus other)", ""),
    ("kind", pa.string(), "value, overlap or difference", ""),
    ("metric", pa.string(), "name of the number", ""),
    ("value", pa.float64(), "the number; null where it does not exist", ""),
    ("low", pa.float64(), "lower end of the interval; null where there is none", ""),
    ("high", pa.float64(), "upper end of the interval; null where there is none", ""),
    ("unit", pa.string(), "unit of value, low and high; empty for counts and fractions", ""),
    ("interval", pa.string(), "how the interval was made", ""),
    ("n", pa.int64(), "candidates that the number is about", ""),
    ("description", pa.string(), "meaning", ""),
)
_CANDIDATE_COLUMNS = (
    ("leg", pa.string(), "leg", ""),
    ("index", pa.int64(), "position of the candidate in its run", ""),
    ("outcome", pa.string(), "ranked, unconverged, rejected or failed", ""),
    ("stage", pa.string(), "stage that it ended in", ""),
    ("reason", pa.string(), "why it is not ranked", ""),
    ("cpu_s", pa.float64(), "working time on CPUs, generation to last relaxation", "s"),
    ("gpu_s", pa.float64(), "working time on GPUs, generation to last relaxation", "s"),
    ("density_before_g_cm3", pa.float64(), "density at the start of relax", "g/cm3"),
    ("energy_before_kJ_mol", pa.float64(), "energy there above the common zero", "kJ/mol"),
    ("density_g_cm3", pa.float64(), "density of the ranked structure", "g/cm3"),
    ("energy_kJ_mol", pa.float64(), "its energy above the common zero", "kJ/mol"),
    ("matches_reference", pa.bool_(), "ranked and the reference found again", ""),
    ("match_rmsd_A", pa.float64(), "RMSD of the matched cluster", "Å"),
    ("space_group", pa.string(), "Hermann-Mauguin symbol by spglib", ""),
    ("basin", pa.int64(), "distinct structure, numbered by energy over all legs", ""),
)
_CURVE_COLUMNS = (
    ("leg", pa.string(), "leg", ""),
    ("against", pa.string(), "candidates or seconds", ""),
    ("x", pa.float64(), "candidates, or working seconds", ""),
    ("value", pa.float64(), "expected lowest energy above the common zero", "kJ/mol"),
    ("low", pa.float64(), "lower end of its interval", "kJ/mol"),
    ("high", pa.float64(), "upper end of its interval", "kJ/mol"),
    ("found", pa.float64(), "share of the orders that found something", ""),
)


def write_comparison(race: Comparison, out: Path) -> Document:
    """Write tables, page and figures.

    Args:
        race: what was compared.
        out: folder that exists; files of an earlier comparison are replaced.

    Returns:
        What `comparison.json` holds, with the paths of the files.

    Raises:
        StorageFullError: no space left.
    """
    paths = {
        "page": out / MARKDOWN, "json": out / JSON, "numbers": out / PARQUET,
        "candidates": out / CANDIDATES, "curves": out / CURVES,
    }  # fmt: skip
    with storage_errors(out):
        _write_table(_METRIC_COLUMNS, [m.as_dict() for m in race.metrics], paths["numbers"])
        candidates = [row for k, leg in enumerate(race.legs) for row in _candidates(race, k, leg)]
        _write_table(_CANDIDATE_COLUMNS, candidates, paths["candidates"])
        _write_table(_CURVE_COLUMNS, _curve_rows(race), paths["curves"])
        figures = write_figures(race, out)
        content = document(race, {"figure": figures["race"], **paths})
        names = {name: path.name for name, path in figures.items()}
        write_bytes(paths["page"], markdown(content, names).encode())
        write_json(paths["json"], content)
    return content


def document(race: Comparison, files: dict[str, Path] | None = None) -> Document:
    """The comparison as plain types for JSON; nothing in it is NaN."""
    content: Document = _plain(
        {
            "target": race.target,
            "smiles": race.legs[0].plan.spec.smiles,
            "z": list(race.legs[0].plan.spec.z),
            "engine": race.engine,
            "budget": {
                "kind": race.budget.kind,
                "amount": race.budget.amount,
                "description": race.budget.describe(),
            },
            "zero_eV_per_molecule": race.scale.zero_eV,
            "known_form": _known(race),
            "legs": [_leg(leg, race.budget.before[leg.name]) for leg in race.legs],
            "metrics": [metric.as_dict() for metric in race.metrics],
            "remarks": list(race.remarks),
            "settings": race.settings.model_dump(mode="json"),
            "versions": versions(),
            "written": now(),
            "files": {name: str(path.resolve()) for name, path in (files or {}).items()},
        }
    )
    return content


def _leg(leg: Leg, before: int) -> dict[str, Any]:
    content = leg.content
    return {
        "name": leg.name,
        "folder": str(leg.folder.resolve()),
        "spec_hash": content.get("spec_hash"),
        "generator": leg.plan.stages["generate"].identity,
        "seed": leg.plan.spec.seed,
        "candidates": {"run": leg.n_run, "complete": before, "compared": len(leg)},
        "outcomes": {str(outcome): count for outcome, count in leg.counts().items()},
        "losses": [
            {"stage": stage, "outcome": outcome, "reason": reason, "count": count}
            for stage, outcome, reason, count in leg.losses()
        ],
        "stages": {name: {"key": s.key, "identity": s.identity}
                   for name, s in leg.plan.stages.items()},
        "hosts": list(leg.hosts),
        "devices": list(leg.devices),
        "versions": content.get("versions", {}),
    }  # fmt: skip


def _known(race: Comparison) -> dict[str, Any] | None:
    if race.scale.known_density is None:
        return None
    known = race.known
    return {
        "density_g_cm3": race.scale.known_density,
        "relaxed_density_g_cm3": race.scale.known_relaxed_density,
        "energy_kJ_mol": race.scale.known_energy,
        "matches_reference": known.matches if known else None,
        "match_rmsd_A": known.match_rmsd if known else None,
        "problem": known.problem if known else "not asked for",
    }


def _candidates(race: Comparison, position: int, leg: Leg) -> list[dict[str, Any]]:
    columns: dict[str, Any] = {
        "index": range(len(leg)),
        "outcome": map(str, leg.outcome),
        "stage": leg.stage,
        "reason": leg.reason,
        "cpu_s": leg.cpu_s,
        "gpu_s": leg.gpu_s,
        "density_before_g_cm3": leg.density_start,
        "energy_before_kJ_mol": race.scale.start_above_zero(leg.energy_start),
        "density_g_cm3": leg.density,
        "energy_kJ_mol": race.scale.above_zero(leg.energy),
        "matches_reference": leg.match if leg.has_reference else [None] * len(leg),
        "match_rmsd_A": leg.match_rmsd,
        "space_group": leg.space_group,
        "basin": [None if b < 0 else b + 1 for b in race.basins.labels[position].tolist()],
    }
    return [
        {"leg": leg.name, **dict(zip(columns, values, strict=True))}
        for values in zip(*columns.values(), strict=True)
    ]


def _curve_rows(race: Comparison) -> list[dict[str, Any]]:
    rows = []
    for leg, found in zip(race.legs, race.statistics, strict=True):
        for against, curve in (("candidates", found.by_samples), ("seconds", found.by_compute)):
            rows += [
                {"leg": leg.name, "against": against, "x": x, "value": value, "low": low,
                 "high": high, "found": share}
                for x, value, low, high, share in zip(
                    curve.x, curve.value, curve.low, curve.high, curve.found, strict=True
                )
            ]  # fmt: skip
    return rows


def _write_table(
    columns: Sequence[tuple[str, pa.DataType, str, str]], rows: list[dict[str, Any]], path: Path
) -> None:
    """Rows as Parquet, units and meaning in the metadata; NaN becomes null."""
    schema = pa.schema(
        [
            pa.field(name, kind, metadata={"description": text, **({"unit": unit} if unit else {})})
            for name, kind, text, unit in columns
        ]
    )
    table = pa.Table.from_pylist([_plain(row) for row in rows], schema=schema)
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def _plain(value: Any) -> Any:
    """Plain types: no numpy, no NaN."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
