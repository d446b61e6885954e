"""Many relaxations side by side: their geometries, velocities and step control in flat arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from packflow_core.relax.cell import determinants, expm, log_deformation_forces, times
from packflow_core.relax.fire import Fire
from packflow_core.relax.protocol import RelaxParams
from packflow_core.relax.state import RelaxState

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Shape:
    """What never changes about a crystal of a batch.

    Attributes:
        free: [N] atoms that move.
        bonds: [nb, 2] bonds of all its molecules.
        longest: [nb] Å, length from which each counts as broken.
        volume: Å3 at the start of the relaxation.
    """

    free: BoolArray
    bonds: IntArray
    longest: FloatArray
    volume: float


class Batch:
    """B crystals with A atoms in all.

    Args:
        params: the protocol, the same for all.
        shapes: [B] what is constant.
        states: [B] where they are.

    Attributes:
        n_atoms, starts, owner: [B] atoms, [B] first atom, [A] crystal of each atom.
        positions, cells: [A, 3] and [B, 3, 3] Å, where the next evaluation takes place.
    """

    def __init__(
        self, params: RelaxParams, shapes: Sequence[Shape], states: Sequence[RelaxState]
    ) -> None:
        self._params = params
        self.n_atoms: IntArray = np.array([len(s.q) for s in states], dtype=np.int64)
        self.free = np.concatenate([shape.free for shape in shapes])
        self.start_volumes: FloatArray = np.array([shape.volume for shape in shapes])
        self.longest = np.concatenate([shape.longest for shape in shapes])
        self._index(
            np.concatenate([shape.bonds for shape in shapes]),
            np.array([len(shape.bonds) for shape in shapes], dtype=np.int64),
        )
        factors = [params.cell_factor(len(s.q)) for s in states]
        self._factor = np.array(factors)[:, None, None]
        self._cell_0 = np.stack([s.origin_cell for s in states])
        self._q = np.concatenate([s.q for s in states])
        self._u = np.stack([s.u for s in states])
        self._fire = Fire(
            v=np.concatenate([s.v for s in states]),
            v_cell=np.stack([s.v_cell for s in states]),
            dt=np.array([s.dt for s in states]),
            a=np.array([s.a for s in states]),
            n_downhill=np.array([s.n_downhill for s in states], dtype=np.int64),
            fresh=np.array([s.fresh for s in states], dtype=bool),
        )
        self._place()

    def __len__(self) -> int:
        return len(self.n_atoms)

    def changed(self, keep: BoolArray, new: Batch | None) -> Batch | None:
        """The crystals of a mask [B], followed by those of another batch; None where none are.

        Cheap, because every finished crystal costs one such change.
        """
        parts = [(self, keep)] if keep.any() else []
        if new is not None:
            parts.append((new, np.ones(len(new), dtype=bool)))
        if not parts:
            return None
        if len(parts) == 1 and keep.all():
            return parts[0][0]
        masks = {
            "crystal": [mask for _, mask in parts],
            "atom": [mask[batch.owner] for batch, mask in parts],
            "bond": [mask[batch.bond_owner] for batch, mask in parts],
        }

        def joined(kind: str, name: str) -> Any:
            arrays = [
                _get(batch, name)[mask] for (batch, _), mask in zip(parts, masks[kind], strict=True)
            ]
            return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)

        whole = object.__new__(Batch)
        whole._params = self._params
        whole._fire = object.__new__(Fire)
        per_molecule = []
        for kind, names in _FIELDS.items():
            for name in names:
                _set(whole, name, joined(kind, name))
        for (batch, _), mask in zip(parts, masks["bond"], strict=True):
            per_molecule.append((batch.bonds - batch.starts[batch.bond_owner][:, None])[mask])
        counts = [
            np.bincount(batch.bond_owner, minlength=len(batch))[mask] for batch, mask in parts
        ]
        whole._index(np.concatenate(per_molecule), np.concatenate(counts))
        whole._place()
        return whole

    def _index(self, bonds: IntArray, bond_counts: IntArray) -> None:
        """Everything that says where a crystal's atoms and bonds are."""
        size = len(self.n_atoms)
        self.starts = np.cumsum(self.n_atoms) - self.n_atoms
        self.owner = np.repeat(np.arange(size), self.n_atoms)
        self.bond_owner = np.repeat(np.arange(size), bond_counts)
        self.bonds = bonds + self.starts[self.bond_owner][:, None]

    def _place(self) -> None:
        """Geometry of the present coordinates."""
        if not self._params.moves_cell:
            self.positions, self.cells = self._q, self._cell_0
            self.volumes = determinants(self.cells)
            return
        self._x = self._u / self._factor
        self._f = expm(self._x)
        transposed = self._f.swapaxes(-1, -2)
        self.cells = np.matmul(self._cell_0, transposed)
        self.positions = times(self._q, transposed[self.owner])
        self.volumes = determinants(self.cells)

    def generalised_forces(
        self, forces: FloatArray, stress: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """Forces on the coordinates, [A, 3] and [B, 3, 3], of forces and stress of the engine."""
        if not self._params.moves_cell:
            return np.where(self.free[:, None], forces, 0.0), np.zeros_like(self._u)
        on_cell = log_deformation_forces(self._x, self.volumes, stress) / self._factor
        return times(forces, self._f[self.owner]), on_cell

    def step(self, forces: FloatArray, cell_forces: FloatArray) -> None:
        """One FIRE step with generalised forces."""
        moved, moved_cell = self._fire.step(forces, cell_forces, self.starts, self.owner)
        self._q = self._q + moved
        self._u = self._u + moved_cell
        self._place()

    def store(self, k: int, state: RelaxState) -> None:
        """Copy coordinates and step control of crystal k into its state."""
        atoms = self.atoms(k)
        state.q, state.u = self._q[atoms].copy(), self._u[k].copy()
        state.v, state.v_cell = self._fire.v[atoms].copy(), self._fire.v_cell[k].copy()
        state.dt, state.a = float(self._fire.dt[k]), float(self._fire.a[k])
        state.n_downhill, state.fresh = int(self._fire.n_downhill[k]), bool(self._fire.fresh[k])

    def atoms(self, k: int) -> slice:
        """Atoms of crystal k."""
        begin = int(self.starts[k])
        return slice(begin, begin + int(self.n_atoms[k]))

    def largest_rows(self, forces: FloatArray) -> FloatArray:
        """Largest length [B] of a row of forces [A, 3], crystal by crystal."""
        lengths = np.sqrt(
            forces[:, 0] * forces[:, 0] + forces[:, 1] * forces[:, 1] + forces[:, 2] * forces[:, 2]
        )
        return np.asarray(np.maximum.reduceat(lengths, self.starts))

    def any_atom(self, mask: Any) -> BoolArray:
        """Crystals [B] with an atom in a mask [A]."""
        return np.asarray(np.logical_or.reduceat(mask, self.starts))


#: Arrays with one entry per crystal, atom or bond; names behind a dot belong to the optimiser.
_FIELDS: dict[str, tuple[str, ...]] = {
    "crystal": (
        "n_atoms", "start_volumes", "_factor", "_cell_0", "_u", "_fire.v_cell", "_fire.dt",
        "_fire.a", "_fire.n_downhill", "_fire.fresh",
    ),
    "atom": ("free", "_q", "_fire.v"),
    "bond": ("longest",),
}  # fmt: skip


def _get(batch: Batch, name: str) -> Any:
    owner, _, last = name.rpartition(".")
    return getattr(getattr(batch, owner) if owner else batch, last)


def _set(batch: Batch, name: str, value: Any) -> None:
    owner, _, last = name.rpartition(".")
    setattr(getattr(batch, owner) if owner else batch, last, value)
