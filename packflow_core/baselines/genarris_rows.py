"""Rows of the ledger for structures of Genarris: like those of `generate`, with hydrogens."""

from __future__ import annotations

from packflow_core.baselines.genarris_structures import GenarrisStructure
from packflow_core.chem.molecule import Molecule
from packflow_core.crystal.contacts import bond_errors, bond_statistics
from packflow_core.store.rows import Row, crystal_columns


def genarris_row(
    structure: GenarrisStructure,
    molecule: Molecule,
    *,
    target: str,
    index: int,
    seed: int,
    engine: str,
    wall_s: float | None = None,
) -> Row:
    """Row of one structure, in the place of the one that stage `generate` would give.

    Args:
        structure: ok or not; the row says which.
        molecule: the molecule.
        target: first part of the candidate's id.
        index: number of the candidate in its campaign; makes the id unique, as Genarris' are not.
        seed: campaign seed.
        engine: identity of the program.
        wall_s: share of the run's wall time.

    Returns:
        A row with all atoms. Genarris' own id and the attempted space group are in `detail` only
        where they explain a failure; the structure has them.
    """
    row: Row = {
        "candidate_id": f"{target}-z{structure.z}-{index:06d}",
        "index": index,
        "target": target,
        "method": structure.method,
        "z": structure.z,
        "seed": seed,
        "engine": engine,
        "device": "cpu",
        "wall_s": wall_s,
        "status": str(structure.status),
        "reason": str(structure.reason),
        "detail": structure.detail,
    }
    if structure.crystal is not None:
        row.update(crystal_columns(structure.crystal))
        sound, worst = bond_statistics(bond_errors(structure.crystal, molecule.bonds))
        row.update(bonds_ok=sound, max_bond_error_A=worst)
    return row
