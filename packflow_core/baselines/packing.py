"""A crystal as its asymmetric unit: space group, free cell parameters, rigid molecules."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from packflow_core.baselines.space_groups import Site, SpaceGroup
from packflow_core.crystal.crystal import Crystal
from packflow_core.crystal.lattice import niggli_cell

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Packing:
    """Rigid molecules in a space group; symmetry holds by construction.

    Attributes:
        group: the space group.
        numbers: [n] atomic numbers of the molecule.
        offsets: [n, 3] Å atoms of the molecule about its centre; for one on a special position
            exactly as symmetric as that.
        parameters: [k] Å free parameters of the conventional cell (`SpaceGroup.basis`).
        centres: [M, 3] fractional centres of the independent molecules.
        turns: [M, 3, 3] their rotation matrices, acting on columns.
        site: special position of the only independent molecule, None for general ones.
    """

    group: SpaceGroup
    numbers: IntArray
    offsets: FloatArray
    parameters: FloatArray
    centres: FloatArray
    turns: FloatArray
    site: Site | None = None

    @property
    def cell(self) -> FloatArray:
        """[3, 3] Å conventional cell, rows a, b, c; right-handed for positive parameters."""
        return self.group.cell(self.parameters)

    @property
    def z(self) -> int:
        """Molecules in the primitive cell."""
        return len(self.images) * len(self.centres)

    @property
    def volume_per_molecule(self) -> float:
        """Å3."""
        share = float(np.linalg.det(self.group.primitive)) / self.z
        return float(np.linalg.det(self.cell)) * share

    @property
    def images(self) -> IntArray:
        """Operations that make the molecules of a primitive cell from the independent ones."""
        group, kept = self.group, self.group.representatives
        if self.site is None:
            return kept
        # A molecule on a special position is its own image; g and g s give the same molecule.
        own = group.rotations[self.site.operation]
        seen: set[bytes] = set()
        out = []
        for k in kept.tolist():
            if group.rotations[k].astype(np.int8).tobytes() not in seen:
                out.append(k)
            seen.add((group.rotations[k] @ own).astype(np.int8).tobytes())
        return np.array(out, dtype=np.int64)

    def crystal(self) -> Crystal:
        """All molecules of a primitive, Niggli-reduced cell, centres within it.

        Raises:
            ValueError: the cell is degenerate.
        """
        group, cell = self.group, self.cell
        atoms = np.einsum("mxy,ny->mnx", self.turns, self.offsets)
        molecules = []
        for k in self.images.tolist():
            centre = (self.centres @ group.rotations[k].T + group.translations[k]) @ cell
            molecules.append(centre[:, None] + atoms @ group.cartesian[k].T)
        positions = np.concatenate(molecules).reshape(-1, 3)
        z = self.z
        reduced = niggli_cell(group.primitive @ cell)
        return Crystal(np.tile(self.numbers, z), positions, reduced, z).wrapped()

    def grown(self, factor: float) -> Packing:
        """The same with the cell scaled; molecules keep their shape and fractional centres."""
        return replace(self, parameters=self.parameters * factor)


def random_turns(rng: np.random.Generator, count: int) -> FloatArray:
    """[count, 3, 3] rotation matrices, uniform over all rotations (Shoemake's quaternions)."""
    q = rng.normal(size=(count, 4))
    q /= np.linalg.norm(q, axis=1, keepdims=True)
    return quaternion_turns(q)


def quaternion_turns(q: FloatArray) -> FloatArray:
    """[..., 3, 3] rotation matrices, acting on columns, of unit quaternions [..., 4] (w first)."""
    w, x, y, z = (q[..., k] for k in range(4))
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def turned_about(axis: FloatArray, angle: float) -> FloatArray:
    """[3, 3] rotation by `angle` radians about the unit vector `axis` [3]."""
    half = 0.5 * angle
    return quaternion_turns(np.concatenate([[np.cos(half)], np.sin(half) * axis]))


def turn_onto(start: FloatArray, end: FloatArray) -> FloatArray:
    """[3, 3] a rotation that brings the unit vector `start` [3] onto `end` [3]."""
    half = start + end
    length = float(np.linalg.norm(half))
    if length < 1e-6:
        # Opposite: half a turn about anything at right angles.
        half = np.cross(start, np.eye(3)[int(np.abs(start).argmin())])
        length = float(np.linalg.norm(half))
    return turned_about(half / length, np.pi)
