"""The one place that names the columns of an evaluation, with units and meaning."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

#: One row of a table of an evaluation.
Row = dict[str, Any]

_S, _I, _F = pa.string(), pa.int64(), pa.float64()
_FL = pa.list_(pa.float32())


def _field(name: str, kind: pa.DataType, description: str, unit: str = "") -> pa.Field:
    metadata = {"description": description}
    if unit:
        metadata["unit"] = unit
    return pa.field(name, kind, metadata=metadata)


#: Metrics of a proposal against the nearest known form, by column.
METRICS = (
    "density_error_percent",
    "clash_percent",
    "amd_linf_A",
    "rdf_wasserstein_A",
    "rdf_wasserstein_short_A",
)

_IDENTITY = (
    _field("generator", _S, "what made the proposal: a baseline, or the name of a checkpoint"),
    _field("variant", _S, "raw, restarts or repaired"),
    _field("target", _S, "molecule, or molecule and form, that it is measured against"),
    _field("molecule", _S, "name of the molecule"),
    _field("smiles", _S, "canonical SMILES of the molecule"),
)

_VALUES = (
    _field("density_error_percent", _F, "absolute density error (eq. 24)", "percent"),
    _field("clash_percent", _F, "heavy atoms in a clash (eq. 25 and 26)", "percent"),
    _field("amd_linf_A", _F, "largest difference of average minimum distances (eq. 27)", "Å"),
    _field("rdf_wasserstein_A", _F, "distance of the pair distributions to 10 Å (eq. 29)", "Å"),
    _field("rdf_wasserstein_short_A", _F, "the same to 5 Å, renormalised", "Å"),
    _field("volume_ratio", _F, "volume of a molecule over that in the known form"),
    _field("bonds_ok", _F, "fraction of bonds within 0.4 Å of the covalent sum (eq. G8)"),
    _field("max_bond_error_A", _F, "largest deviation of a bond from the covalent sum", "Å"),
    _field("molecules_sound", _F, "fraction of molecules with every bond within 0.4 Å"),
)

#: One row a proposal and variant.
PROPOSALS = pa.schema(
    [
        *_IDENTITY,
        _field("seed", _I, "campaign seed"),
        _field("index", _I, "position in the sampling sequence of molecule and seed"),
        _field("candidate_id", _S, "the proposal's name in its run folder"),
        _field("z", _I, "molecules in the cell"),
        _field("status", _S, "ok: measured; otherwise why not: rejected or failed"),
        _field("reason", _S, "why the row is not ok, as in the stages of a run, or 'metrics'"),
        _field("detail", _S, "the reason in words and numbers"),
        _field("form", _S, "known form it is compared with: the nearest by AMD"),
        *_VALUES,
        _field("wall_s", _F, "time of drawing the proposal, its share of the batch", "s"),
        _field("repair_s", _F, "time of repair and relief; empty where there was none", "s"),
        _field("device", _S, "device that drew it"),
    ]
)

#: What the figures need besides; in the parts alone.
GEOMETRY = (
    _field("bond_lengths_A", _FL, "bonds between heavy atoms, all molecules", "Å"),
    _field("bond_angles_deg", _FL, "angles between them", "degrees"),
    _field("lattice_A_deg", _FL, "a, b, c, alpha, beta, gamma of the Niggli cell", "Å, degrees"),
)

PARTS = pa.schema([*PROPOSALS, *GEOMETRY])

#: One row for each generator, variant and target.
TARGETS = pa.schema(
    [
        *_IDENTITY,
        _field("z", pa.list_(_I), "molecules per cell that were proposed"),
        _field("forms", _I, "known forms"),
        _field("proposals", _I, "proposals, those that could not be measured included"),
        _field("measured", _I, "proposals with metrics"),
        *_VALUES,
        _field("wall_s", _F, "median time of drawing a proposal", "s"),
        _field("repair_s", _F, "median time of repair and relief", "s"),
        _field("best_amd_linf_A", _F, "smallest AMD distance of all proposals", "Å"),
        _field("best_form", _S, "known form that the best proposal is near"),
        _field("best_candidate", _S, "the best proposal"),
        _field("best_seed", _I, "its campaign seed"),
        _field("status", _S, "ok, or failed where nothing could be measured"),
        _field("detail", _S, "why"),
    ]
)

#: Sample efficiency: one row for each generator, variant and number of proposals.
EFFICIENCY = pa.schema(
    [
        _field("generator", _S, "generator"),
        _field("variant", _S, "raw, restarts or repaired"),
        _field("samples", _I, "proposals of a target"),
        _field("seconds", _F, "time of drawing and repairing so many, mean over targets", "s"),
        _field("best_amd_linf_A", _F, "expected smallest AMD distance, mean over targets", "Å"),
        _field("best_amd_low_A", _F, "lower end of the interval", "Å"),
        _field("best_amd_high_A", _F, "upper end of the interval", "Å"),
        _field("near", _F, "expected fraction of targets with a proposal near a known form"),
        _field("near_low", _F, "lower end of the interval"),
        _field("near_high", _F, "upper end of the interval"),
    ]
)
