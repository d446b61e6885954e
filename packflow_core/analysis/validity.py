"""Is a relaxed crystal still a crystal of the molecule that was asked for?

The atoms of the cell, its shape, bonds and protons, stereochemistry and density, in this order: the
first thing that is wrong is the reason, and it is named by atoms or numbers.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from packflow_core.analysis.connectivity import Connectivity, check_connectivity
from packflow_core.chem.elements import symbol
from packflow_core.chem.molecule import Molecule
from packflow_core.chem.stereo import stereo_of
from packflow_core.crystal.crystal import Crystal
from packflow_core.crystal.lattice import heights, niggli_cell
from packflow_core.crystal.validity_limits import ValidityLimits
from packflow_core.store.schema import Reason

FloatArray = NDArray[np.float64]

_NAMED_ELEMENTS = 4


class Invalidity(NamedTuple):
    """What is wrong with a crystal: a reason, and the same in words and numbers."""

    reason: Reason
    detail: str


def find_invalidity(
    crystal: Crystal,
    molecule: Molecule,
    limits: ValidityLimits,
    usual_volume: float | None = None,
) -> Invalidity | None:
    """What is wrong with a relaxed crystal, None where nothing is.

    Args:
        crystal: molecules whole, atoms in the order of `molecule`; with all hydrogens, or with
            none (then stereochemistry is not looked at).
        molecule: the molecule that was asked for.
        limits: the thresholds.
        usual_volume: volume that a molecule usually takes up in a crystal, Å3, for the density
            window; None for no window.

    Returns:
        `PROTON_TRANSFER` (nothing changed but hydrogens that went from one heavy atom to
        another), `CONNECTIVITY` (other broken or formed bonds), `Z_CHANGED` (the atoms are not z
        times the molecule), `STEREO`, `BAD_CELL` or `DENSITY`.
    """
    size = len(crystal) // crystal.z
    if not any(
        np.array_equal(crystal.numbers, np.tile(numbers, crystal.z))
        for numbers in (molecule.numbers_h, molecule.numbers)
    ):
        return Invalidity(
            Reason.Z_CHANGED,
            f"the {len(crystal)} atoms of the cell are not {crystal.z} times {molecule.formula}",
        )
    cell = _reduced(crystal, limits)
    if isinstance(cell, Invalidity):
        return cell
    # In the reduced cell, because a skewed one would need more images than a search can take.
    reduced = crystal.with_positions(crystal.positions, cell)
    bonds = _bond_fault(check_connectivity(reduced, molecule, limits.bond_tolerance_A), crystal.z)
    if bonds is not None:
        return bonds
    if limits.reject_stereo_change and size == molecule.n_atoms:
        detail = describe_stereo_change(crystal, molecule)
        if detail:
            return Invalidity(Reason.STEREO, detail)
    if usual_volume is not None:
        ratio = crystal.z * usual_volume / crystal.volume
        if not limits.min_density_ratio <= ratio <= limits.max_density_ratio:
            return Invalidity(
                Reason.DENSITY,
                f"{ratio:.2f} times the density that the volumes of the atoms give "
                f"({crystal.volume / crystal.z:.0f} Å3 a molecule, usually {usual_volume:.0f})",
            )
    return None


def describe_stereo_change(crystal: Crystal, molecule: Molecule) -> str:
    """Stereo elements that make a molecule of the crystal another one than asked, as words.

    Args:
        crystal: with all hydrogens.
        molecule: of a racemate both hands are right, and elements that the SMILES leaves open
            are not looked at.

    Returns:
        ``C3 of molecule 2 inverted, C7=C8 of molecule 4 inverted``; empty where all is right.
    """
    stereo = stereo_of(molecule)
    if not len(stereo):
        return ""
    names = [
        *(f"{symbol(int(molecule.numbers[k]))}{k + 1}" for k in stereo.centres),
        *(_double_bond_name(molecule, k) for k in stereo.bonds),
    ]
    changed: list[str] = []
    for m, positions in enumerate(crystal.positions.reshape(crystal.z, -1, 3), start=1):
        inverted = stereo.inverted_in(positions)
        if not stereo.accepts(inverted):
            changed += [f"{names[k]} of molecule {m} inverted" for k in np.flatnonzero(inverted)]
    more = len(changed) - _NAMED_ELEMENTS
    return ", ".join(changed[:_NAMED_ELEMENTS]) + (f" and {more} more" if more > 0 else "")


def _bond_fault(found: Connectivity, z: int) -> Invalidity | None:
    if found.unchanged:
        return None
    detail = found.describe()
    if found.pieces != z:
        detail += f"; {found.pieces} molecules instead of {z}"
    reason = Reason.PROTON_TRANSFER if found.only_transfers else Reason.CONNECTIVITY
    return Invalidity(reason, detail)


def _reduced(crystal: Crystal, limits: ValidityLimits) -> FloatArray | Invalidity:
    """The reduced cell [3, 3] Å, in the frame of the crystal, or how the cell has collapsed.

    Skewed cells are no collapsed ones: reduction makes them ordinary.
    """
    lengths = np.linalg.norm(crystal.cell, axis=1)
    openness = crystal.volume / float(lengths.prod())
    if openness < limits.min_cell_openness:
        angles = ", ".join(f"{angle:.1f}" for angle in crystal.parameters[3:])
        return Invalidity(
            Reason.BAD_CELL, f"angles of {angles} degrees leave {openness:.3f} of the cell's box"
        )
    try:
        cell = niggli_cell(crystal.cell)
    except ValueError as error:
        return Invalidity(Reason.BAD_CELL, str(error))
    low = float(heights(cell).min())
    if low < limits.min_reduced_height_A:
        return Invalidity(Reason.BAD_CELL, f"the reduced cell is {low:.2f} Å high")
    return cell


def _double_bond_name(molecule: Molecule, bond: int) -> str:
    found = molecule.rdmol.GetBondWithIdx(bond)
    ends = (found.GetBeginAtomIdx(), found.GetEndAtomIdx())
    return "=".join(f"{symbol(int(molecule.numbers[a]))}{a + 1}" for a in ends)
