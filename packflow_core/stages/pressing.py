"""Symmetric proposals pressed in their space group, many at once: a step of `hydrogenate`.

A proposal that the sampler held to a space group is one molecule and a cell. The conformer that
fits the drawn molecule takes its place, hydrogens included, and is pressed, rigid and with its
symmetry, to the volume that the model expects of the molecule's crystals. Nothing is left to
repair then, and what goes to the relaxation is close-packed and symmetric.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from packflow_core.baselines.packing import Packing
from packflow_core.baselines.press_to_volume import press_to_volume
from packflow_core.baselines.symmetric_start import packing_of
from packflow_core.crystal.contacts import bond_errors, bond_statistics, min_contact_ratio
from packflow_core.crystal.crystal import Crystal
from packflow_core.store.rows import Row, next_row
from packflow_core.store.schema import Status

if TYPE_CHECKING:
    from packflow_core.chem.conformers import ConformerPool
    from packflow_core.chem.molecule import Molecule


@dataclass(frozen=True)
class PressedProposal:
    """A proposal after the press.

    Attributes:
        crystal: with hydrogens, in a primitive Niggli cell.
        symbol: of its space group.
        rmsd: Å, heavy atoms of the conformer from those that were drawn.
        contact: hard-sphere diameter that gave the volume, over the van der Waals sum.
        growth: linear growth of the cell that took away the last overlaps.
        mirrored: the mirror image of the crystal was taken, for the hand that is wanted.
    """

    crystal: Crystal
    symbol: str
    rmsd: float
    contact: float
    growth: float
    mirrored: bool

    def row(self, before: Row, molecule: Molecule) -> Row:
        """Row of the stage `hydrogenate` that follows the row `before`."""
        sound, worst = bond_statistics(bond_errors(self.crystal, molecule.bonds))
        ratio = min_contact_ratio(self.crystal).ratio
        notes = ["mirror image taken"] if self.mirrored else []
        return next_row(
            before,
            status=Status.OK,
            detail="; ".join([*notes, f"pressed in {self.symbol}"]),
            crystal=self.crystal,
            bonds_ok=sound,
            max_bond_error_A=worst,
            n_repaired=self.crystal.z,
            repair_rmsd_A=self.rmsd,
            stereo_flipped=0,
            cell_growth=self.growth,
            press_contact=self.contact,
            min_contact=ratio if np.isfinite(ratio) else None,
        )


def press_proposals(
    proposals: Mapping[int, tuple[Crystal, float]], pool: ConformerPool
) -> dict[int, PressedProposal]:
    """Press what is symmetric enough.

    Args:
        proposals: by any key, a crystal of heavy atoms, molecule by molecule in project order,
            and the wanted volume of one molecule in Å^3.
        pool: conformers of the molecule.

    Returns:
        The pressed ones; those without symmetry and those that could not be pressed are missing.
    """
    starts: dict[int, tuple[Packing, float, float, bool]] = {}
    for key, (crystal, volume) in proposals.items():
        found = _start(crystal, pool)
        if found is not None:
            starts[key] = found[0], volume, found[1], found[2]
    outcomes = press_to_volume(
        [packing for packing, *_ in starts.values()], [volume for _, volume, *_ in starts.values()]
    )
    out = {}
    for (key, (_, _, rmsd, mirrored)), outcome in zip(starts.items(), outcomes, strict=True):
        pressed = outcome.pressed
        if pressed.crystal is not None:
            out[key] = PressedProposal(
                pressed.crystal, pressed.packing.group.symbol, rmsd, outcome.contact,
                pressed.growth, mirrored,
            )  # fmt: skip
    return out


def _start(crystal: Crystal, pool: ConformerPool) -> tuple[Packing, float, bool] | None:
    """Asymmetric unit, RMSD of its conformer in Å, and whether the mirror image was taken."""
    from packflow_core.chem.repair import fit_conformer, mirror_is_better

    heavy = crystal.positions.reshape(crystal.z, -1, 3)
    if not np.isfinite(heavy).all():
        return None
    mirrored = mirror_is_better(heavy, pool)
    if mirrored:
        heavy = -heavy
        crystal = Crystal(crystal.numbers, heavy.reshape(-1, 3), crystal.cell, crystal.z)
    fit = fit_conformer(heavy[0], pool)
    try:
        packing = packing_of(crystal, fit.positions, pool.molecule.numbers_h)
    except (ValueError, np.linalg.LinAlgError):  # a cell that is hardly one
        return None
    return None if packing is None else (packing, fit.rmsd, mirrored)
