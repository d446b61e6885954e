"""Stage `hydrogenate`: crooked molecules mended, hydrogens added, overlaps removed.

A symmetric proposal becomes a conformer pressed in its space group, see
`packflow_core.stages.pressing`, and is done. Order for the others: the cell is checked, the mirror
image taken where the generator drew the other hand, crooked molecules are replaced by conformers,
hydrogens added (a molecule whose hydrogens find no place is replaced too), stereochemistry
checked, overlapping molecules moved out of each other's way, and, where that is not enough, the
cell grown until nothing overlaps.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from packflow_core.baselines.names import BASELINES
from packflow_core.crystal.contacts import bond_errors, bond_statistics, min_contact_ratio
from packflow_core.crystal.crystal import Crystal
from packflow_core.crystal.lattice import heights
from packflow_core.crystal.relieve import relieve_overlaps
from packflow_core.crystal.separate import separate_molecules
from packflow_core.store.rows import Row, crystal_of, next_row
from packflow_core.store.schema import Reason, Status

if TYPE_CHECKING:
    from packflow_core.chem.conformers import ConformerPool
    from packflow_core.chem.molecule import Molecule
    from packflow_core.stages.pressing import PressedProposal

logger = logging.getLogger(__name__)

FloatArray = NDArray[np.float64]


class HydrogenateParams(BaseModel):
    """Parameters of the stage `hydrogenate`; every default is what `csp run` uses."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    repair: bool = Field(
        True, description="replace crooked molecules by the conformer that fits best"
    )
    bond_tolerance_A: float = Field(
        0.3, gt=0, description="a bond this far from its length in the conformers is crooked, Å"
    )
    angle_tolerance_A: float = Field(
        0.6,
        gt=0,
        description="likewise for atoms two bonds apart, outside the conformers' range, Å",
    )
    max_repair_rmsd_A: float | None = Field(
        None, gt=0, description="reject where the best conformer fits worse than this, Å; no limit"
    )
    press: bool = Field(
        True,
        description="press symmetric proposals in their space group, molecules rigid, to the "
        "volume that the generator expects; needs repair",
    )
    n_conformers: int = Field(20, ge=1, le=1000, description="conformers embedded per molecule")
    conformer_seed: int = Field(0, ge=0, description="seed of the conformer embedding")
    relieve: bool = Field(
        True, description="shift and turn overlapping molecules and strain the cell to part them"
    )
    relief_margin: float = Field(
        0.06, ge=0, le=0.5, description="parted molecules aim beyond the contact limits by this"
    )
    relief_attempts: int = Field(
        4, ge=1, le=100, description="starts of the relief, all but the first from a shaken cell"
    )
    push_apart: bool = Field(
        True, description="grow the cell until no molecules overlap, after the relief"
    )
    min_contact: float = Field(
        0.7, ge=0, le=1, description="heavy atoms overlap below this fraction of their vdW sum"
    )
    min_contact_hydrogen: float = Field(
        0.5, ge=0, le=1, description="the same where a hydrogen takes part; 0 to leave them out"
    )
    max_cell_growth: float = Field(
        1.35,
        ge=1,
        description="largest linear growth of the cell, in the relief (along any axis) and again "
        "in the growth after it; more overlap is rejected",
    )
    reject_stereo_flip: bool = Field(
        True, description="reject crystals with a molecule of another stereochemistry than asked"
    )
    min_cell_height_A: float = Field(
        1.5, gt=0, description="reject cells with two opposite faces closer than this, Å"
    )
    min_volume_per_atom_A3: float = Field(
        4.0, ge=0, description="reject cells with less volume per heavy atom than this, Å3"
    )
    max_volume_per_atom_A3: float = Field(
        200.0, gt=0, description="reject cells with more volume per heavy atom than this, Å3"
    )


def hydrogenate(row: Row, molecule: Molecule, params: HydrogenateParams) -> Row:
    """`hydrogenate_many` for one candidate."""
    return hydrogenate_many([row], molecule, params)[0]


