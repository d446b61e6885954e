"""Lists of the pairs that may touch in a batch of packings, renewed when they may be incomplete.

Lists are a matter of speed alone: they reach beyond the contacts, and pairs that do not touch are
left out of all sums, which are taken in an order that does not depend on the age of a list.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from packflow_core.baselines.packing import Packing
from packflow_core.baselines.packing_pairs import ImagePairs, Shape, image_pairs
from packflow_core.baselines.press_math import determinants

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Tensor = torch.Tensor

#: Å that lists reach beyond the contacts.
SKIN = 1.0

#: Å of the skin that are never used up, far above the rounding of a displacement.
_RESERVE = 1e-6


@dataclass(eq=False)
class Member:
    """One candidate in the batch: what is constant, and its latest list.

    Attributes:
        packing: the start; group, atoms and site stay.
        shape: its molecule, with the distances at which atoms begin to repel each other.
        pairs: latest list, None before the first and where there cannot be one.
        listed: [M n, 3] atoms and inverse cell that the list was made for.
        fault: why there is no list, else empty.
    """

    packing: Packing
    shape: Shape
    pairs: ImagePairs | None = None
    listed: tuple[FloatArray, FloatArray] | None = None
    fault: str = ""


class Lists:
    """The lists of a batch, and one list of them all.

    Images are those of `ImagePairs`, one member's after the other's. Molecules are numbered
    through the batch, atoms through its molecules, and ghosts through the atoms of the images.

    Args:
        members: the candidates.
        n_molecules: independent molecules to make room for.

    Attributes:
        slot: [K] member that an image belongs to.
        i: [K] molecule the image is near to.
        j: [K] molecule it is an image of.
        rotation: [3, 3, K] fractional rotation of the operation.
        offset: [3, K] translation.
        cartesian: [3, 3, K] Cartesian rotation.
        sign: [K] its determinant.
        image: [P] image of a pair.
        a: [P] atom of molecule i.
        b: [P] ghost, an atom of the image.
        limit: [P] Å distance at which the two begin to repel each other.
        weight: [P] of the pair.
    """

    slot: Tensor
    i: Tensor
    j: Tensor
    rotation: Tensor
    offset: Tensor
    cartesian: Tensor
    sign: Tensor
    image: Tensor
    a: Tensor
    b: Tensor
    limit: Tensor
    weight: Tensor

    def __init__(self, members: Sequence[Member], n_molecules: int) -> None:
        self.members = list(members)
        self._n_molecules = n_molecules
        self._n_atoms = len(members[0].shape.offsets)
        self._largest = np.array([m.shape.largest for m in members])
        # Geometry that each list was made for; NaN counts as stale.
        self._listed_atoms = np.full((len(members), n_molecules * self._n_atoms, 3), np.nan)
        self._listed_inverse = np.full((len(members), 3, 3), np.nan)
        for k, member in enumerate(members):
            if member.listed is not None:
                self._listed_atoms[k], self._listed_inverse[k] = member.listed
        self._collected = False

    def lost(self) -> list[int]:
        """Members that have no list."""
        return [k for k, member in enumerate(self.members) if member.pairs is None]

    def refresh(self, cells: Tensor, centres: Tensor, turns: Tensor, atoms: Tensor) -> None:
        """Renew the lists that may have become incomplete.

        Args:
            cells: [3, 3, S] Å.
            centres: [3, M, S] fractional.
            turns: [3, 3, M, S] rotation matrices.
            atoms: [3, S, M, n] Å turned atoms about their centres.
        """
        cell = cells.permute(2, 0, 1).numpy()
        centre = centres.permute(2, 1, 0).numpy()
        # Sums instead of products of matrices: their rounding does not depend on the batch.
        at = (centre[..., None] * cell[:, None]).sum(axis=2)
        now = atoms.permute(1, 2, 3, 0).numpy() + at[:, :, None]
        now = now.reshape(len(self.members), -1, 3)
        stale = self._stale(cell, now)
        for k in np.flatnonzero(stale).tolist():
            turn = turns[..., k].permute(2, 0, 1).numpy()
            self._renew(k, cell[k], centre[k], turn, now[k])
        if stale.any() or not self._collected:
            self._collect()

    def _stale(self, cell: FloatArray, now: FloatArray) -> NDArray[np.bool_]:
        """[S] whether pairs that are not listed may touch."""
        gradient = (self._listed_inverse[:, :, :, None] * cell[:, None]).sum(axis=2)
        expected = (self._listed_atoms[..., None] * gradient[:, None]).sum(axis=2)
        moved = np.sqrt(((now - expected) ** 2).sum(axis=2).max(axis=1))
        strain = np.sqrt(((gradient - np.eye(3)) ** 2).sum(axis=(1, 2)))
        # A pair outside the list was farther apart than its limit + SKIN; strained by F and moved
        # by u on top, it is at least (1 - |F - 1|) (limit + SKIN) - 2 |u| apart. The operations
        # of the group commute with F, so images move by as much as the molecules themselves.
        left = (1.0 - strain) * (self._largest + SKIN) - 2.0 * moved - self._largest
        return np.asarray(~(left > _RESERVE))

    def _renew(
        self, k: int, cell: FloatArray, centres: FloatArray, turns: FloatArray, now: FloatArray
    ) -> None:
        """Make the list of member k anew."""
        member = self.members[k]
        packing, count = member.packing, len(member.packing.centres)
        member.pairs, member.listed, member.fault = None, None, ""
        try:
            if not (np.isfinite(now).all() and np.linalg.det(cell) > 0):
                raise ValueError("the cell has collapsed")
            member.pairs = image_pairs(
                packing.group,
                member.shape,
                cell,
                centres[:count],
                turns[:count],
                skin=SKIN,
                site=packing.site,
            )
            inverse = np.asarray(np.linalg.inv(cell), dtype=np.float64)
        except ValueError as error:
            member.fault = str(error)
            self._listed_inverse[k] = np.nan
            return
        member.listed = now.copy(), inverse
        self._listed_atoms[k], self._listed_inverse[k] = member.listed

    def _collect(self) -> None:
        """Make one list of the lists of all members."""
        found = [(k, m.packing.group, m.pairs) for k, m in enumerate(self.members) if m.pairs]
        images = [len(p.i) for _, _, p in found]
        first = np.cumsum([0, *images])[:-1]
        none: list[NDArray[np.int64]] = [np.zeros(0, dtype=np.int64)]
        slot = np.repeat(np.array([k for k, _, _ in found], dtype=np.int64), images)
        i = slot * self._n_molecules + np.concatenate([p.i for _, _, p in found] or none)
        j = slot * self._n_molecules + np.concatenate([p.j for _, _, p in found] or none)
        image = np.concatenate(
            [p.image + f for (_, _, p), f in zip(found, first.tolist(), strict=True)] or none
        )
        a = np.concatenate([p.a for _, _, p in found] or none)
        b = np.concatenate([p.b for _, _, p in found] or none)
        self.slot, self.i, self.j = (torch.from_numpy(x) for x in (slot, i, j))
        self.image = torch.from_numpy(image)
        self.a = torch.from_numpy(i[image] * self._n_atoms + a)
        self.b = torch.from_numpy(image * self._n_atoms + b)
        self.rotation = _last([g.rotations[p.operation] for _, g, p in found], (3, 3))
        self.cartesian = _last([g.cartesian[p.operation] for _, g, p in found], (3, 3))
        self.sign = determinants(self.cartesian).round()
        self.offset = _last([p.offset for _, _, p in found], (3,))
        self.limit = _last([p.limit for _, _, p in found], ())
        self.weight = _last([p.weight for _, _, p in found], ())
        self._collected = True


def _last(parts: list[FloatArray], shape: tuple[int, ...]) -> Tensor:
    """Arrays [n, ...] joined, with the first index last."""
    joined = np.concatenate([np.zeros((0, *shape)), *parts])
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(joined, 0, -1)))
