"""Sampling in a space group: the flow of the open model held to the symmetry of a crystal.

Nearly all crystals of one molecule are symmetric, and a flow that moves every molecule by itself
never ends exactly symmetric. Here each candidate gets a space group, starts from noise that has
its symmetry, and is put back onto the symmetry after every step: the cell by the mean of its
metric over the operations, the molecules by their mean in the frame of the first one. Both are
orthogonal projections, so a field that knew the symmetry would not be changed. The network is
neither trained nor asked differently.

All candidates of a block have one independent molecule and as many operations as molecules in
the primitive cell, so they are one batch whatever their groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from packflow_core.baselines.space_groups import Choice, choices, space_group
from packflow_core.model.open_model import LOG_LENGTH_UNIT, decode_cell

FloatArray = NDArray[np.float64]

#: Groups in which a glide may also run along the diagonal of the cell (P2_1/n and the like).
_DIAGONAL_GLIDES = (7, 13, 14)
_DIAGONAL = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [1.0, 0.0, 1.0]])
_DIAGONAL_SHARE = 1.0 / 3.0
#: Angles of the lattice state stay this far, in degrees, from where its logarithm ends.
_ANGLE_MARGIN = 0.5
#: Groups from here on have hexagonal axes (P3 and up), whose 120 degrees the lattice state of the
#: open models does not reach. They are 1 % of organic crystals.
_FIRST_HEXAGONAL = 143


@dataclass(frozen=True)
class CellSymmetry:
    """A space group in a primitive cell, one operation for each molecule.

    Attributes:
        number: of the group.
        rotations: [z, 3, 3] W of x' = W x + w on fractional columns; the identity first.
        translations: [z, 3] w.
    """

    number: int
    rotations: FloatArray
    translations: FloatArray


def symmetric_groups(z: int, mirror_allowed: bool) -> bool:
    """Whether any space group puts z molecules into a primitive cell, all of them equivalent."""
    return bool(_choices(z, mirror_allowed))


def _choices(z: int, mirror_allowed: bool) -> list[Choice]:
    found = choices(z, sohncke_only=not mirror_allowed)
    return [choice for choice in found if choice.number < _FIRST_HEXAGONAL]


def draw_symmetry(z: int, mirror_allowed: bool, rng: np.random.Generator) -> CellSymmetry:
    """A space group, as often as in the CSD, in a primitive cell with axes in any order.

    Args:
        z: molecules in the primitive cell; `symmetric_groups` must hold.
        mirror_allowed: False for one enantiomer: groups without mirror images only.
        rng: of the candidate.
    """
    found = _choices(z, mirror_allowed)
    weights = np.array([choice.weight for choice in found])
    number = found[int(rng.choice(len(found), p=weights / weights.sum()))].number
    order, diagonal = rng.permutation(3), rng.random()
    return cell_symmetry(number, order, diagonal=diagonal < _DIAGONAL_SHARE)


def cell_symmetry(
    number: int, order: Sequence[int] | NDArray[np.int64], *, diagonal: bool = False
) -> CellSymmetry:
    """A space group with the axes of its primitive cell in a given order.

    Args:
        number: of the group.
        order: which axis of the primitive cell of the standard setting comes first, second, third.
        diagonal: P2_1/n instead of P2_1/c, and likewise Pn, P2/n; no matter to other groups.
    """
    group = space_group(number)
    axes = np.eye(3)[np.asarray(order)]
    if np.linalg.det(axes) < 0:  # a right-handed cell stays one
        axes = -axes
    basis = axes @ group.primitive
    if diagonal and number in _DIAGONAL_GLIDES:
        basis = axes @ _DIAGONAL @ group.primitive
    kept = group.representatives
    kept = kept[np.argsort([not np.array_equal(group.rotations[k], np.eye(3)) for k in kept],
                           kind="stable")]  # fmt: skip
    inverse = np.linalg.inv(basis).T
    rotations = np.rint(inverse @ group.rotations[kept] @ basis.T)
    return CellSymmetry(number, rotations, group.translations[kept] @ inverse.T)


class SymmetricBlock:
    """Symmetry of a block of candidates, as the sampler needs it.

    Args:
        symmetries: of the candidates, all with the same number of operations.
        centres: [B, 3] fractional centres of the first molecules. Which image of each of the
            others is meant follows from them: the one nearest to the origin.
        volume: expected volume of the cell, Å^3.
        device: of the states.
    """

    def __init__(
        self,
        symmetries: Sequence[CellSymmetry],
        centres: FloatArray,
        volume: float,
        device: torch.device,
    ) -> None:
        rotations = np.stack([s.rotations for s in symmetries])
        shifts = np.stack([s.translations for s in symmetries])
        images = np.einsum("bkxy,by->bkx", rotations, centres) + shifts
        shifts = shifts - np.rint(images)

        def tensor(array: FloatArray) -> Tensor:
            return torch.tensor(array, dtype=torch.float32, device=device)

        self._w, self._u = tensor(rotations), tensor(shifts)
        self._inverse = tensor(np.rint(np.linalg.inv(rotations)))
        self._centres = tensor(centres)[:, None]
        self._volume = tensor(np.full((1, 1), volume))

    def place(self, shapes: Tensor, lattice: Tensor) -> tuple[Tensor, Tensor]:
        """Symmetric starting states.

        Args:
            shapes: [B, n, 3] Å first molecules about their centres.
            lattice: [B, 6] any lattice states.
        """
        lattice = self.constrain(lattice)
        first = shapes + self._centres @ decode_cell(lattice, self._volume)
        return self.expand(first, lattice), lattice

    def constrain(self, lattice: Tensor) -> Tensor:
        """Lattice states [B, 6] with the metric averaged over the operations."""
        cell = decode_cell(lattice, self._volume)
        metric = (cell @ cell.transpose(1, 2))[:, None]
        metric = (self._w.transpose(-1, -2) @ metric @ self._w).mean(1)
        lengths = metric.diagonal(dim1=1, dim2=2).sqrt()
        a, b, c = lengths.unbind(-1)
        cosines = torch.stack(
            [metric[:, 1, 2] / (b * c), metric[:, 0, 2] / (a * c), metric[:, 0, 1] / (a * b)], -1
        )
        angles = torch.rad2deg(torch.arccos(cosines.clamp(-0.999, 0.999)))
        share = (angles.clamp(60 + _ANGLE_MARGIN, 120 - _ANGLE_MARGIN) - 60.0) / 60.0
        size = torch.log(lengths / self._volume ** (1 / 3)) / LOG_LENGTH_UNIT
        return torch.cat([size, torch.logit(share)], -1)

    def expand(self, molecule: Tensor, lattice: Tensor) -> Tensor:
        """All molecules [B, z n, 3] Å, mean zero, of the first ones [B, n, 3].

        Args:
            molecule: Å, about the origin of the space group.
            lattice: [B, 6] constrained.
        """
        cell = decode_cell(lattice, self._volume)
        turn = self._turns(cell, self._w)
        x = molecule[:, None] @ turn + (self._u @ cell)[:, :, None]
        x = x.flatten(1, 2)
        return x - x.mean(1, keepdim=True)

    def collapse(self, x: Tensor, lattice: Tensor) -> Tensor:
        """First molecules [B, n, 3] Å, about the origin of the group, that fit x [B, z n, 3] best.

        What symmetry leaves open, a shift along polar axes, is taken as in x.
        """
        cell = decode_cell(lattice, self._volume)
        back = self._turns(cell, self._inverse)
        b, z = self._w.shape[:2]
        each = x.view(b, z, -1, 3) - (self._u @ cell)[:, :, None]
        return (each @ back).mean(1)

    def project(self, x: Tensor, lattice: Tensor) -> tuple[Tensor, Tensor]:
        """The nearest symmetric state."""
        lattice = self.constrain(lattice)
        return self.expand(self.collapse(x, lattice), lattice), lattice

    @staticmethod
    def _turns(cell: Tensor, w: Tensor) -> Tensor:
        """[B, z, 3, 3] Cartesian rotations, acting on rows from the right."""
        inverse = torch.linalg.inv(cell)
        return inverse[:, None] @ w.transpose(-1, -2) @ cell[:, None]
