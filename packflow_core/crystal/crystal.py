"""The crystal of this project: numbers, Cartesian positions and a cell matrix, nothing derived.

A crystal is never rebuilt from lattice parameters half way: that would turn the frame and break
molecules in non-orthogonal cells. Order of atoms, everywhere: molecule by molecule, and inside a
molecule the heavy atoms in the order of `Molecule` first, then its hydrogens.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from packflow_core.chem.elements import AMU_PER_A3_TO_G_CM3, MASSES
from packflow_core.crystal.lattice import cell_to_parameters

if TYPE_CHECKING:
    from ase import Atoms
    from pymatgen.core import Structure

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Crystal:
    """A periodic crystal in P1.

    Attributes:
        numbers: [N] atomic numbers.
        positions: [N, 3] Cartesian coordinates in Å; molecules are whole, not wrapped.
        cell: [3, 3] Å, rows a, b, c; right-handed (a left-handed input is refused: turning it
            is the caller's decision, see `right_handed`).
        z: molecules in the cell; N is a multiple of z and atoms come molecule by molecule.
    """

    numbers: IntArray
    positions: FloatArray
    cell: FloatArray
    z: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "numbers", np.asarray(self.numbers, dtype=np.int64).reshape(-1))
        object.__setattr__(
            self, "positions", np.asarray(self.positions, dtype=np.float64).reshape(-1, 3)
        )
        object.__setattr__(self, "cell", np.asarray(self.cell, dtype=np.float64).reshape(3, 3))
        object.__setattr__(self, "z", int(self.z))
        n = len(self.numbers)
        if len(self.positions) != n:
            raise ValueError(f"{n} atomic numbers but {len(self.positions)} positions")
        if self.z < 1 or n % self.z:
            raise ValueError(f"{n} atoms cannot be {self.z} equal molecules")
        if not (np.isfinite(self.positions).all() and np.isfinite(self.cell).all()):
            raise ValueError("positions or cell contain NaN or infinity")
        if self.cell.size and np.linalg.det(self.cell) <= 0:
            raise ValueError(f"cell is not right-handed or has no volume: {self.cell.tolist()}")

    # -- sizes and scalars -------------------------------------------------------------------
    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def n_heavy(self) -> int:
        """Number of non-hydrogen atoms in the cell."""
        return int((self.numbers > 1).sum())

    @property
    def heavy(self) -> NDArray[np.bool_]:
        """[N] mask of the non-hydrogen atoms."""
        return self.numbers > 1

    @property
    def molecule_index(self) -> IntArray:
        """[N] index of the molecule, 0 to z - 1, that each atom belongs to."""
        return np.repeat(np.arange(self.z), len(self) // self.z)

    @property
    def volume(self) -> float:
        """Cell volume in Å^3."""
        return float(np.linalg.det(self.cell))

    @property
    def density(self) -> float:
        """Density in g/cm^3 of the atoms present (hydrogens count only where they exist)."""
        return float(MASSES[self.numbers].sum() / self.volume * AMU_PER_A3_TO_G_CM3)

    @property
    def parameters(self) -> FloatArray:
        """[6] a, b, c in Å and alpha, beta, gamma in degrees."""
        return cell_to_parameters(self.cell)

    @property
    def fractional(self) -> FloatArray:
        """[N, 3] fractional coordinates, not wrapped."""
        return self.positions @ np.linalg.inv(self.cell)

    # -- changes that keep every molecule where it is ----------------------------------------
    def with_positions(self, positions: ArrayLike, cell: ArrayLike | None = None) -> Crystal:
        """The same atoms at other positions [N, 3] Å, and optionally in another cell [3, 3] Å."""
        new_cell = self.cell if cell is None else np.asarray(cell, dtype=np.float64)
        return replace(self, positions=np.asarray(positions, dtype=np.float64), cell=new_cell)

    def repeated(self, reps: tuple[int, int, int]) -> Crystal:
        """Supercell of reps[0] x reps[1] x reps[2] cells; atoms of image 0 come first."""
        shifts = np.array(
            [[i, j, k] for i in range(reps[0]) for j in range(reps[1]) for k in range(reps[2])],
            dtype=np.float64,
        )
        offsets = shifts @ self.cell
        return Crystal(
            numbers=np.tile(self.numbers, len(offsets)),
            positions=(self.positions[None] + offsets[:, None]).reshape(-1, 3),
            cell=self.cell * np.asarray(reps, dtype=np.float64)[:, None],
            z=self.z * len(offsets),
        )

    def heavy_only(self) -> Crystal:
        """The crystal without its hydrogens; order and frame stay."""
        keep = self.heavy
        return replace(self, numbers=self.numbers[keep], positions=self.positions[keep])

    def wrapped(self) -> Crystal:
        """Every molecule moved as a whole so that its centroid lies in the cell [0, 1)^3."""
        frac = self.fractional.reshape(self.z, -1, 3)
        shift = -np.floor(frac.mean(axis=1) + 1e-12)
        moved = self.positions.reshape(self.z, -1, 3) + (shift @ self.cell)[:, None, :]
        return replace(self, positions=moved.reshape(-1, 3))

    # -- conversions -------------------------------------------------------------------------
    def to_ase(self) -> Atoms:
        """ASE Atoms with the same Cartesian positions and cell, periodic in three directions."""
        from ase import Atoms

        return Atoms(numbers=self.numbers, positions=self.positions, cell=self.cell, pbc=True)

    @classmethod
    def from_ase(cls, atoms: Atoms, z: int = 1) -> Crystal:
        """Crystal of ASE Atoms; nothing is wrapped or reordered."""
        return cls(atoms.numbers, atoms.positions, np.asarray(atoms.cell), z)

    def to_pymatgen(self) -> Structure:
        """Pymatgen Structure with the same Cartesian positions and lattice matrix."""
        from pymatgen.core import Lattice, Structure

        return Structure(
            Lattice(self.cell),
            [int(n) for n in self.numbers],
            self.positions,
            coords_are_cartesian=True,
            to_unit_cell=False,
        )

    @classmethod
    def from_pymatgen(cls, structure: Structure, z: int = 1) -> Crystal:
        """Crystal of an ordered pymatgen Structure; nothing is wrapped or reordered."""
        numbers: list[Any] = [site.specie.Z for site in structure]
        return cls(np.array(numbers), structure.cart_coords, structure.lattice.matrix, z)


def right_handed(cell: ArrayLike) -> FloatArray:
    """The cell [3, 3] with all three vectors reversed if it was left-handed.

    Reversing every lattice vector gives the same lattice, so no atom has to move; left-handed
    cells flip the sign of the stress in some engines.
    """
    m = np.asarray(cell, dtype=np.float64)
    return -m if np.linalg.det(m) < 0 else m
