"""A crystal as asymmetric unit and symmetry operations, and the CIF of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import gemmi
import numpy as np
from numpy.typing import NDArray

from packflow_core.chem.elements import AMU_PER_A3_TO_G_CM3, MASSES, symbol
from packflow_core.crystal.cif_lines import cell_lines, cif_head
from packflow_core.crystal.lattice import cell_to_parameters
from packflow_core.crystal.monoclinic import operation_of

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class SymmetricCrystal:
    """A crystal in a conventional setting of its space group.

    Attributes:
        numbers: [A] atomic numbers of the asymmetric unit.
        frac: [A, 3] fractional coordinates; the molecules, or parts of molecules, are connected.
        cell: [3, 3] Å, conventional cell, rows a, b, c.
        rotations: [G, 3, 3] integer rotations of all operations, centring included; fractional
            coordinates x become rotation @ x + translation.
        translations: [G, 3] fractional translations.
        number: of the space group in International Tables.
        symbol: short Hermann-Mauguin symbol of the standard setting; the cell may be another one,
            as P2_1/n is of P2_1/c.
        molecule: [M] atomic numbers of one whole molecule.
        z: molecules in the conventional cell.
        rmsd_A: root mean square shift of the atoms that made the symmetry exact, Å.
        symprec: tolerance in Å at which the symmetry was found.
    """

    numbers: IntArray
    frac: FloatArray
    cell: FloatArray
    rotations: IntArray
    translations: FloatArray
    number: int
    symbol: str
    molecule: IntArray
    z: int
    rmsd_A: float
    symprec: float

    @property
    def z_prime(self) -> float:
        """Molecules in the asymmetric unit."""
        return self.z / len(self.rotations)

    @property
    def volume(self) -> float:
        """Volume of the conventional cell, Å3."""
        return float(abs(np.linalg.det(self.cell)))

    @property
    def density(self) -> float:
        """Density in g/cm3."""
        mass = self.z * float(MASSES[self.molecule].sum())
        return mass / self.volume * AMU_PER_A3_TO_G_CM3

    def operations(self) -> list[gemmi.Op]:
        """The symmetry operations."""
        return [
            operation_of(rotation, translation)
            for rotation, translation in zip(self.rotations, self.translations, strict=True)
        ]


def symmetric_cif_text(
    crystal: SymmetricCrystal, name: str, comment_items: Mapping[str, str] | None = None
) -> str:
    """CIF with the asymmetric unit and the symmetry operations, twelve decimals.

    Args:
        crystal: what to write.
        name: name of the data block; characters that CIF does not allow become "_".
        comment_items: written as "# key: value" lines at the top.
    """
    operations = crystal.operations()
    # gemmi's stub claims a space group always; it is None for operations that it does not know.
    group: gemmi.SpaceGroup | None = gemmi.find_spacegroup_by_ops(gemmi.GroupOps(operations))
    lines = cif_head(crystal.molecule, name, crystal.z, 1, comment_items)
    lines += cell_lines(cell_to_parameters(crystal.cell), crystal.volume, crystal.density)
    # The operations decide; the names are for people and for programs that only read names.
    lines.append(f"_space_group_IT_number {crystal.number}")
    if group is not None:
        lines += [
            f"_space_group_name_H-M_alt '{group.hm}'",
            f"_space_group_name_Hall '{group.hall}'",
        ]
    else:
        lines.append(f"_space_group_name_H-M_alt '{crystal.symbol.replace('_', '')}'")
    lines += ["loop_", "_space_group_symop_operation_xyz"]
    lines += [f"'{operation.triplet()}'" for operation in operations]
    lines += [
        "loop_",
        "_atom_site_label",
        "_atom_site_type_symbol",
        "_atom_site_fract_x",
        "_atom_site_fract_y",
        "_atom_site_fract_z",
        "_atom_site_occupancy",
    ]
    seen: Counter[str] = Counter()
    for number, (x, y, z) in zip(crystal.numbers.tolist(), crystal.frac, strict=True):
        element = symbol(number)
        seen[element] += 1
        lines.append(f"{element}{seen[element]} {element} {x:.12f} {y:.12f} {z:.12f} 1")
    return "\n".join(lines) + "\n"
