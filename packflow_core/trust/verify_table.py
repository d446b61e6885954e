"""The table of `csp verify`: one row per verified structure, with units."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from packflow_core.store.rows import Row


def _column(name: str, kind: pa.DataType, description: str, unit: str = "") -> pa.Field:
    told = {"description": description, **({"unit": unit} if unit else {})}
    return pa.field(name, kind, metadata=told)


_S, _I, _F, _IL = pa.string(), pa.int64(), pa.float64(), pa.list_(pa.int64())
_FL = pa.list_(pa.float64())
_PER = "kJ/mol per molecule"

VERIFY_SCHEMA = pa.schema(
    [
        _column("candidate_id", _S, "identity of the candidate"),
        _column("index", _I, "position of the candidate in its target's sampling sequence"),
        _column("rank", _I, "rank in the run's table"),
        _column("cluster", _I, "duplicate cluster"),
        _column("z", _I, "molecules in the cell"),
        _column("engine", _S, "identity of the engine"),
        _column("energy_eV", _F, "energy of the cell that was ranked", "eV"),
        _column("lattice_energy_rel_kJ_mol", _F, "energy above the minimum of the run", _PER),
        _column("again_kJ_mol", _F, "same cell, engine prepared afresh, less the ranked one", _PER),
        _column("other_cell_kJ_mol", _F, "another cell, orientation and images, likewise", _PER),
        _column("larger_kJ_mol", _F, "a supercell with heights above 10 Å, likewise", _PER),
        _column("energy_spread_kJ_mol", _F, "largest less smallest of all energies", _PER),
        _column("energy_problem", _S, "why one of these energies is missing; else empty"),
        _column("larger_rank", _I, "rank among the verified by the energies in larger cells"),
        _column("rank_best", _I, "best rank among the verified that the spreads allow"),
        _column("rank_worst", _I, "worst rank among the verified that the spreads allow"),
        _column("swaps_with", _IL, "ranks of the verified that it may change places with"),
        _column("tight_status", _S, "status of the tighter relaxation; empty where not asked for"),
        _column("tight_problem", _S, "why it did not end ok; else empty"),
        _column("tight_energy_per_molecule_eV", _F, "energy after it", "eV"),
        _column("tight_change_kJ_mol", _F, "what it lowered the energy by, negative", _PER),
        _column("tight_volume_change_percent", _F, "what it changed the volume by", "percent"),
        _column("tight_rank", _I, "rank among the verified after it"),
        _column("tight_fmax_eV_A", _F, "largest force on an atom after it", "eV/Å"),
        _column("tight_stress_GPa", _F, "largest component of the stress after it", "GPa"),
        _column("tight_n_steps", _I, "optimiser steps of it"),
        _column("tight_positions", _FL, "Cartesian coordinates after it, 3 per atom", "Å"),
        _column("tight_cell", _FL, "cell matrix after it, rows a, b, c", "Å"),
    ]
)


@dataclass(frozen=True)
class Verification:
    """What `csp verify` found.

    Attributes:
        engine: identity of the engine.
        rows: one per verified structure, best first; columns of `VERIFY_SCHEMA`.
        tight: whether structures were relaxed tighter.
        findings: sentences for people.
    """

    engine: str
    rows: list[Row] = field(default_factory=list)
    tight: bool = False
    findings: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """For JSON: everything but the geometries."""
        left_out = ("tight_positions", "tight_cell")
        return {
            "engine": self.engine,
            "tight": self.tight,
            "findings": list(self.findings),
            "structures": [
                {k: v for k, v in row.items() if k not in left_out} for row in self.rows
            ],
        }