def hydrogenate_many(
    rows: Sequence[Row], molecule: Molecule, params: HydrogenateParams
) -> list[Row]:
    """Complete generated heavy-atom crystals to all-atom crystals.

    Args:
        rows: rows of the stage `generate`: z molecules of heavy atoms in the order of `molecule`.
            Hydrogens, where a generator gave them in project order, are placed anew.
        molecule: the molecule.
        params: tolerances and switches.

    Returns:
        Rows of the stage `hydrogenate`, each as if it had been alone; what is wrong with a
        candidate is in status, reason and detail, never raised. A rejected row keeps the crystal
        it came with.
    """
    began = time.perf_counter()
    try:
        pressed = _pressed(rows, molecule, params)
    except Exception:  # the candidates still have the other way
        logger.exception("proposals of %s could not be pressed", molecule.smiles)
        pressed = {}
    each = (time.perf_counter() - began) / max(1, len(rows))
    return [_one(row, molecule, params, pressed.get(k), each) for k, row in enumerate(rows)]


def _one(
    row: Row,
    molecule: Molecule,
    params: HydrogenateParams,
    pressed: PressedProposal | None,
    seconds: float,
) -> Row:
    """One candidate; `seconds` is its share of what was done for all."""
    began = time.perf_counter()
    try:
        if pressed is not None:
            out = pressed.row(row, molecule)
        else:
            out = _hydrogenate(row, molecule, params)
    except Exception as error:  # a fault of ours must cost one candidate, not the run
        logger.exception("hydrogenate failed for candidate %s", row.get("candidate_id"))
        out = next_row(
            row,
            status=Status.FAILED,
            reason=Reason.INTERNAL,
            detail=f"{type(error).__name__}: {error}",
        )
    out["wall_s"] = seconds + time.perf_counter() - began
    return out


def _pressed(
    rows: Sequence[Row], molecule: Molecule, params: HydrogenateParams
) -> dict[int, PressedProposal]:
    """What the press makes of those rows that are for it, by place."""
    if not (params.press and params.repair):
        return {}
    proposals: dict[int, tuple[Crystal, float]] = {}
    for k, row in enumerate(rows):
        if row.get("method") in BASELINES or row.get("space_group_drawn") is None:
            continue
        crystal, _ = _check(row, molecule, params)
        if crystal is not None:
            volume = row.get("expected_volume_A3") or crystal.volume / crystal.z
            proposals[k] = crystal.heavy_only(), float(volume)
    pool = _pool_or_none(molecule, params) if proposals else None
    if pool is None:
        return {}
    from packflow_core.stages.pressing import press_proposals

    pressed = press_proposals(proposals, pool)
    limit = params.max_repair_rmsd_A
    return {k: p for k, p in pressed.items() if limit is None or p.rmsd <= limit}


