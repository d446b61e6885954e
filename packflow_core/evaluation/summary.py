"""From the metrics of proposals to a table of targets, sample efficiency and one document."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from packflow_core import __version__
from packflow_core.evaluation.evaluation import Evaluation
from packflow_core.evaluation.paper import TABLE_2
from packflow_core.evaluation.schema import EFFICIENCY, METRICS, TARGETS, Row
from packflow_core.evaluation.settings import EvaluationSettings
from packflow_core.evaluation.statistics import (
    Mean,
    expected_best,
    expected_near,
    mean_over_targets,
    sample_sizes,
)

FloatArray = NDArray[np.float64]

#: Everything an evaluation says, in plain types.
Document = dict[str, Any]

#: Columns that are averaged over proposals, then over targets.
AVERAGED = (*METRICS, "volume_ratio", "bonds_ok", "max_bond_error_A", "molecules_sound")
_AMD = "amd_linf_A"


def groups(evaluation: Evaluation) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Generator, variant and rows of what is compared, in the order of the settings."""
    table = evaluation.proposals
    for generator in evaluation.generators:
        for variant in generator.sampling:
            chosen = (table["generator"] == generator.method) & (table["variant"] == variant)
            yield generator.method, variant, table[chosen]


def target_rows(evaluation: Evaluation) -> list[Row]:
    """Rows of `schema.TARGETS`: every target of every generator and variant, measured or not."""
    rows = []
    for generator, variant, table in groups(evaluation):
        of_target = dict(iter(table.groupby("target", sort=False)))
        for target in evaluation.targets:
            row: Row = {
                "generator": generator, "variant": variant, "target": target.name,
                "molecule": target.molecule_name, "smiles": target.smiles,
                "z": list(target.z), "forms": len(target.forms),
            }  # fmt: skip
            own = of_target.get(target.name)
            if own is None:
                why = evaluation.impossible.get((generator, target.molecule_name))
                row |= {"proposals": 0, "measured": 0, "status": "failed", "detail": why or ""}
            else:
                row |= _of_proposals(own)
            rows.append(row)
    return rows


def _of_proposals(table: pd.DataFrame) -> Row:
    measured = table[table["status"] == "ok"]
    row: Row = {
        "proposals": len(table),
        "measured": len(measured),
        "wall_s": _median(table["wall_s"]),
        "repair_s": _median(table["repair_s"]),
    }
    if measured.empty:
        first = table.iloc[0]
        return {**row, "status": "failed", "detail": f"{first['reason']}: {first['detail']}"}
    best = measured.iloc[int(measured[_AMD].to_numpy().argmin())]
    return {
        **row,
        **{name: float(measured[name].mean()) for name in AVERAGED},
        "best_amd_linf_A": float(best[_AMD]),
        "best_form": best["form"],
        "best_candidate": best["candidate_id"],
        "best_seed": int(best["seed"]),
        "status": "ok",
        "detail": "",
    }


def efficiency_rows(evaluation: Evaluation) -> list[Row]:
    """Rows of `schema.EFFICIENCY`: the best AMD against the number of samples (fig. E.1).

    Seeds are pooled. Curves end where the first target has no more proposals.
    """
    rows: list[Row] = []
    settings = evaluation.settings
    for generator, variant, table in groups(evaluation):
        if table.empty:
            continue
        per_target = [own for _, own in table.groupby("target", sort=False)]
        sizes = sample_sizes(min(map(len, per_target)))
        best = np.stack([expected_best(_amd(own), sizes) for own in per_target])
        found = np.stack(
            [
                expected_near(int((_amd(own) <= settings.near_A).sum()), len(own), sizes)
                for own in per_target
            ]
        )
        seconds = [_seconds(own) for own in per_target]
        molecules = [str(own["molecule"].iloc[0]) for own in per_target]
        curve, share = (_mean(values, molecules, settings) for values in (best, found))
        for place, size in enumerate(sizes.tolist()):
            rows.append(
                {
                    "generator": generator, "variant": variant, "samples": size,
                    "seconds": _number(size * float(np.mean(seconds))),
                    "best_amd_linf_A": _number(curve.value[place]),
                    "best_amd_low_A": _number(curve.low[place]),
                    "best_amd_high_A": _number(curve.high[place]),
                    "near": _number(share.value[place]),
                    "near_low": _number(share.low[place]),
                    "near_high": _number(share.high[place]),
                }
            )  # fmt: skip
    return rows


