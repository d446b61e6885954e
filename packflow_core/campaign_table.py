"""What became of the targets of a campaign: two tables, read from the run folders alone.

`campaign.parquet` has one row a target, `known_forms.parquet` one row a known form and target.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from packflow_core.campaign import CampaignTarget
from packflow_core.campaign_cells import best_agreement
from packflow_core.chem.molecule import Molecule
from packflow_core.errors import PackflowError, RunFailedError, TooManyFailuresError
from packflow_core.spec import RunSpec
from packflow_core.stages.finish import RANKED
from packflow_core.stages.pipeline import verdict
from packflow_core.stages.run_store import RUN_JSON, RunStore

Row = dict[str, Any]


class TargetStatus(StrEnum):
    """How far a target came."""

    FINISHED = "finished"
    TOO_MANY_FAILURES = "too_many_failures"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    RUNNING = "running"
    NOT_STARTED = "not_started"


def _field(name: str, kind: pa.DataType, description: str, unit: str = "") -> pa.Field:
    metadata = {"description": description, **({"unit": unit} if unit else {})}
    return pa.field(name, kind, metadata=metadata)


_S, _I, _F, _B = pa.string(), pa.int64(), pa.float64(), pa.bool_()

TARGET_SCHEMA = pa.schema(
    [
        _field("campaign", _S, "name of the campaign"),
        _field("target", _S, "name of the target"),
        _field("label", _S, "what it is called elsewhere"),
        _field("blind_test", _I, "number of the blind test"),
        _field("tier", _S, "flexibility: rigid, moderate or flexible"),
        _field("smiles", _S, "canonical SMILES"),
        _field("formula", _S, "Hill formula"),
        _field("method", _S, "how candidates were generated"),
        _field("engine", _S, "energy engines, in their order"),
        _field("status", _S, ", ".join(TargetStatus)),
        _field("reason", _S, "why it is not finished, in one sentence; empty otherwise"),
        _field("n", _I, "candidates asked for"),
        _field("n_generated", _I, "candidates that the generator made"),
        _field("n_relaxed", _I, "candidates that ended ok in the last relaxation"),
        _field("n_failed", _I, "candidates that failed in any stage"),
        _field("n_ranked", _I, "candidates in the ranking"),
        _field("n_distinct", _I, "distinct structures in the ranking"),
        _field("best_space_group", _S, "space group of the lowest structure"),
        _field("best_z", _I, "molecules in its cell"),
        _field("best_density_g_cm3", _F, "its density", "g/cm3"),
        _field("second_kJ_mol", _F, "energy of the second distinct structure", "kJ/mol"),
        _field("known_density_g_cm3", _F, "density of the densest known form", "g/cm3"),
        _field("n_known", _I, "known forms with a cell"),
        _field("n_cells_found", _I, "of those, with a candidate of the same cell"),
        _field("reference_rank", _I, "best rank that matches the reference CIF; null without one"),
        _field("match_rmsd_A", _F, "RMSD of that match", "Å"),
        _field("work_s", _F, "working time of all candidates, all stages", "s"),
        _field("s_per_candidate", _F, "working time a candidate", "s"),
        _field("folder", _S, "run folder"),
    ]
)
FORM_SCHEMA = pa.schema(
    [
        _field("target", _S, "name of the target"),
        _field("refcode", _S, "refcode of the known form"),
        _field("space_group", _S, "published space group"),
        _field("z", _I, "published molecules in the cell"),
        _field("density_g_cm3", _F, "published density", "g/cm3"),
        _field("has_cell", _B, "whether there is a published cell to compare with"),
        _field("rank", _I, "rank of the best candidate with the same cell; null where none has it"),
        _field("candidate_id", _S, "that candidate"),
        _field("energy_kJ_mol", _F, "its energy above the lowest structure", "kJ/mol"),
        _field("candidate_density_g_cm3", _F, "its density", "g/cm3"),
        _field("same_space_group", _B, "whether its space group is the published one"),
    ]
)

_COLUMNS = (
    "rank", "candidate_id", "z", "volume_A3", "cell", "density_g_cm3", "space_group",
    "space_group_number", "lattice_energy_rel_kJ_mol", "representative", "matches_reference",
    "match_rmsd_A",
)  # fmt: skip


@dataclass(frozen=True)
class TargetRun:
    """A target with its run.

    Attributes:
        target: of the campaign.
        spec: what its run was asked for; None when that was refused.
        folder: of its run.
        problem: what went wrong, as told by whoever ran it; empty when nothing did.
    """

    target: CampaignTarget
    spec: RunSpec | None
    folder: Path
    problem: str = ""


def target_row(campaign: str, run: TargetRun) -> tuple[Row, list[Row]]:
    """Row of a target and rows of its known forms.

    A run folder that is damaged is a status with a reason, never an error.
    """
    target = run.target
    molecule = Molecule.from_smiles(target.smiles)
    densities = [form.density for form in target.known if form.density is not None]
    row: Row = dict.fromkeys(TARGET_SCHEMA.names) | {
        "campaign": campaign,
        "target": target.name,
        "label": target.label,
        "blind_test": target.blind_test,
        "tier": target.tier,
        "smiles": molecule.smiles,
        "formula": molecule.formula,
        "status": str(TargetStatus.FAILED if run.problem else TargetStatus.NOT_STARTED),
        "reason": run.problem,
        "known_density_g_cm3": max(densities, default=None),
        "n_known": sum(form.cell is not None for form in target.known),
        "folder": str(run.folder),
    }
    if run.spec is not None:
        row |= {
            "method": run.spec.method,
            "engine": ", ".join(run.spec.engines),
            "n": run.spec.n,
        }
    ranked: list[Row] = []
    if (run.folder / RUN_JSON).is_file():
        try:
            store = RunStore(run.folder)
            ranked = _read_ranked(run.folder)
            row |= _counts(store, ranked)
            row["status"], row["reason"] = _status(store, run.problem)
        except PackflowError as error:
            row |= {"status": str(TargetStatus.FAILED), "reason": str(error)}
    forms = _form_rows(target, ranked)
    if row["n_ranked"] and row["n_known"]:
        row["n_cells_found"] = sum(form["rank"] is not None for form in forms)
    return row, forms


def _status(store: RunStore, problem: str) -> tuple[str, str]:
    state = store.status
    if state == "finished":
        error = verdict(store)
        if error is None:
            return str(TargetStatus.FINISHED), ""
        many = isinstance(error, TooManyFailuresError)
        status = TargetStatus.TOO_MANY_FAILURES if many else TargetStatus.FAILED
        return str(status), str(error)
    if state == "running":
        return str(TargetStatus.RUNNING), problem
    if state == "interrupted" and not problem:
        return str(TargetStatus.INTERRUPTED), f"Continue it with 'csp resume {store.folder}'."
    return str(TargetStatus.FAILED), problem or str(
        store.content["sessions"][-1].get("error", "the run broke")
    )


def _counts(store: RunStore, ranked: list[Row]) -> Row:
    ledger = store.ledger()
    work = sum(stage.wall_s for stage in ledger)
    in_order = [row for row in ranked if row.get("rank") is not None]
    distinct = [row for row in in_order if row.get("representative")]
    matches = [row for row in in_order if row.get("matches_reference")]
    best = in_order[0] if in_order else {}
    return {
        "n": store.plan.spec.n,
        "n_generated": ledger[0].ok,
        "n_relaxed": ledger[-2].ok,
        "n_failed": sum(stage.failed for stage in ledger),
        "n_ranked": len(in_order),
        "n_distinct": len(distinct),
        "best_space_group": best.get("space_group"),
        "best_z": best.get("z"),
        "best_density_g_cm3": best.get("density_g_cm3"),
        "second_kJ_mol": distinct[1]["lattice_energy_rel_kJ_mol"] if len(distinct) > 1 else None,
        "reference_rank": matches[0]["rank"] if matches else None,
        "match_rmsd_A": matches[0]["match_rmsd_A"] if matches else None,
        "work_s": work,
        "s_per_candidate": work / ledger[0].attempted if ledger[0].attempted else None,
    }


def _form_rows(target: CampaignTarget, ranked: list[Row]) -> list[Row]:
    rows = []
    for form in target.known:
        found = best_agreement(form, ranked)
        rows.append(
            {
                "target": target.name,
                "refcode": form.refcode,
                "space_group": form.space_group,
                "z": form.z,
                "density_g_cm3": form.density,
                "has_cell": form.cell is not None,
                "rank": found.rank if found else None,
                "candidate_id": found.candidate_id if found else None,
                "energy_kJ_mol": found.energy_kJ_mol if found else None,
                "candidate_density_g_cm3": found.density_g_cm3 if found else None,
                "same_space_group": found.same_space_group if found else None,
            }
        )
    return rows


def _read_ranked(folder: Path) -> list[Row]:
    """Rows of the ranked table, best first, without coordinates; empty before there is one."""
    path = folder / RANKED
    if not path.is_file():
        return []
    try:
        present = set(pq.read_schema(path).names)
        rows: list[Row] = pq.read_table(
            path, columns=[name for name in _COLUMNS if name in present]
        ).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise RunFailedError(
            f"{path} is damaged; 'csp report {folder}' writes it again."
        ) from error
    return rows


def campaign_tables(campaign: str, runs: Iterable[TargetRun]) -> tuple[list[Row], list[Row]]:
    """Rows of all targets, and of their known forms, in the order of the runs."""
    targets: list[Row] = []
    forms: list[Row] = []
    for run in runs:
        row, its_forms = target_row(campaign, run)
        targets.append(row)
        forms += its_forms
    return targets, forms
