"""The rank stage: what each relaxed crystal is, and which of them are the answer.

Two steps. `analyse` looks at one candidate (connectivity, bonds, space group, match with a
reference) and runs in a worker process; `rank` looks at all of them (relative lattice energies,
duplicates, order) and is quick.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from packflow_core.analysis.connectivity import bond_validity, check_connectivity
from packflow_core.analysis.metrics import AMD_NEIGHBOURS, amd_by_element
from packflow_core.analysis.ranking import (
    DuplicateWindows,
    cluster_duplicates,
    energy_order,
    relative_lattice_energies,
)
from packflow_core.analysis.similarity import Packing, matches
from packflow_core.analysis.symmetry import find_symmetry
from packflow_core.chem.conformer_ensemble import ConformerEnsemble
from packflow_core.chem.conformer_nearest import nearest_conformer
from packflow_core.chem.elements import symbol
from packflow_core.chem.molecule import Molecule
from packflow_core.crystal.crystal import Crystal
from packflow_core.errors import UserInputError
from packflow_core.store.conformer_table import read_conformer_table
from packflow_core.store.rows import Row, crystal_of, next_row
from packflow_core.store.schema import Reason, Status

logger = logging.getLogger(__name__)

#: Columns of the relaxation that stay with the candidate in the rank table.
_KEPT = ("energy_eV", "fmax_eV_A", "n_steps", "engine", "stress_GPa")

#: Columns of `rank`, empty for a candidate that is not ranked.
_UNRANKED: Row = {
    "rank": None,
    "lattice_energy_rel_kJ_mol": None,
    "cluster": None,
    "cluster_size": None,
    "representative": None,
}


class RankParams(BaseModel):
    """Parameters of the rank stage."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bond_tolerance_A: float = Field(
        0.4, gt=0, le=1, description="a pair is bonded up to this beyond its covalent radii, Å"
    )
    symprec_A: float = Field(0.1, gt=0, le=1, description="tolerance of the space group, Å")
    shell_size: int = Field(15, ge=2, le=100, description="molecules in a compared cluster")
    molecule_tolerance_A: float = Field(
        1.0, gt=0, description="a molecule of the cluster matches below this RMSD, Å"
    )
    match_timeout_s: float = Field(60.0, gt=0, description="time limit of one comparison, s")
    duplicate_energy_kJ_mol: float = Field(
        1.0, ge=0, description="largest energy difference of duplicates, kJ/mol per molecule"
    )
    duplicate_density_percent: float = Field(
        3.0, ge=0, description="largest density difference of duplicates, percent"
    )
    duplicate_amd_A: float = Field(
        0.2, ge=0, description="largest AMD difference of duplicates, element by element, Å"
    )
    duplicate_rmsd_A: float = Field(
        0.25, ge=0, description="largest RMSD of the cluster for duplicates, Å"
    )
    include_unconverged: bool = Field(
        False, description="rank unconverged candidates too; their energies are upper bounds"
    )


def analyse(
    row: Row,
    molecule_smiles: str,
    params: RankParams,
    reference_cif: str | None,
    conformers: str | None = None,
) -> Row:
    """Analyse one relaxed candidate; the reference is read from a CIF, once per process.

    Args:
        row: of the relax stage.
        molecule_smiles: the input graph, as a SMILES.
        params: of the stage.
        reference_cif: path of the crystal to match, or None.
        conformers: path of the run's pool of conformers, or None; read once per process.

    Raises:
        UserInputError: the SMILES or the CIF cannot be read, or the CIF holds another molecule; a
            fault of the candidate never raises.
    """
    reference = None
    if reference_cif is not None:
        reference = _read_reference(reference_cif, molecule_smiles)
    pool = None if conformers is None else read_conformer_table(Path(conformers))
    return analyse_crystal(row, _molecule(molecule_smiles), params, reference, pool)


