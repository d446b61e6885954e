"""The table of `csp free-energy`, and what it says in sentences."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from packflow_core.store.rows import Row
from packflow_core.trust.harmonic import SOFT_THZ, THZ_TO_CM1


def _column(name: str, kind: pa.DataType, description: str, unit: str = "") -> pa.Field:
    told = {"description": description, **({"unit": unit} if unit else {})}
    return pa.field(name, kind, metadata=told)


_S, _I, _F, _IL = pa.string(), pa.int64(), pa.float64(), pa.list_(pa.int64())
_FL = pa.list_(pa.float64())
_PER = "kJ/mol per molecule"

FREE_ENERGY_SCHEMA = pa.schema(
    [
        _column("candidate_id", _S, "identity of the candidate"),
        _column("index", _I, "position of the candidate in its target's sampling sequence"),
        _column("rank", _I, "rank in the run's table, by lattice energy"),
        _column("cluster", _I, "duplicate cluster"),
        _column("z", _I, "molecules in the cell"),
        _column("engine", _S, "identity of the engine"),
        _column("energy_eV", _F, "energy of the cell that was ranked", "eV"),
        _column("temperature_K", _F, "temperature of the free energies", "K"),
        _column("supercell", _IL, "repeats of the cell along a, b, c"),
        _column("n_molecules", _I, "molecules in the supercell"),
        _column("symmetry", _S, "space group that was made exact and used"),
        _column("n_displacements", _I, "displaced supercells, after symmetry"),
        _column("static_rel_kJ_mol", _F, "energy relaxed tighter, above the lowest", _PER),
        _column("zero_point_kJ_mol", _F, "zero-point energy", _PER),
        _column("vibrational_kJ_mol", _F, "vibrational free energy at the temperature", _PER),
        _column("free_energy_rel_kJ_mol", _F, "static and vibrational, above the lowest", _PER),
        _column("free_energy_rank", _I, "rank among these by free energy"),
        _column("n_imaginary", _I, "imaginary modes: the crystal is no minimum"),
        _column("n_soft", _I, "modes within 3.3 1/cm of zero, the translations left out"),
        _column("lowest_cm1", _F, "lowest mode; negative where imaginary", "1/cm"),
        _column("frequencies_cm1", _FL, "all modes of the supercell, without translations", "1/cm"),
        _column("temperatures_K", _FL, "temperatures of the curve", "K"),
        _column("vibrational_curve_kJ_mol", _FL, "vibrational free energy there", _PER),
        _column("problem", _S, "why there is no free energy; else empty"),
    ]
)


@dataclass(frozen=True)
class FreeEnergies:
    """What `csp free-energy` found.

    Attributes:
        engine: identity of the engine.
        temperature_K: K.
        rows: one per structure, by rank; columns of `FREE_ENERGY_SCHEMA`.
        findings: sentences for people.
    """

    engine: str
    temperature_K: float
    rows: list[Row] = field(default_factory=list)
    findings: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """For JSON: everything but the lists of frequencies."""
        left_out = ("frequencies_cm1",)
        return {
            "engine": self.engine,
            "temperature_K": self.temperature_K,
            "findings": list(self.findings),
            "structures": [
                {k: v for k, v in row.items() if k not in left_out} for row in self.rows
            ],
        }


def free_energy_findings(rows: list[Row]) -> list[str]:
    """Sentences about the rows of a table."""
    known = [row for row in rows if row.get("free_energy_rank") is not None]
    found = []
    if known:
        temperature = known[0]["temperature_K"]
        change = {
            row["rank"]: row["free_energy_rel_kJ_mol"] - row["static_rel_kJ_mol"] for row in known
        }
        first = f"Harmonic free energies at {temperature:g} K"
        if len(known) > 1:
            spread = max(change.values()) - min(change.values())
            found.append(
                f"{first}: vibrations change the differences of the best {len(known)} structures "
                f"by up to {spread:.1f} kJ/mol."
            )
            static = [row["rank"] for row in sorted(known, key=lambda r: r["static_rel_kJ_mol"])]
            free = [row["rank"] for row in sorted(known, key=lambda r: r["free_energy_rank"])]
            order = ", ".join(map(str, free))
            found.append(
                f"Their order at {temperature:g} K is that of the energies, {order}."
                if static == free
                else f"Their order at {temperature:g} K is {order} (ranks of the run); by energy "
                f"it is {', '.join(map(str, static))}."
            )
        else:
            found.append(f"{first} of one structure say nothing about an order.")
        if len({row["n_molecules"] for row in known}) > 1:
            found.append(
                "Their supercells hold different numbers of molecules and so miss different "
                "shares of the lattice modes: compare them with '--supercell equal'."
            )
    for row in known:
        if row["n_imaginary"]:
            many = f"{row['n_imaginary']} imaginary mode{'s' if row['n_imaginary'] > 1 else ''}"
            found.append(
                f"Rank {row['rank']} has {many} (the lowest {-row['lowest_cm1']:.0f}i 1/cm): it "
                "is no minimum of this supercell, and its free energy is a guess."
            )
        if row["n_soft"]:
            found.append(
                f"Rank {row['rank']} has {row['n_soft']} modes below {SOFT_THZ * THZ_TO_CM1:.1f} "
                "1/cm, whose frequencies are not known: its free energy is a guess."
            )
    found += [
        f"Rank {row['rank']} has no free energy: {row['problem']}."
        for row in rows
        if row["problem"]
    ]
    return found
