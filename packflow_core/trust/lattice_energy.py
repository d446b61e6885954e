"""Lattice energies: crystals against the gas-phase molecule, as a column that says what it is."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

import pyarrow as pa

from packflow_core.engines.base import EV_TO_KJ_MOL
from packflow_core.store.rows import Row
from packflow_core.trust.gas_phase import GasPhase

#: The column of the ranked table.
LATTICE_ENERGY = "lattice_energy_kJ_mol"

#: Key of the table's metadata with the reference, as JSON.
METADATA_KEY = b"gas_phase"


def lattice_energy(energy_per_molecule_eV: float, gas: GasPhase) -> float | None:
    """Lattice energy in kJ/mol per molecule: E(crystal) / Z - E(gas); None without a reference.

    Static energies, without zero-point and thermal terms; negative for a crystal that is bound.
    """
    if gas.energy_eV is None or not math.isfinite(energy_per_molecule_eV):
        return None
    return EV_TO_KJ_MOL * (energy_per_molecule_eV - gas.energy_eV)


def with_lattice_energies(rows: Sequence[Row], gas: GasPhase) -> list[Row]:
    """Rows with the column filled for those that are ranked; empty for all others.

    Args:
        rows: of `stages.rank.rank`.
        gas: the reference, by the engine of the rows.
    """
    return [
        {
            **row,
            LATTICE_ENERGY: lattice_energy(float(row["energy_eV"]) / int(row["z"]), gas)
            if row.get("rank") is not None
            else None,
        }
        for row in rows
    ]


def with_reference(schema: pa.Schema, gas: GasPhase) -> pa.Schema:
    """The schema, whose column and table metadata name the reference."""
    told = describe_reference(gas)
    place = schema.get_field_index(LATTICE_ENERGY)
    field = schema.field(place)
    schema = schema.set(place, field.with_metadata({**(field.metadata or {}), "reference": told}))
    content = json.dumps(gas.as_dict(), ensure_ascii=False)
    return schema.with_metadata({**(schema.metadata or {}), METADATA_KEY: content.encode()})


def describe_reference(gas: GasPhase) -> str:
    """The reference, or why there is none, in one sentence."""
    if gas.energy_eV is None:
        return f"No lattice energies: {gas.reason}"
    which = "the lowest of" if gas.n_relaxed > 1 else "the only one of"
    tried = f"{gas.n_conformers} gas-phase conformer{'s' if gas.n_conformers != 1 else ''}"
    if gas.n_conformers == 1:
        which, tried = "the only", "gas-phase conformer"
    return (
        f"Lattice energies count from {gas.energy_eV:.6f} eV, {which} {tried} of {gas.smiles} "
        f"relaxed by {gas.engine}."
    )