def check_reference(reference: Crystal, molecule: Molecule, name: str) -> None:
    """Refuse a reference crystal that no candidate could match; `name` is how the user calls it.

    Raises:
        UserInputError: its molecules have other heavy atoms than the target.
    """
    first = reference.numbers[: len(reference) // reference.z]
    found, wanted = np.sort(first[first > 1]), np.sort(molecule.numbers)
    if not np.array_equal(found, wanted):
        raise UserInputError(
            f"The reference {name} holds molecules of {_heavy_formula(found)}, but the target "
            f"{molecule.smiles} has {_heavy_formula(wanted)} (hydrogens aside); give a CIF of the "
            "target's crystal."
        )


def analyse_crystal(
    row: Row,
    molecule: Molecule,
    params: RankParams,
    reference: Crystal | Packing | None = None,
    conformers: ConformerEnsemble | None = None,
) -> Row:
    """Analyse one relaxed candidate against a molecule and, optionally, a reference crystal.

    Returns:
        The candidate's row without the columns that `rank` fills. An `unconverged` candidate
        stays so; one that changed its connectivity is `rejected`; one that came here rejected or
        failed, or without a finite energy, is handed on with the reason.
    """
    kept: dict[str, Any] = {name: row.get(name) for name in _KEPT}
    arrived = Status(row["status"])
    if arrived in (Status.REJECTED, Status.FAILED):
        return _closed(
            row, arrived, Reason(row["reason"] or ""), str(row.get("detail") or ""), kept
        )
    energy = row.get("energy_eV")
    if energy is None or not math.isfinite(energy):
        return _closed(row, Status.FAILED, Reason.NAN, f"the energy is {energy}", kept)
    try:
        crystal = crystal_of(row)
        connectivity = check_connectivity(crystal, molecule, params.bond_tolerance_A)
        bonds_ok, max_bond_error = bond_validity(crystal, molecule)
    except ValueError as error:
        return _closed(row, Status.FAILED, Reason.INTERNAL, str(error), kept)
    columns = {
        **kept,
        **_UNRANKED,
        "energy_per_molecule_eV": energy / crystal.z,
        "bonds_ok": bonds_ok,
        "max_bond_error_A": max_bond_error,
        **_symmetry_columns(crystal, params),
        **_conformer_columns(crystal, conformers),
    }
    if not connectivity.unchanged:
        return next_row(
            row,
            status=Status.REJECTED,
            reason=Reason.CONNECTIVITY,
            detail=connectivity.describe(),
            **{**columns, **_match_columns(crystal, None, params)},
        )
    return next_row(
        row,
        status=arrived,
        reason=Reason(row.get("reason") or ""),
        detail=str(row.get("detail") or ""),
        **{**columns, **_match_columns(crystal, reference, params)},
    )


def rank(rows: list[Row], params: RankParams) -> list[Row]:
    """Fill the columns that need all candidates, and sort.

    Args:
        rows: of `analyse`, every status, any order, one molecule and one engine.
        params: of the stage.

    Returns:
        New rows: ranked candidates by energy (rank 1 is the lowest; duplicates keep their own
        rank and share a cluster number, which counts distinct structures from 1), then all others
        in the order of their index.
    """
    wanted = {Status.OK, Status.UNCONVERGED} if params.include_unconverged else {Status.OK}
    chosen = [row for row in rows if row["status"] in wanted]
    others = [row for row in rows if row["status"] not in wanted]
    others.sort(key=lambda row: (_index(row), str(row["candidate_id"])))
    relative = relative_lattice_energies(
        np.array([row["energy_eV"] for row in chosen], dtype=np.float64),
        np.array([row["z"] for row in chosen], dtype=np.int64),
    )
    order = energy_order(relative, [str(row["candidate_id"]) for row in chosen])
    chosen, relative = [chosen[k] for k in order], relative[order]
    crystals = [crystal_of(row) for row in chosen]
    packings: dict[int, Packing] = {}

    def packing(k: int) -> Packing:
        if k not in packings:
            packings[k] = Packing(crystals[k])
        return packings[k]

    def same(i: int, j: int) -> bool:
        found = matches(
            packing(j),
            packing(i),
            n=params.shell_size,
            molecule_tolerance=params.molecule_tolerance_A,
            timeout_s=params.match_timeout_s,
        )
        return found.full and found.rmsd is not None and found.rmsd <= params.duplicate_rmsd_A

    clusters = cluster_duplicates(
        relative,
        np.array([crystal.density for crystal in crystals], dtype=np.float64),
        np.array([_invariant(crystal) for crystal in crystals]),
        same,
        DuplicateWindows(
            energy_kJ_mol=params.duplicate_energy_kJ_mol,
            density_fraction=params.duplicate_density_percent / 100.0,
            amd_A=params.duplicate_amd_A,
        ),
    )
    logger.info(
        "%d candidates ranked, %d distinct structures (%d packing comparisons)",
        len(chosen),
        int(clusters.representative.sum()),
        clusters.n_confirmations,
    )
    ranked = [
        {
            **row,
            "rank": k + 1,
            "lattice_energy_rel_kJ_mol": float(relative[k]),
            "cluster": int(clusters.label[k]) + 1,
            "cluster_size": int(clusters.size[k]),
            "representative": bool(clusters.representative[k]),
        }
        for k, row in enumerate(chosen)
    ]
    return ranked + [{**row, **_UNRANKED} for row in others]


# -- parts of a row ---------------------------------------------------------------------------
def _closed(row: Row, status: Status, reason: Reason, detail: str, kept: dict[str, Any]) -> Row:
    """Row of a candidate that was not analysed."""
    empty = dict.fromkeys(
        ("energy_per_molecule_eV", "bonds_ok", "max_bond_error_A", "space_group",
         "space_group_number", "z_prime", "conformers", "conformer_rmsd_A", "match_rmsd_A",
         "match_n", "matches_reference")
    )  # fmt: skip
    columns = {**kept, **_UNRANKED, **empty}
    return next_row(row, status=status, reason=reason, detail=detail, **columns)


def _symmetry_columns(crystal: Crystal, params: RankParams) -> Row:
    found = find_symmetry(crystal, params.symprec_A)
    return {
        "space_group": found.symbol if found else None,
        "space_group_number": found.number if found else None,
        "z_prime": found.z_prime if found else None,
    }


def _conformer_columns(crystal: Crystal, pool: ConformerEnsemble | None) -> Row:
    if pool is None:
        return {"conformers": None, "conformer_rmsd_A": None}
    index, rmsd = nearest_conformer(crystal, pool)
    return {"conformers": index.tolist(), "conformer_rmsd_A": float(rmsd.max())}


def _match_columns(
    crystal: Crystal, reference: Crystal | Packing | None, params: RankParams
) -> Row:
    if reference is None:
        return {"match_rmsd_A": None, "match_n": None, "matches_reference": None}
    found = matches(
        crystal,
        reference,
        n=params.shell_size,
        molecule_tolerance=params.molecule_tolerance_A,
        timeout_s=params.match_timeout_s,
    )
    return {
        "match_rmsd_A": found.rmsd,
        "match_n": found.n_matched,
        "matches_reference": found.full,
    }


def _invariant(crystal: Crystal) -> np.ndarray[Any, np.dtype[np.float64]]:
    """AMD by element; NaN, which is close to nothing, where it cannot be computed."""
    heavy = crystal.heavy_only()
    try:
        return amd_by_element(heavy).reshape(-1)
    except ValueError:
        return np.full(len(np.unique(heavy.numbers)) * AMD_NEIGHBOURS, np.nan)


def _index(row: Row) -> int:
    index = row.get("index")
    return -1 if index is None else int(index)


@lru_cache(maxsize=8)
def _molecule(smiles: str) -> Molecule:
    return Molecule.from_smiles(smiles)


def _read_reference(path: str, smiles: str) -> Packing:
    # The time of the last change is part of the key, so that an edited file is read again.
    file = Path(path)
    return _cached_reference(path, smiles, file.stat().st_mtime_ns if file.exists() else 0)


@lru_cache(maxsize=8)
def _cached_reference(path: str, smiles: str, _changed: int) -> Packing:
    from packflow_core.crystal.cif import read_cif

    crystal = read_cif(Path(path))
    check_reference(crystal, _molecule(smiles), path)
    packing = Packing(crystal)
    if packing.problem:
        raise UserInputError(
            f"The reference {path} cannot be compared with candidates ({packing.problem}); give a "
            "CIF with an ordinary three-dimensional cell."
        )
    return packing


def _heavy_formula(numbers: np.ndarray[Any, np.dtype[np.int64]]) -> str:
    counts = Counter(symbol(int(number)) for number in numbers)
    return "".join(f"{s}{n if n > 1 else ''}" for s, n in sorted(counts.items()))