def summarise(evaluation: Evaluation, targets: list[Row]) -> Document:
    """Everything in numbers; `targets` are those of `target_rows`.

    A target for which nothing could be measured has no part in means, and nothing near a form.
    """
    settings = evaluation.settings
    table = target_table(targets)
    lines = []
    for generator, variant, proposals in groups(evaluation):
        own = table[(table["generator"] == generator) & (table["variant"] == variant)]
        molecules = own["molecule"].astype(str).tolist()
        best = own["best_amd_linf_A"].to_numpy(dtype=np.float64)
        found = np.where(np.isfinite(best), best <= settings.near_A, False).astype(np.float64)
        reasons = proposals.loc[proposals["status"] != "ok", "reason"].value_counts()
        lines.append(
            {
                "generator": generator,
                "variant": variant,
                "targets": len(own),
                "targets_measured": int((own["measured"] > 0).sum()),
                "proposals": len(proposals),
                "measured": int((proposals["status"] == "ok").sum()),
                "reasons": {str(name): int(count) for name, count in reasons.items()},
                "proposals_per_target": int(own["proposals"].max()) if len(own) else 0,
                **{
                    name: _interval(_mean(own[name].to_numpy(np.float64), molecules, settings))
                    for name in (*AVERAGED, "best_amd_linf_A")
                },
                "median_best_amd_linf_A": _number(np.nanmedian(best) if _any(best) else np.nan),
                "near": _interval(_mean(found, molecules, settings)),
                "targets_near": int(found.sum()),
                "seed_deviation": _seed_deviation(proposals),
                "wall_s": _number(own["wall_s"].mean()),
                "repair_s": _number(own["repair_s"].mean()),
                "devices": sorted(proposals["device"].dropna().unique().tolist()),
            }
        )
    return {
        "version": __version__,
        "settings": settings.model_dump(mode="json"),
        "targets": len(evaluation.targets),
        "molecules": len({target.molecule_name for target in evaluation.targets}),
        "known_forms": sum(len(target.forms) for target in evaluation.targets),
        "refused": [asdict(refused) for refused in evaluation.refused],
        "impossible": [
            {"generator": generator, "molecule": molecule, "reason": reason}
            for (generator, molecule), reason in evaluation.impossible.items()
        ],
        "results": lines,
        "paper": [
            {"name": row.name, "wall_s": row.wall_s, **dict(zip(METRICS, row.metrics, strict=True))}
            for row in TABLE_2
        ],
    }


def efficiency_table(rows: list[Row]) -> pd.DataFrame:
    """Rows of `efficiency_rows` as a table."""
    return _frame(rows, EFFICIENCY)


def target_table(rows: list[Row]) -> pd.DataFrame:
    """Rows of `target_rows` as a table."""
    return _frame(rows, TARGETS)


def _frame(rows: list[Row], schema: pa.Schema) -> pd.DataFrame:
    """Rows as a table whose numbers are floats, NaN where there is none."""
    numbers = {f.name: np.float64 for f in schema if pa.types.is_floating(f.type)}
    return pd.DataFrame(rows, columns=schema.names).astype(numbers)


def _mean(values: FloatArray, molecules: list[str], settings: EvaluationSettings) -> Mean:
    return mean_over_targets(values, molecules, settings.resamples, settings.confidence)


def _interval(mean: Mean) -> dict[str, float | None]:
    return {
        "mean": _number(mean.value), "low": _number(mean.low), "high": _number(mean.high),
    }  # fmt: skip


def _seed_deviation(proposals: pd.DataFrame) -> dict[str, float | None]:
    """Standard deviation over seeds of the mean over targets; None with a single seed."""
    measured = proposals[proposals["status"] == "ok"]
    per_target = measured.groupby(["seed", "target"])[list(METRICS)].mean()
    per_seed = per_target.groupby("seed").mean()
    return {
        name: _number(per_seed[name].std(ddof=1)) if len(per_seed) > 1 else None for name in METRICS
    }


def _amd(table: pd.DataFrame) -> FloatArray:
    """[n] AMD distances of all proposals of a target; NaN where there is none."""
    return table[_AMD].where(table["status"] == "ok").to_numpy(dtype=np.float64)


def _seconds(table: pd.DataFrame) -> float:
    """Typical time of a proposal of a target, its repair included."""
    return _median(table["wall_s"]) + float(np.nan_to_num(_median(table["repair_s"])))


def _median(values: pd.Series[float]) -> float:
    known = values.dropna()
    return float(known.median()) if len(known) else math.nan


def _any(values: FloatArray) -> bool:
    return bool(np.isfinite(values).any())


def _number(value: Any) -> float | None:
    """A finite number, or None: JSON has no NaN."""
    number = float(value)
    return number if math.isfinite(number) else None
