"""Generators side by side: what each candidate cost and where its energy ended, as arrays."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from dashboard.discovery import COMPARISON_JSON
from dashboard.runs import RunView
from dashboard.targets import run_labels
from packflow_core.analysis.ranking import EV_TO_KJ_MOL
from packflow_core.store.schema import stage_kind

FloatArray = np.ndarray[Any, np.dtype[np.float64]]
_CANDIDATES = "candidates.parquet"


@dataclass(frozen=True, eq=False)
class Leg:
    """One generator; arrays are by candidate, in the order in which they were drawn.

    Attributes:
        name: of the generator.
        n: candidates.
        before: kJ/mol per molecule above the common zero, before the relaxation; NaN where none.
        after: the same after the last relaxation; NaN for candidates that did not get there.
        seconds: working time of each candidate.
        matches: candidates that match the reference.
    """

    name: str
    n: int
    before: FloatArray
    after: FloatArray
    seconds: FloatArray
    matches: int

    @property
    def ranked(self) -> int:
        """Candidates with an energy at the end."""
        return int(np.isfinite(self.after).sum())

    @property
    def lowest(self) -> str:
        """The lowest energy at the end, as text."""
        return f"{np.nanmin(self.after):.2f}" if self.ranked else ""

    @property
    def hours(self) -> float:
        """Working time of all candidates."""
        return float(self.seconds.sum() / 3600.0)

    def within(self, window: float) -> int:
        """Candidates at most so many kJ/mol above the common zero."""
        return int((self.after <= window).sum())

    def best_so_far(self) -> FloatArray:
        """[n] lowest energy among the first k candidates; NaN before the first."""
        filled = np.where(np.isfinite(self.after), self.after, np.inf)
        best = np.minimum.accumulate(filled)
        return np.where(np.isfinite(best), best, np.nan)


@dataclass(frozen=True)
class Legs:
    """Legs with a common zero, and sentences that a reader must know."""

    legs: tuple[Leg, ...]
    notes: tuple[str, ...] = ()


def legs_of_runs(runs: Sequence[RunView]) -> Legs:
    """Legs of runs of one target; the zero is the lowest energy of all."""
    labels = run_labels(runs)
    raw = [_of_run(run) for run in runs]
    notes = []
    if len({run.engine for run in runs}) > 1:
        notes.append("The runs end with different engines; their energies must not be compared.")
    unfinished = [name for name, run in zip(labels, runs, strict=True) if run.status != "finished"]
    if unfinished:
        notes.append(
            f"Not finished: {', '.join(unfinished)}. Candidates that end quickly come first, so an "
            "unfinished run is no fair sample."
        )
    lowest = [float(np.nanmin(after)) for _, after, _, _ in raw if np.isfinite(after).any()]
    zero = min(lowest, default=0.0)
    legs = tuple(
        Leg(name, run.n, (b - zero) * EV_TO_KJ_MOL, (a - zero) * EV_TO_KJ_MOL, seconds, matches)
        for name, run, (b, a, seconds, matches) in zip(labels, runs, raw, strict=True)
    )
    return Legs(legs, tuple(notes))


def _of_run(run: RunView) -> tuple[FloatArray, FloatArray, FloatArray, int]:
    """Energies before and after in eV per molecule, seconds, matches."""
    n = run.n
    before, after, seconds = np.full(n, np.nan), np.full(n, np.nan), np.zeros(n)
    ranked = next(stage.goes_on for stage in run.stages if stage.name == "rank")
    names = [name for name in run.store.plan.stage_names if stage_kind(name) == "relax"]
    for name, table in run.tables.items():
        frame = _inside(table.frame, n)
        index = frame["index"].to_numpy()
        if stage_kind(name) != "rank":
            seconds[index] += frame["wall_s"].fillna(0.0).to_numpy(dtype=np.float64)
        if name == names[0]:
            before[index] = _per_molecule(frame, "energy_start_eV")
        if name == names[-1]:
            good = frame["status"].isin(ranked).to_numpy()
            after[index[good]] = _per_molecule(frame[good], "energy_eV")
    rank = _inside(run.tables["rank"].frame, n)
    lost = ~rank["status"].isin(ranked).to_numpy()
    after[rank["index"].to_numpy()[lost]] = np.nan
    return before, after, seconds, int(rank["matches_reference"].isin([True]).sum())


def _inside(frame: pd.DataFrame, n: int) -> pd.DataFrame:
    return frame[((frame["index"] >= 0) & (frame["index"] < n)).to_numpy()]


def _per_molecule(frame: pd.DataFrame, column: str) -> FloatArray:
    energy = frame[column].to_numpy(dtype=np.float64, na_value=np.nan)
    z = frame["z"].to_numpy(dtype=np.float64, na_value=np.nan)
    values: FloatArray = energy / z
    return np.where(np.isfinite(values), values, np.nan)


def comparison_options(folders: Mapping[str, Path]) -> list[dict[str, str]]:
    """Choices of a menu of comparisons; one that cannot be read is named by its folder."""
    options = []
    for identity, folder in sorted(folders.items(), key=lambda item: str(item[1])):
        content = _json(folder)
        target = str(content.get("target", "")) if content else ""
        options.append({"label": f"comparison {target} in {folder}", "value": identity})
    return options


def legs_of_comparison(folder: Path) -> Legs:
    """Legs of a folder that `csp compare` wrote."""
    try:
        frame = pq.read_table(folder / _CANDIDATES).to_pandas()
        legs = []
        for name, part in frame.groupby("leg", sort=False):
            ordered = part.sort_values("index")
            seconds = (ordered["cpu_s"].fillna(0) + ordered["gpu_s"].fillna(0)).to_numpy(np.float64)
            legs.append(
                Leg(
                    str(name), len(ordered),
                    ordered["energy_before_kJ_mol"].to_numpy(np.float64, na_value=np.nan),
                    ordered["energy_kJ_mol"].to_numpy(np.float64, na_value=np.nan),
                    seconds, int(ordered["matches_reference"].isin([True]).sum()),
                )
            )  # fmt: skip
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        why = " ".join(str(error).split())[:200]
        return Legs((), (f"The comparison in {folder} cannot be read ({why}).",))
    content = _json(folder) or {}
    budget = content.get("budget")
    words = budget.get("description") if isinstance(budget, dict) else None
    return Legs(tuple(legs), (str(words),) if words else ())


def _json(folder: Path) -> dict[str, Any] | None:
    try:
        content = json.loads((folder / COMPARISON_JSON).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None
