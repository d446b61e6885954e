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
from pydantic import ConfigDict, Field

from packflow_core.analysis.connectivity import bond_validity
from packflow_core.analysis.duplicates import DuplicateLimits, amd_columns, find_duplicates
from packflow_core.analysis.match_columns import UNMATCHED, match_columns
from packflow_core.analysis.matching import SHELLS, Reference, match_report
from packflow_core.analysis.ranking import (
    DuplicateWindows,
    energy_order,
    relative_lattice_energies,
)
from packflow_core.analysis.symmetry import ladder_facts
from packflow_core.analysis.validity import find_invalidity
from packflow_core.chem.conformer_ensemble import ConformerEnsemble
from packflow_core.chem.conformer_nearest import nearest_conformer
from packflow_core.chem.elements import symbol
from packflow_core.chem.molecule import Molecule
from packflow_core.crystal.crystal import Crystal
from packflow_core.crystal.validity_limits import ValidityLimits
from packflow_core.errors import UserInputError
from packflow_core.stages.density_window import expected_molecular_volume
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
    "lattice_energy_kJ_mol": None,
    "cluster": None,
    "cluster_size": None,
    "representative": None,
}


class RankParams(ValidityLimits):
    """Parameters of the rank stage."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_residual_stress_GPa: float | None = Field(
        2.0,
        gt=0,
        description="a candidate with a larger component of the residual stress counts as "
        "unconverged, GPa; None: any",
    )
    symprec_A: float = Field(0.1, gt=0, le=1, description="tolerance of the space group, Å")
    symprec_tight_A: float = Field(
        0.01, gt=0, le=1, description="tightest tolerance of the symmetry ladder, Å"
    )
    symprec_loose_A: float = Field(
        0.3, gt=0, le=1, description="loosest tolerance of the symmetry ladder, Å"
    )
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
    duplicate_pdd_A: float = Field(
        0.25, ge=0, description="largest distance of the PDDs of duplicates, heavy atoms, Å"
    )
    duplicate_rmsd_A: float = Field(
        0.25, ge=0, description="largest RMSD of the cluster for duplicates, Å"
    )
    duplicate_shell_size: int = Field(
        30, ge=2, le=100, description="molecules in the compared clusters of duplicates"
    )
    include_unconverged: bool = Field(
        False, description="rank unconverged candidates too; their energies are upper bounds"
    )

    @property
    def duplicate_limits(self) -> DuplicateLimits:
        """When two candidates are the same crystal."""
        return DuplicateLimits(
            windows=DuplicateWindows(
                energy_kJ_mol=self.duplicate_energy_kJ_mol,
                density_fraction=self.duplicate_density_percent / 100.0,
                amd_A=self.duplicate_amd_A,
            ),
            rmsd_A=self.duplicate_rmsd_A,
            pdd_A=self.duplicate_pdd_A,
            shell_size=self.duplicate_shell_size,
            molecule_tolerance_A=self.molecule_tolerance_A,
            timeout_s=self.match_timeout_s,
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
            f"The reference {name} holds molecules of {heavy_formula(found)}, but the target "
            f"{molecule.smiles} has {heavy_formula(wanted)} (hydrogens aside); give a CIF of the "
            "target's crystal."
        )


def analyse_crystal(
    row: Row,
    molecule: Molecule,
    params: RankParams,
    reference: Crystal | Reference | None = None,
    conformers: ConformerEnsemble | None = None,
) -> Row:
    """Analyse one relaxed candidate against a molecule and, optionally, a reference crystal.

    Returns:
        The candidate's row without the columns that `rank` fills. An `unconverged` candidate
        stays so, and one with a large residual stress becomes so; one that is no crystal of the
        molecule any more (see `find_invalidity`) is `rejected`; one that came here rejected or
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
        usual_volume = expected_molecular_volume(molecule)
        invalid = find_invalidity(crystal, molecule, params, usual_volume)
        if invalid is not None and invalid.reason == Reason.Z_CHANGED:
            return _closed(row, Status.REJECTED, invalid.reason, invalid.detail, kept)
        bonds_ok, max_bond_error = bond_validity(crystal, molecule)
    except ValueError as error:
        return _closed(row, Status.FAILED, Reason.INTERNAL, str(error), kept)
    columns = {
        **kept,
        **_UNRANKED,
        "energy_per_molecule_eV": energy / crystal.z,
        "bonds_ok": bonds_ok,
        "max_bond_error_A": max_bond_error,
        "density_ratio": crystal.z * usual_volume / crystal.volume,
        **_symmetry_columns(crystal, params),
        **_conformer_columns(crystal, conformers),
        **_invariant_columns(crystal),
    }
    if invalid is not None:
        return next_row(
            row,
            status=Status.REJECTED,
            reason=invalid.reason,
            detail=invalid.detail,
            **{**columns, **_match_columns(crystal, None, params)},
        )
    reason, detail = Reason(row.get("reason") or ""), str(row.get("detail") or "")
    stress, most = row.get("stress_GPa"), params.max_residual_stress_GPa
    if arrived == Status.OK and most is not None and stress is not None and not stress <= most:
        arrived, reason = Status.UNCONVERGED, Reason.STRESS
        detail = f"residual stress {stress:.2f} GPa, at most {most:g}"
    return next_row(
        row,
        status=arrived,
        reason=reason,
        detail=detail,
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
    clusters, effort = find_duplicates(
        crystals,
        relative,
        [row.get("amd_A") or _invariant_columns(c)["amd_A"]
         for row, c in zip(chosen, crystals, strict=True)],
        params.duplicate_limits,
    )  # fmt: skip
    logger.info(
        "%d candidates ranked, %d distinct structures; %d close pairs: %s",
        len(chosen),
        int(clusters.representative.sum()),
        clusters.n_confirmations,
        effort.describe(),
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
        ("energy_per_molecule_eV", "bonds_ok", "max_bond_error_A", "density_ratio", "space_group",
         "space_group_number", "z_prime", "symprec_A", "space_group_tight", "space_group_loose",
         "space_group_agreement", "conformers", "conformer_rmsd_A", "amd_A")
    )  # fmt: skip
    columns = {**kept, **_UNRANKED, **empty, **UNMATCHED}
    return next_row(row, status=status, reason=reason, detail=detail, **columns)


def _symmetry_columns(crystal: Crystal, params: RankParams) -> Row:
    return ladder_facts(crystal, params.symprec_A, params.symprec_tight_A, params.symprec_loose_A)


def _conformer_columns(crystal: Crystal, pool: ConformerEnsemble | None) -> Row:
    if pool is None:
        return {"conformers": None, "conformer_rmsd_A": None}
    index, rmsd = nearest_conformer(crystal, pool)
    return {"conformers": index.tolist(), "conformer_rmsd_A": float(rmsd.max())}


def _match_columns(
    crystal: Crystal, reference: Crystal | Reference | None, params: RankParams
) -> Row:
    if reference is None:
        return UNMATCHED
    report = match_report(
        crystal,
        reference if isinstance(reference, Reference) else Reference(reference),
        shells=[params.shell_size, *(n for n in SHELLS if n > params.shell_size)],
        molecule_tolerance=params.molecule_tolerance_A,
        timeout_s=params.match_timeout_s,
    )
    return match_columns(report)


def _invariant_columns(crystal: Crystal) -> Row:
    """AMD by element; none, which is close to nothing, where it cannot be computed."""
    try:
        return {"amd_A": amd_columns(crystal).tolist()}
    except ValueError:
        return {"amd_A": None}


def _index(row: Row) -> int:
    index = row.get("index")
    return -1 if index is None else int(index)


@lru_cache(maxsize=8)
def _molecule(smiles: str) -> Molecule:
    return Molecule.from_smiles(smiles)


def _read_reference(path: str, smiles: str) -> Reference:
    # The time of the last change is part of the key, so that an edited file is read again.
    file = Path(path)
    return _cached_reference(path, smiles, file.stat().st_mtime_ns if file.exists() else 0)


@lru_cache(maxsize=8)
def _cached_reference(path: str, smiles: str, _changed: int) -> Reference:
    from packflow_core.crystal.cif import read_cif

    crystal = read_cif(Path(path))
    check_reference(crystal, _molecule(smiles), path)
    reference = Reference(crystal)
    if reference.problem:
        raise UserInputError(
            f"The reference {path} cannot be compared with candidates ({reference.problem}); give "
            "a CIF with an ordinary three-dimensional cell."
        )
    return reference


def heavy_formula(numbers: np.ndarray[Any, np.dtype[np.int64]]) -> str:
    """Formula of atoms by their numbers, elements in alphabetical order."""
    counts = Counter(symbol(int(number)) for number in numbers)
    return "".join(f"{s}{n if n > 1 else ''}" for s, n in sorted(counts.items()))