def _hydrogenate(row: Row, molecule: Molecule, params: HydrogenateParams) -> Row:
    from packflow_core.chem.hydrogens import add_hydrogens, misplaced_hydrogens
    from packflow_core.chem.repair import diagnose, fit_conformer, mirror_is_better
    from packflow_core.chem.stereo import stereo_of

    crystal, refusal = _check(row, molecule, params)
    if crystal is None:
        return refusal
    if row.get("method") in BASELINES:
        return _given(row, crystal, molecule)
    crystal = crystal.heavy_only()
    z = crystal.z
    heavy = crystal.positions.reshape(z, -1, 3)
    pool = _pool_or_none(molecule, params) if params.repair else None
    stereo = stereo_of(molecule)
    notes: list[str] = []

    if pool is not None and mirror_is_better(heavy, pool):
        heavy = -heavy
        notes.append("mirror image taken")
    bad = np.zeros(z, dtype=np.bool_)
    if pool is not None:
        found = diagnose(heavy, pool)
        bad = found.crooked(params.bond_tolerance_A, params.angle_tolerance_A) | found.flipped
    full = add_hydrogens(heavy, molecule)
    misplaced = misplaced_hydrogens(full, molecule)
    flips = _count_flips(full, stereo, skip=bad | misplaced)
    columns: Row = {"n_repaired": 0, "repair_rmsd_A": 0.0}
    if pool is not None:
        bad |= misplaced | (flips > 0)
        fits = {int(m): fit_conformer(heavy[m], pool) for m in np.flatnonzero(bad)}
        for m, fit in fits.items():
            full[m] = fit.positions
        rmsd = max((fit.rmsd for fit in fits.values()), default=0.0)
        columns = {"n_repaired": len(fits), "repair_rmsd_A": rmsd}
        flips[bad] = 0
        if params.max_repair_rmsd_A is not None and rmsd > params.max_repair_rmsd_A:
            return _rejected(
                row,
                Reason.BROKEN_MOLECULE,
                f"best conformer {rmsd:.2f} Å from the drawn molecule, "
                f"limit {params.max_repair_rmsd_A:g}",
                columns,
            )
    drawn = Crystal(np.tile(molecule.numbers_h, z), full.reshape(-1, 3), crystal.cell, z)
    errors = bond_errors(drawn, molecule.bonds)
    columns["bonds_ok"], columns["max_bond_error_A"] = bond_statistics(errors)
    columns["stereo_flipped"] = int(flips.sum())
    if pool is None and params.repair and (misplaced.any() or columns["bonds_ok"] < 1.0):
        return _rejected(
            row,
            Reason.BROKEN_MOLECULE,
            f"bond {columns['max_bond_error_A']:.2f} Å off or no place for hydrogens, and no "
            "conformer could be embedded to repair the molecule",
            columns,
        )
    if pool is None and misplaced.any():
        return next_row(
            row,
            status=Status.FAILED,
            reason=Reason.HYDROGENS,
            detail=f"no place for the hydrogens of {int(misplaced.sum())} of {z} molecules",
            **columns,
        )
    if flips.any() and params.reject_stereo_flip:
        detail = f"{int(flips.sum())} stereo elements of {int((flips > 0).sum())} molecules flipped"
        return _rejected(row, Reason.STEREO, detail, columns)
    if molecule.racemic:
        left = int(stereo.left_handed(full).sum())
        if left not in (0, z) and 2 * left != z:
            detail = f"{z - left} molecules of one hand and {left} of the other"
            return _rejected(row, Reason.STEREO, detail, columns)
        notes.append(f"{z - left} molecules of the hand written, {left} of the other")
    return _separate(row, drawn, params, columns, notes)


def _given(row: Row, crystal: Crystal, molecule: Molecule) -> Row:
    """Row of a crystal whose generator packed whole molecules: nothing is mended or added."""
    if len(crystal) != crystal.z * molecule.n_atoms:
        detail = f"the generator {row.get('method')} left out hydrogens"
        return next_row(row, status=Status.FAILED, reason=Reason.HYDROGENS, detail=detail)
    sound, worst = bond_statistics(bond_errors(crystal, molecule.bonds))
    ratio = min_contact_ratio(crystal).ratio
    return next_row(
        row,
        status=Status.OK,
        detail=f"passed through: {row.get('method')} packs molecules with their hydrogens",
        crystal=crystal,
        bonds_ok=sound,
        max_bond_error_A=worst,
        min_contact=ratio if np.isfinite(ratio) else None,
    )


def _separate(
    row: Row, crystal: Crystal, params: HydrogenateParams, columns: Row, notes: list[str]
) -> Row:
    """The last step: overlaps, and the row."""
    growth = 1.0
    if params.relieve:
        relief = relieve_overlaps(
            crystal,
            min_contact=params.min_contact,
            min_contact_hydrogen=params.min_contact_hydrogen,
            margin=params.relief_margin,
            max_growth=params.max_cell_growth,
            attempts=params.relief_attempts,
        )
        crystal = relief.crystal
        columns.update(
            relief_shift_A=relief.max_shift_A,
            relief_rotation_deg=relief.max_rotation_deg,
            relief_volume_ratio=relief.volume_ratio,
        )
    if params.push_apart:
        separation = separate_molecules(
            crystal, params.min_contact, params.min_contact_hydrogen, params.max_cell_growth
        )
        if separation is None:
            contact = min_contact_ratio(crystal)
            columns["min_contact"] = contact.ratio
            return _rejected(
                row,
                Reason.OVERLAP,
                f"molecules overlap (closest contact {contact.distance:.2f} Å, {contact.ratio:.2f} "
                f"of the vdW sum) beyond a cell growth of {params.max_cell_growth:g}",
                columns,
            )
        crystal, growth = separation
    ratio = min_contact_ratio(crystal).ratio
    columns.update(cell_growth=growth, min_contact=ratio if np.isfinite(ratio) else None)
    columns["press_contact"] = None
    per_atom = crystal.volume / crystal.n_heavy
    if per_atom > params.max_volume_per_atom_A3:
        return _rejected(row, Reason.DENSITY, _too_large(per_atom, params), columns)
    return next_row(row, status=Status.OK, detail="; ".join(notes), crystal=crystal, **columns)


