"""The one place that names the columns of every stage, with units and meaning.

A stage table holds one row per attempted candidate. `COMMON` columns exist in every stage;
`STAGE_COLUMNS` adds what a single stage knows. Units and descriptions travel in the Parquet
field metadata, so a reader needs nothing but the file.
"""

from __future__ import annotations

import re
from enum import StrEnum

import pyarrow as pa

#: Raised when the meaning of a column changes; part of every stage key.
SCHEMA_VERSION = 2


class Status(StrEnum):
    """What became of an attempted candidate in one stage."""

    OK = "ok"
    UNCONVERGED = "unconverged"
    REJECTED = "rejected"
    FAILED = "failed"


class Reason(StrEnum):
    """Why a row is not `ok`; free text goes to the column `detail`."""

    NONE = ""
    # rejected: a filter said no
    CLASH = "clash"
    OVERLAP = "overlap"
    DENSITY = "density"
    BAD_CELL = "bad_cell"
    BROKEN_MOLECULE = "broken_molecule"
    CONNECTIVITY = "connectivity"
    PROTON_TRANSFER = "proton_transfer"
    Z_CHANGED = "z_changed"
    STEREO = "stereo"
    WINDOW = "window"
    # unconverged
    MAX_STEPS = "max_steps"
    STRESS = "stress"
    # failed: something broke
    NAN = "nan"
    EXPLODED = "exploded"
    TOPOLOGY = "topology"
    ENGINE = "engine_error"
    SCF = "scf"
    OUT_OF_MEMORY = "out_of_memory"
    TIMEOUT = "timeout"
    WORKER_LOST = "worker_lost"
    HYDROGENS = "hydrogens"
    INTERNAL = "internal_error"


#: Reasons that another attempt may cure; `csp resume --retry-failed` tries these again.
RETRYABLE = frozenset(
    {Reason.TIMEOUT, Reason.WORKER_LOST, Reason.OUT_OF_MEMORY, Reason.ENGINE, Reason.INTERNAL}
)

#: Attempts, in all, that a candidate gets within a run before a failure counts as final; 1 where
#: a reason is not named. A hang, a lost worker or full memory may be the neighbours' fault.
RETRY: dict[Reason, int] = {
    Reason.TIMEOUT: 2,
    Reason.WORKER_LOST: 2,
    Reason.OUT_OF_MEMORY: 2,
    Reason.ENGINE: 1,
    Reason.INTERNAL: 1,
}


def _field(name: str, kind: pa.DataType, description: str, unit: str = "") -> pa.Field:
    metadata = {"description": description}
    if unit:
        metadata["unit"] = unit
    return pa.field(name, kind, metadata=metadata)


_S, _I, _F, _B = pa.string(), pa.int64(), pa.float64(), pa.bool_()
_FL, _IL = pa.list_(pa.float64()), pa.list_(pa.int64())

COMMON: tuple[pa.Field, ...] = (
    _field("candidate_id", _S, "identity of the candidate from birth to rank"),
    _field("index", _I, "position of the candidate in its target's sampling sequence"),
    _field("campaign", _S, "name of the campaign"),
    _field("target", _S, "name of the target"),
    _field("method", _S, "how the candidate was generated"),
    _field("stage_key", _S, "hash of upstream key, parameters, engine and schema version"),
    _field("status", _S, "ok, unconverged, rejected or failed"),
    _field("reason", _S, "why the row is not ok; empty otherwise"),
    _field("detail", _S, "the reason in words and numbers"),
    _field("attempt", _I, "how many times this stage tried the candidate"),
    _field("wall_s", _F, "wall-clock time of the attempt", "s"),
    _field("host", _S, "machine that made the attempt"),
    _field("device", _S, "device that made the attempt"),
    _field("numbers", _IL, "atomic numbers, molecule by molecule, heavy atoms before hydrogens"),
    _field("positions", _FL, "Cartesian coordinates, 3 per atom, molecules whole", "Å"),
    _field("cell", _FL, "cell matrix, rows a, b, c", "Å"),
    _field("n_atoms", _I, "atoms in the cell"),
    _field("n_heavy", _I, "non-hydrogen atoms in the cell"),
    _field("z", _I, "molecules in the cell"),
    _field("energy_eV", _F, "potential energy of the cell", "eV"),
    _field("fmax_eV_A", _F, "largest force on a free atom", "eV/Å"),
    _field("n_steps", _I, "optimiser steps"),
    _field("density_g_cm3", _F, "density with all hydrogens of the molecule counted", "g/cm3"),
    _field("volume_A3", _F, "cell volume", "Å3"),
    _field("engine", _S, "energy engine or generator and its version"),
    _field("seed", _I, "campaign seed"),
    _field("conformer", _I, "conformer that a baseline packed, by its place in the pool"),
)

