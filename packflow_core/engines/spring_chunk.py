"""Crystals of the engine `springs`, and the sums over their pairs of atoms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from packflow_core.crystal.crystal import Crystal
from packflow_core.engines.base import EngineError
from packflow_core.engines.pair_list import PairList, build_pairs, still_complete
from packflow_core.engines.spring_terms import (
    CUTOFF,
    N_KINDS,
    Springs,
    atom_kinds,
    bonded,
    spring,
    springs_of,
    well,
    well_tables,
)
from packflow_core.store.schema import Reason

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


class SpringsSystem:
    """One crystal: its springs, the kinds of its atoms, and its latest neighbour list.

    The list is a matter of speed: numbers do not depend on it.

    Attributes:
        springs: distances inside the molecules.
        kinds: [N] kinds of atoms (`spring_terms.atom_kinds`).
        hops: [N, 3] lattice translations that bring each molecule into the first cell, as they
            were in the crystal; molecules that start far away would need lists of many images.
        molecule_atoms: atoms of one molecule.
        listed: the latest neighbour list.
    """

    def __init__(self, crystal: Crystal) -> None:
        bonds = bonded(crystal)
        try:
            self.kinds = atom_kinds(crystal, bonds)
        except ValueError as error:
            raise EngineError(Reason.ENGINE, str(error)) from error
        self.springs: Springs = springs_of(crystal, bonds)
        self.molecule_atoms = len(crystal) // crystal.z
        centres = crystal.fractional.reshape(crystal.z, -1, 3).mean(axis=1)
        self.hops: FloatArray = np.repeat(np.floor(centres), self.molecule_atoms, axis=0)
        self.listed: Listed | None = None


@dataclass(frozen=True, eq=False)
class Listed:
    """A neighbour list and the geometry it was made for."""

    pairs: PairList
    positions: FloatArray
    inverse_cell: FloatArray


def _no_pairs(n_atoms: int) -> Listed:
    """A list for a crystal that cannot have one; never complete."""
    none = np.zeros(0, dtype=np.int32)
    return Listed(
        PairList(none, none, none, np.zeros((0, 3))),
        np.full((n_atoms, 3), np.nan),
        np.full((3, 3), np.nan),
    )


class Chunk:
    """Some crystals whose pairs are computed together.

    Args:
        systems: the crystals.
        device: where.
        skin: Å that lists reach beyond the cutoff.
    """

    def __init__(self, systems: Sequence[SpringsSystem], device: torch.device, skin: float) -> None:
        self._systems = list(systems)
        self._device = device
        self._reach = CUTOFF + skin
        sizes = np.array([len(system.kinds) for system in systems], dtype=np.int64)
        self._starts = np.cumsum(sizes) - sizes
        self._crystal = np.repeat(np.arange(len(sizes)), sizes)
        self._kinds = np.concatenate([system.kinds for system in systems])
        self._spring_i = self._joined([s.springs.i for s in systems], self._starts)
        self._spring_j = self._joined([s.springs.j for s in systems], self._starts)
        self._length = self._tensor(np.concatenate([s.springs.length for s in systems]))
        self._stiffness = self._tensor(np.concatenate([s.springs.stiffness for s in systems]))
        # Lists of this chunk's own: one system may be at two geometries in two places.
        self._lists = [s.listed or _no_pairs(len(s.kinds)) for s in systems]
        self._collected = False
        self._remember()

    def _tensor(self, values: NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(self._device)

    def _joined(self, indices: Sequence[NDArray[Any]], offsets: IntArray) -> torch.Tensor:
        """Indices of several crystals, each moved by its offset."""
        shift = np.repeat(offsets, [len(part) for part in indices])
        return self._tensor(np.concatenate(indices) + shift)

    def _remember(self) -> None:
        """Keep the geometries for which the lists were made."""
        self._listed_positions = np.concatenate([listed.positions for listed in self._lists])
        self._listed_inverse = np.stack([listed.inverse_cell for listed in self._lists])

    def _collect(self) -> None:
        """Make one list of the lists of all crystals."""
        pairs = [listed.pairs for listed in self._lists]
        counts = np.array([len(p.atom) for p in pairs], dtype=np.int64)
        self._i = self._joined([p.i for p in pairs], self._starts)
        self._ghost = self._joined([p.ghost for p in pairs], np.cumsum(counts) - counts)
        self._ghost_atom = self._joined([p.atom for p in pairs], self._starts)
        self._ghost_crystal = self._tensor(np.repeat(np.arange(len(pairs)), counts))
        self._shift = self._tensor(np.concatenate([p.shift for p in pairs]).T)
        kinds = self._tensor(self._kinds)
        pair_kinds = kinds[self._i] * N_KINDS + kinds[self._ghost_atom][self._ghost]
        inverse, depth = well_tables()
        self._inverse = self._tensor(inverse)[pair_kinds]
        self._depth = self._tensor(depth)[pair_kinds]
        self._collected = True

    def update(self, positions: FloatArray, cells: FloatArray) -> dict[int, EngineError]:
        """Renew the lists that may have become incomplete.

        Returns:
            By place in the chunk: crystals that cannot have a list, and why.
        """
        gradient = (self._listed_inverse[:, :, :, None] * cells[:, None]).sum(axis=2)
        deformation = gradient[self._crystal]
        expected = (self._listed_positions[:, :, None] * deformation).sum(axis=1)
        moved = np.sqrt(((positions - expected) ** 2).sum(axis=1))
        displacement = np.maximum.reduceat(moved, self._starts)
        complete = still_complete(displacement, gradient, CUTOFF, self._reach)
        errors: dict[int, EngineError] = {}
        for k in np.flatnonzero(~complete).tolist():
            system = self._systems[k]
            own = positions[self._crystal == k]
            try:
                pairs = build_pairs(own, cells[k], system.molecule_atoms, self._reach)
            except ValueError as error:
                errors[k] = EngineError(Reason.BAD_CELL, str(error))
                self._lists[k] = _no_pairs(len(own))
                continue
            self._lists[k] = Listed(pairs, own, np.linalg.inv(cells[k]))
            system.listed = self._lists[k]
        if not complete.all():
            self._remember()
        if not (complete.all() and self._collected):
            self._collect()
        return errors

    def gradients(
        self, positions: FloatArray, cells: FloatArray, work: Workspace
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Sums over pairs, in the order of the lists.

        Args:
            positions: [A, 3] Å.
            cells: [C, 3, 3] Å.
            work: memory.

        Returns:
            Energies [A] in eV, each pair's with its first atom; derivatives [A, 3] of the
            energy by the positions in eV/Å; and [A, 3, 3] the share of each atom's images in the
            derivative of the energy by the cell in eV/Å, atoms held where they are.
        """
        x = self._tensor(positions.T)
        vectors = self._tensor(cells.transpose(1, 2, 0))
        n = len(positions)
        energies = torch.zeros(n, dtype=torch.float64, device=self._device)
        gradients = torch.zeros(3, n, dtype=torch.float64, device=self._device)
        images = torch.zeros(3, 3, n, dtype=torch.float64, device=self._device)

        # Springs.
        i, j = self._spring_i, self._spring_j
        d = [x[a].index_select(0, j).sub_(x[a].index_select(0, i)) for a in range(3)]
        squared = d[0] * d[0] + d[1] * d[1] + d[2] * d[2]
        energy, slope = spring(squared, self._length, self._stiffness)
        energies.scatter_add_(0, i, energy)
        slope += slope
        for a in range(3):
            force = slope * d[a]
            gradients[a].scatter_add_(0, j, force)
            gradients[a].scatter_add_(0, i, force.neg_())

        # Wells. Ghosts first, so that a pair costs two look-ups a coordinate.
        i, j = self._i, self._ghost
        room = work.take(9, len(i))
        for a in range(3):
            place = x[a].index_select(0, self._ghost_atom)
            for b in range(3):
                place += self._shift[b] * vectors[b, a].index_select(0, self._ghost_crystal)
            torch.index_select(place, 0, j, out=room[a])
            room[a].sub_(torch.index_select(x[a], 0, i, out=room[3]))
        squared = torch.mul(room[0], room[0], out=room[3])
        squared.add_(torch.mul(room[1], room[1], out=room[4]))
        squared.add_(torch.mul(room[2], room[2], out=room[4]))
        energy, slope = well(squared, self._inverse, self._depth, room[4:])
        energies.scatter_add_(0, i, energy)
        slope.add_(slope)
        for a in range(3):
            force = room[a].mul_(slope)
            on_ghosts = torch.zeros_like(place).scatter_add_(0, j, force)
            gradients[a].scatter_add_(0, i, force.neg_())
            gradients[a].scatter_add_(0, self._ghost_atom, on_ghosts)
            for b in range(3):
                images[b, a].scatter_add_(0, self._ghost_atom, on_ghosts * self._shift[b])
        return (
            energies.cpu().numpy(),
            gradients.cpu().numpy().T,
            images.cpu().numpy().transpose(2, 0, 1),
        )


class Workspace:
    """Memory for intermediate values of one chunk after the other; stays in the cache of a CPU."""

    def __init__(self, device: torch.device) -> None:
        self._memory = torch.empty(0, dtype=torch.float64, device=device)

    def take(self, rows: int, length: int) -> torch.Tensor:
        """[rows, length] undefined values; overwrites those of the call before."""
        if len(self._memory) < rows * length:
            # Lists grow a little from time to time.
            self._memory = self._memory.new_empty(rows * length * 5 // 4)
        return self._memory[: rows * length].view(rows, length)