def _check(row: Row, molecule: Molecule, params: HydrogenateParams) -> tuple[Crystal | None, Row]:
    """The crystal of a row as it is, or None and the row that says what is wrong with it."""
    try:
        crystal = crystal_of(row)
    except (ValueError, TypeError, KeyError) as error:
        return None, _no_crystal(row, str(error))
    n = len(crystal) // crystal.z
    blocks = crystal.numbers.reshape(crystal.z, n)
    for expected in (molecule.numbers, molecule.numbers_h):
        if n == len(expected) and (blocks == expected).all():
            break
    else:
        detail = f"the atoms are not those of {crystal.z} molecules {molecule.smiles}"
        return None, next_row(row, status=Status.FAILED, reason=Reason.HYDROGENS, detail=detail)
    height = float(heights(crystal.cell).min())
    if height < params.min_cell_height_A:
        detail = f"cell height {height:.2f} Å below {params.min_cell_height_A:g}"
        return None, _rejected(row, Reason.BAD_CELL, detail, {})
    per_atom = crystal.volume / crystal.n_heavy
    if per_atom < params.min_volume_per_atom_A3:
        detail = f"{per_atom:.1f} Å3 per heavy atom, below {params.min_volume_per_atom_A3:g}"
        return None, _rejected(row, Reason.DENSITY, detail, {})
    if per_atom > params.max_volume_per_atom_A3:
        return None, _rejected(row, Reason.DENSITY, _too_large(per_atom, params), {})
    return crystal, {}


def _no_crystal(row: Row, message: str) -> Row:
    """Row of a candidate whose numbers are no crystal: NaN, no volume, or missing atoms."""
    values = [np.asarray(row.get(k) or [], dtype=np.float64) for k in ("positions", "cell")]
    if not all(v.size and np.isfinite(v).all() for v in values):
        return next_row(row, status=Status.FAILED, reason=Reason.NAN, detail=message)
    if np.linalg.det(values[1].reshape(3, 3)) <= 0:
        return _rejected(row, Reason.BAD_CELL, message, {})
    return next_row(row, status=Status.FAILED, reason=Reason.HYDROGENS, detail=message)


def _count_flips(full: FloatArray, stereo: Any, skip: NDArray[np.bool_]) -> NDArray[np.int64]:
    """[z] stereo elements of each molecule [z, n_atoms, 3] that differ from the SMILES."""
    flips = np.zeros(len(full), dtype=np.int64)
    if len(stereo):
        for m in np.flatnonzero(~skip):
            flips[m] = stereo.count_flipped(full[m])
    return flips


def _pool_or_none(molecule: Molecule, params: HydrogenateParams) -> ConformerPool | None:
    from packflow_core.chem.conformers import ConformerError, conformer_pool

    try:
        return conformer_pool(molecule, params.n_conformers, params.conformer_seed)
    except ConformerError as error:
        logger.warning("%s Crooked molecules will be rejected, not repaired.", error)
        return None


def _too_large(per_atom: float, params: HydrogenateParams) -> str:
    return f"{per_atom:.0f} Å3 per heavy atom, above {params.max_volume_per_atom_A3:g}"


def _rejected(row: Row, reason: Reason, detail: str, columns: Row) -> Row:
    return next_row(row, status=Status.REJECTED, reason=reason, detail=detail, **columns)
