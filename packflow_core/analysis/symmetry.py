"""Space group and Z' of a relaxed crystal, by spglib."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from packflow_core.crystal.crystal import Crystal

logger = logging.getLogger(__name__)

#: Tolerances in Å that are tried in turn; the next one only where spglib fails at the last.
SYMPREC_LADDER = (0.1, 0.05, 0.02, 0.01, 0.001)
#: Tolerances that tell how sure a space group is.
RUNGS = 6


@dataclass(frozen=True)
class Symmetry:
    """Space group of a crystal.

    Attributes:
        number: of the space group in International Tables, 1 to 230.
        symbol: short Hermann-Mauguin symbol of the standard setting, for example ``P2_1/c``.
        z_prime: molecules per asymmetric unit; 0.5 for a molecule on an inversion centre or a
            twofold axis.
        symprec: tolerance in Å at which the space group was found.
    """

    number: int
    symbol: str
    z_prime: float
    symprec: float


def find_symmetry(
    crystal: Crystal,
    symprec: float = SYMPREC_LADDER[0],
    angle_tolerance: float = -1.0,
) -> Symmetry | None:
    """Space group of a crystal, all its atoms counted, or None where spglib finds none.

    Z' is the number of molecules over the number of symmetry operations, both in the standard
    conventional cell, whatever cell the crystal is given in (primitive, centred, supercell).

    Args:
        crystal: with its hydrogens, where it has any.
        symprec: distance tolerance in Å. Finer ones follow only where spglib fails at this one,
            as it does when the tolerance is too loose for the structure.
        angle_tolerance: in degrees; negative lets spglib derive it from `symprec`.
    """
    for tolerance in (symprec, *(s for s in SYMPREC_LADDER if s < symprec)):
        found = _symmetry_at(crystal, tolerance, angle_tolerance)
        if found is not None:
            return found
    return None


def space_group_ladder(
    crystal: Crystal, tolerances: Sequence[float] = SYMPREC_LADDER
) -> list[Symmetry | None]:
    """Space group at each tolerance in Å: one that changes little from rung to rung is sure."""
    return [_symmetry_at(crystal, tolerance, -1.0) for tolerance in tolerances]


def ladder_facts(crystal: Crystal, symprec: float, tight: float, loose: float) -> dict[str, Any]:
    """The space group of a crystal and how sure it is, as columns of the rank stage.

    The ladder goes from `tight` to `loose` in `RUNGS` even steps of the logarithm. A group that
    all rungs give is sure. One that only the loose rungs give may be a broken symmetry (or a
    relaxation that was not tight), one that only the tight rungs give has a neighbour of higher
    symmetry.

    Args:
        crystal: with its hydrogens, where it has any.
        symprec: tolerance of the group that is reported, Å; see `find_symmetry`.
        tight: tightest tolerance of the ladder, Å.
        loose: loosest tolerance of the ladder, Å.
    """
    found = find_symmetry(crystal, symprec)
    rungs = np.geomspace(min(tight, loose), max(tight, loose), RUNGS)
    ladder = space_group_ladder(crystal, rungs.tolist())
    numbers = [rung.number if rung else None for rung in ladder]
    return {
        "space_group": found.symbol if found else None,
        "space_group_number": found.number if found else None,
        "z_prime": found.z_prime if found else None,
        "symprec_A": found.symprec if found else None,
        "space_group_tight": ladder[0].symbol if ladder[0] else None,
        "space_group_loose": ladder[-1].symbol if ladder[-1] else None,
        "space_group_agreement": numbers.count(found.number) / RUNGS if found else None,
    }


def _symmetry_at(crystal: Crystal, symprec: float, angle_tolerance: float) -> Symmetry | None:
    import spglib

    cell = (crystal.cell, crystal.fractional, crystal.numbers)
    try:
        data = spglib.get_symmetry_dataset(cell, symprec=symprec, angle_tolerance=angle_tolerance)
        operations = spglib.get_symmetry_from_database(data.hall_number) if data else None
    # spglib has its own exceptions or None for a failure, depending on its version.
    except Exception as error:
        logger.debug("spglib failed at symprec %g: %s", symprec, error)
        return None
    if data is None or operations is None:
        return None
    z_standard = crystal.z * len(data.std_types) / len(crystal)
    return Symmetry(
        number=int(data.number),
        symbol=str(data.international),
        z_prime=float(z_standard / len(operations["rotations"])),
        symprec=symprec,
    )
