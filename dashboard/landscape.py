"""Density against relative energy of all candidates of a target, from one run or several."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from dashboard.runs import RunView
from packflow_core.analysis.ranking import EV_TO_KJ_MOL
from packflow_core.store.schema import stage_kind

_SCREW = re.compile("_([0-9])")
_SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")

#: What points can be coloured by: name of the choice to column.
COLOUR_BY = {
    "method": "method",
    "generator": "generator",
    "space group": "space_group",
    "cluster": "cluster_name",
    "Z": "z_name",
}


@dataclass(frozen=True, eq=False)
class Landscape:
    """Candidates of one target.

    Attributes:
        frame: one row per candidate with the columns `run` (identity), `index`, `density` (g/cm3),
            `energy` (kJ/mol per molecule above the zero), `rank`, `cluster`, `cluster_size`,
            `representative`, `match`, `match_rmsd` (Å), `z` and the columns that `COLOUR_BY`
            names; ordered by energy.
        notes: sentences that a reader of the picture must know.
        stages: stage that gave the energies, by run.
    """

    frame: pd.DataFrame
    notes: tuple[str, ...]
    stages: dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.frame)


def make_landscape(runs: Sequence[RunView]) -> Landscape:
    """The landscape of runs of one target.

    A run gives the energies of its last relaxation that has any; what the ranking rejected is left
    out. Energies of one engine share their zero, the lowest of them.
    """
    frames, notes, engines = [], [], []
    stages: dict[str, str] = {}
    for run in runs:
        frame, stage, note = _of_run(run)
        notes += [note] if note else []
        if len(frame):
            stages[run.id] = stage
            engine = run.store.plan.stages[stage].identity
            frames.append(frame)
            engines.append(engine)
    if not frames:
        return Landscape(_empty(), tuple(notes))
    if len(set(engines)) > 1:
        notes.append(
            "The runs end with different engines: each engine has a zero of its own, and energies "
            "of two engines must not be compared."
        )
    zeros: dict[str, float] = {}
    for frame, engine in zip(frames, engines, strict=True):
        zeros[engine] = min(zeros.get(engine, np.inf), float(frame["energy_eV"].min()))
    for frame, engine in zip(frames, engines, strict=True):
        frame["energy"] = (frame["energy_eV"] - zeros[engine]) * EV_TO_KJ_MOL
    # Clusters are numbered within a run.
    whole = pd.concat(frames, ignore_index=True).sort_values("energy", kind="stable")
    return Landscape(whole.reset_index(drop=True), tuple(notes), stages)


def _of_run(run: RunView) -> tuple[pd.DataFrame, str, str]:
    """Candidates of a run with `energy_eV` per molecule, the stage it is from, and a note."""
    names = [name for name in run.store.plan.stage_names if stage_kind(name) == "relax"]
    ranked = next(stage.goes_on for stage in run.stages if stage.name == "rank")
    for name in reversed(names):
        table = run.tables[name].frame
        good = table[table["status"].isin(ranked).to_numpy()]
        good = good[np.isfinite(_floats(good["energy_eV"])) & np.isfinite(_floats(good["z"]))]
        if len(good):
            break
    else:
        return _empty(), "", f"{run.label} has no relaxed candidate yet."
    rank = run.tables["rank"].frame
    lost = rank[(~rank["status"].isin(ranked)).to_numpy()]
    good = good[~good["index"].isin(lost["index"]).to_numpy()]
    frame = pd.DataFrame(
        {
            "run": run.id,
            "index": good["index"].to_numpy(),
            "density": _floats(good["density_g_cm3"]),
            "energy_eV": _floats(good["energy_eV"]) / _floats(good["z"]),
            "z": good["z"].to_numpy(),
            "method": run.method,
            "generator": run.generator,
        }
    )
    frame = frame.merge(_rank_columns(rank), how="left", on="index")
    if "rank" in run.ranked:
        frame = frame.merge(run.ranked, how="left", on="index")
    for missing in ("rank", "cluster", "cluster_size"):
        if missing not in frame:
            frame[missing] = np.nan
    if "representative" not in frame:
        frame["representative"] = True
    frame["representative"] = frame["representative"].isin([True]) | frame["rank"].isna()
    frame["cluster_name"] = [
        "not ranked" if pd.isna(number) else f"cluster {int(number)}" for number in frame["cluster"]
    ]
    frame["z_name"] = [f"Z = {number}" for number in frame["z"]]
    note = ""
    if name != names[-1]:
        note = f"{run.label}: energies are those of stage {name}; {names[-1]} has none yet."
    elif run.status != "finished" or frame["rank"].isna().any():
        unranked = int(frame["rank"].isna().sum())
        if unranked:
            note = f"{run.label}: {unranked:,} candidates are relaxed but not ranked yet."
    return frame, name, note


def _rank_columns(rank: pd.DataFrame) -> pd.DataFrame:
    groups = rank["space_group"].astype(object).map(_with_subscripts, na_action="ignore")
    return pd.DataFrame(
        {
            "index": rank["index"].to_numpy(),
            "space_group": groups.fillna("unknown").to_numpy(dtype=object),
            "match": rank["matches_reference"].isin([True]).to_numpy(),
            "match_rmsd": _floats(rank["match_rmsd_A"]),
        }
    )


def _with_subscripts(symbol: Any) -> str:
    """Hermann-Mauguin symbol with its screw axes as printed: P2_1/c becomes P2₁/c."""
    return _SCREW.sub(lambda found: found[1].translate(_SUBSCRIPTS), str(symbol))


def _floats(column: pd.Series[Any]) -> np.ndarray[Any, np.dtype[np.float64]]:
    values: np.ndarray[Any, np.dtype[np.float64]] = column.to_numpy(
        dtype=np.float64, na_value=np.nan
    )
    return values


def _empty() -> pd.DataFrame:
    names = (
        "run", "index", "density", "energy_eV", "energy", "z", "method",
        "generator", "space_group", "match", "match_rmsd", "rank", "cluster", "cluster_size",
        "representative", "cluster_name", "z_name",
    )  # fmt: skip
    return pd.DataFrame({name: [] for name in names})