_BOND_FIELDS = (
    _field("bonds_ok", _F, "fraction of heavy-atom bonds within 0.4 Å of the covalent sum"),
    _field("max_bond_error_A", _F, "largest deviation of a bond from the covalent sum", "Å"),
)
_RELAX_FIELDS = (
    _field("stress_GPa", _F, "largest absolute component of the residual stress", "GPa"),
    _field("energy_start_eV", _F, "potential energy before the stage", "eV"),
    _field("fmax_start_eV_A", _F, "largest force on a free atom before the stage", "eV/Å"),
    _field("density_start_g_cm3", _F, "density before the stage", "g/cm3"),
    _field("protocol", _S, "relaxation protocol"),
    _field("replicas", _IL, "repetitions of the cell in which the engine was evaluated"),
    _field("trace_step", _IL, "optimiser steps of the trace, evenly spaced, and the last one"),
    _field("trace_energy_eV", _FL, "potential energy along the trace", "eV"),
    _field("trace_fmax_eV_A", _FL, "largest force on a free atom along the trace", "eV/Å"),
    _field("trace_stress_GPa", _FL, "largest component of the stress along the trace", "GPa"),
    _field("trace_volume_A3", _FL, "cell volume along the trace", "Å3"),
)

STAGE_COLUMNS: dict[str, tuple[pa.Field, ...]] = {
    "generate": (
        *_BOND_FIELDS,
        _field("space_group_drawn", _I, "space group that the generator made the candidate in"),
        _field(
            "expected_volume_A3",
            _F,
            "volume of a molecule that the model expects: median of candidates drawn together",
            "Å3",
        ),
        _field("source_id", _S, "name that the program behind a baseline gave the structure"),
    ),
    "hydrogenate": (
        *_BOND_FIELDS,
        _field("n_repaired", _I, "molecules of the cell replaced by an ETKDG conformer"),
        _field("repair_rmsd_A", _F, "largest heavy-atom RMSD of a replaced molecule", "Å"),
        _field("relief_shift_A", _F, "largest shift of a molecule that removed overlaps", "Å"),
        _field("relief_rotation_deg", _F, "largest turn of a molecule that did so", "degrees"),
        _field("relief_volume_ratio", _F, "volume of the cell after that, over the one before"),
        _field("cell_growth", _F, "isotropic growth factor of the cell that removed overlaps"),
        _field(
            "press_contact",
            _F,
            "diameter of the atoms, over the van der Waals sum, with which the press reached the "
            "expected volume; empty where it was not used",
        ),
        _field("min_contact", _F, "shortest intermolecular contact over the van der Waals sum"),
        _field("stereo_flipped", _I, "stereo centres that differ from the SMILES"),
    ),
    "relax_h": _RELAX_FIELDS,
    "relax": _RELAX_FIELDS,
    "rank": (
        _field("rank", _I, "1 for the lowest lattice energy; empty where not ranked"),
        _field("lattice_energy_rel_kJ_mol", _F, "energy per molecule above the minimum", "kJ/mol"),
        _field(
            "lattice_energy_kJ_mol",
            _F,
            "lattice energy: static energy per molecule less that of the lowest gas-phase "
            "conformer by the same engine; empty where that could not be computed",
            "kJ/mol",
        ),
        _field("energy_per_molecule_eV", _F, "potential energy per molecule", "eV"),
        _field("density_ratio", _F, "density over the one that the average volumes of atoms give"),
        _field("space_group", _S, "Hermann-Mauguin symbol by spglib"),
        _field("space_group_number", _I, "international number by spglib"),
        _field("z_prime", _F, "molecules in the asymmetric unit"),
        _field("symprec_A", _F, "tolerance at which that space group was found", "Å"),
        _field("space_group_tight", _S, "space group at the tightest tolerance of the ladder"),
        _field("space_group_loose", _S, "space group at the loosest tolerance of the ladder"),
        _field("space_group_agreement", _F, "fraction of the ladder that gives that space group"),
        _field("conformers", _IL, "nearest conformer of the pool, one per molecule of the cell"),
        _field("conformer_rmsd_A", _F, "largest heavy-atom RMSD of a molecule from it", "Å"),
        _field(
            "amd_A",
            _FL,
            "average minimum distances of the heavy atoms by element (ascending atomic number), "
            "to every fourth neighbour up to the 100th; equal crystals have equal ones",
            "Å",
        ),
        _field("cluster", _I, "duplicate cluster, numbered by energy"),
        _field("cluster_size", _I, "candidates in the cluster"),
        _field("representative", _B, "lowest-energy member of its cluster"),
        *_BOND_FIELDS,
        _field("match_rmsd_A", _F, "RMSD of the matched cluster against the reference", "Å"),
        _field("match_n", _I, "molecules of the cluster that match the reference"),
        _field("matches_reference", _B, "all molecules of the cluster match the reference"),
        _field("match_rmsd20_A", _F, "RMSD of a cluster of 20; empty unless all 15 match", "Å"),
        _field("match_n20", _I, "molecules of that cluster that match the reference"),
        _field("match_rmsd30_A", _F, "RMSD of a cluster of 30; empty unless all 20 match", "Å"),
        _field("match_n30", _I, "molecules of that cluster that match the reference"),
        _field("match_rmsd1_A", _F, "RMSD of the conformer, heavy atoms, either hand", "Å"),
        _field("match_kinds", _I, "molecules of the reference with different surroundings"),
        _field("match_kinds_found", _I, "those of them whose clusters of 20 are found whole"),
        _field(
            "match_form",
            _B,
            "clusters of 20 around every kind of molecule are found whole, those of the reference "
            "in the candidate and those of the candidate in the reference, RMSD at most 0.6 Å; "
            "empty where less than half of the first cluster matches",
        ),
        _field("match_form_rmsd_A", _F, "RMSD of the worst of these clusters", "Å"),
        _field("match_density_percent", _F, "density above that of the reference", "percent"),
        _field("match_pdd_A", _F, "earth mover's distance of the PDDs, heavy atoms", "Å"),
        _field(
            "match_structure_matcher_A",
            _F,
            "RMS displacement by pymatgen's StructureMatcher; empty where it finds no match, and "
            "where less than half of the first cluster matches",
            "Å",
        ),
        _field("match_criteria", _S, "criteria of a match that are met, see docs/matching.md"),
        _field("stress_GPa", _F, "largest absolute component of the residual stress", "GPa"),
    ),
}

#: Stages of a run that refines nothing; refinements, relax_2 and so on, come before `rank`.
STAGES = tuple(STAGE_COLUMNS)

_REFINEMENT = re.compile(r"relax_([2-9]|[1-9][0-9]+)")


def refinement_name(number: int) -> str:
    """Name of a refinement stage; `number` is 1 for the first, which is called relax_2."""
    return f"relax_{number + 1}"


def stage_kind(stage: str) -> str:
    """The stage of `STAGES` that a stage works like: refinements are relaxations, too.

    Raises:
        ValueError: not a known stage.
    """
    if stage in STAGE_COLUMNS:
        return stage
    if _REFINEMENT.fullmatch(stage):
        return "relax"
    raise ValueError(
        f"unknown stage '{stage}'; stages are {', '.join(STAGES)} and refinements such as relax_2"
    )


def stage_schema(stage: str) -> pa.Schema:
    """Arrow schema of a stage's table; that of `relax` for refinements.

    Raises:
        ValueError: not a known stage.
    """
    return pa.schema([*COMMON, *STAGE_COLUMNS[stage_kind(stage)]])
