"""Many packings at once: their press energy and its gradient, in torch.

All sums run over one candidate's entries in one fixed order and everything else is elementwise, so
that a candidate's numbers are the same to the last bit whatever else is in the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from packflow_core.baselines.press_lists import Lists, Member
from packflow_core.baselines.press_math import (
    cofactors,
    cross,
    determinants,
    inner,
    matrices,
    quaternions,
    sums,
    turned,
)
from packflow_core.baselines.press_sites import Sites
from packflow_core.baselines.space_groups import MAX_PARAMETERS

Tensor = torch.Tensor

#: Distance in Å at which the direction of a contact is still defined.
_COINCIDENT = 1e-9


@dataclass(eq=False)
class Geometry:
    """Variables of the candidates of a batch.

    Attributes:
        parameters: [6, S] Å cell parameters, padded with zeros.
        centres: [3, M, S] fractional centres, padded with zeros.
        turns: [4, M, S] unit quaternions, padded with that of no turn.
    """

    parameters: Tensor
    centres: Tensor
    turns: Tensor

    def take(self, keep: Tensor) -> Geometry:
        """The candidates of the index `keep`."""
        return Geometry(
            self.parameters[..., keep].contiguous(),
            self.centres[..., keep].contiguous(),
            self.turns[..., keep].contiguous(),
        )

    def where(self, mask: Tensor, other: Geometry) -> Geometry:
        """These where `mask` [S] is true, else those of `other`."""
        return Geometry(
            torch.where(mask, self.parameters, other.parameters),
            torch.where(mask, self.centres, other.centres),
            torch.where(mask, self.turns, other.turns),
        )


def joined(parts: Sequence[Geometry]) -> Geometry:
    """Several batches one after the other."""
    return Geometry(
        torch.cat([part.parameters for part in parts], dim=-1),
        torch.cat([part.centres for part in parts], dim=-1),
        torch.cat([part.turns for part in parts], dim=-1),
    )


class _Touching(NamedTuple):
    """Sums over the pairs that touch.

    Attributes:
        energy: [S] Å².
        force: 3 x [K] derivative by the vector to an image's centre.
        twist: 3 x [K] by a turn of the image about its centre.
        back: 3 x [K] by a turn of the molecule it is near to, with the sign reversed.
    """

    energy: Tensor
    force: list[Tensor]
    twist: list[Tensor]
    back: list[Tensor]


class Batch:
    """Energy and gradient of candidates that share a molecule's atoms and order.

    Args:
        members: the candidates.
        n_molecules: independent molecules to make room for.
    """

    def __init__(self, members: Sequence[Member], n_molecules: int) -> None:
        self.members = list(members)
        self.n_molecules = n_molecules
        self.n_atoms = len(members[0].shape.offsets)
        self._lists = Lists(members, n_molecules)
        self._sites = Sites([m.packing for m in members], n_molecules)
        basis = np.zeros((MAX_PARAMETERS, 3, 3, len(members)))
        for k, member in enumerate(members):
            group = member.packing.group
            basis[: len(group.basis), :, :, k] = group.basis
        self._basis = torch.from_numpy(basis)
        body = np.stack([m.shape.offsets.T for m in members], axis=1)
        self._body = torch.from_numpy(body)[:, :, None]  # [3, S, 1, n]
        #: [S] volume of an asymmetric unit over that of the cell.
        self.share = torch.tensor(
            [(1.0 if m.packing.site is None else 2.0) / m.packing.group.n_operations
             for m in members],
            dtype=torch.float64,
        )  # fmt: skip

    def geometry(self) -> Geometry:
        """Where the members start."""
        s, m = len(self.members), self.n_molecules
        parameters = np.zeros((MAX_PARAMETERS, s))
        centres = np.zeros((3, m, s))
        turns = np.zeros((4, m, s))
        turns[0] = 1.0
        for k, member in enumerate(self.members):
            packing = member.packing
            count = len(packing.centres)
            parameters[: len(packing.parameters), k] = packing.parameters
            centres[:, :count, k] = packing.centres.T
            turns[:, :count, k] = quaternions(packing.turns).T
        return Geometry(*(torch.from_numpy(x) for x in (parameters, centres, turns)))

    def cells(self, geometry: Geometry) -> Tensor:
        """[3, 3, S] Å conventional cells."""
        cell = geometry.parameters[0] * self._basis[0]
        for k in range(1, MAX_PARAMETERS):
            cell = cell + geometry.parameters[k] * self._basis[k]
        return cell

    def faces(self, geometry: Geometry) -> Tensor:
        """[S] Å2 of a cube as large as an asymmetric unit."""
        return (self.share * determinants(self.cells(geometry))).abs() ** (2.0 / 3.0)

    def moved(self, geometry: Geometry, step: Tensor) -> Geometry:
        """The geometry after a step [6 + 6 M, S] in the units of the gradient."""
        m = self.n_molecules
        cells = self.cells(geometry)
        area, volume = cofactors(cells), determinants(cells)
        shift = step[6 : 6 + 3 * m].view(3, m, -1)
        centres = torch.stack(
            [
                geometry.centres[x]
                + (shift[0] * area[x][0] + shift[1] * area[x][1] + shift[2] * area[x][2]) / volume
                for x in range(3)
            ]
        )
        turns = turned(geometry.turns, step[6 + 3 * m :].view(3, m, -1))
        return Geometry(geometry.parameters + step[:6], self._sites.hold(centres), turns)

    def energy(self, geometry: Geometry, pressure: Tensor) -> tuple[Tensor, Tensor]:
        """Energy [S] in Å² and its gradient [6 + 6 M, S] in Å.

        The gradient is by cell parameters (centres keep their fractional coordinates), by shifts
        of the centres [3, M] in Å and by turns [3, M] in radians, all about the current geometry.

        Args:
            geometry: where.
            pressure: [S] 1/Å.

        Returns:
            Both; the energy is infinite for a cell that is too flat to be searched.
        """
        cells, matrix = self.cells(geometry), matrices(geometry.turns)
        t = matrix.transpose(-1, -2)[..., None]  # [3, 3, S, M, 1]
        body = self._body
        atoms = torch.stack(
            [t[x, 0] * body[0] + t[x, 1] * body[1] + t[x, 2] * body[2] for x in range(3)]
        )
        self._lists.refresh(cells, geometry.centres, matrix, atoms)
        lists, s, m = self._lists, len(self.members), self.n_molecules

        # Centres of the images as seen from the molecules they are near to.
        centres = geometry.centres.permute(0, 2, 1).reshape(3, s * m)
        u = [centres[x].index_select(0, lists.j) for x in range(3)]
        w = lists.rotation
        apart = [
            w[x, 0] * u[0] + w[x, 1] * u[1] + w[x, 2] * u[2] + lists.offset[x]
            - centres[x].index_select(0, lists.i)
            for x in range(3)
        ]  # fmt: skip
        touching = self._touching(cells, atoms.reshape(3, s * m, self.n_atoms), apart)

        # From images to molecules: the operation's transpose turns vectors back.
        force, twist, c = touching.force, touching.twist, lists.cartesian
        out = torch.zeros(6 + 6 * m, s, dtype=torch.float64)
        for x in range(3):
            pull = c[0, x] * force[0] + c[1, x] * force[1] + c[2, x] * force[2]
            turn = lists.sign * (c[0, x] * twist[0] + c[1, x] * twist[1] + c[2, x] * twist[2])
            shift = sums(pull, lists.j, s * m) - sums(force[x], lists.i, s * m)
            spin = sums(turn, lists.j, s * m) - sums(touching.back[x], lists.i, s * m)
            out[6 + x * m : 6 + (x + 1) * m] = shift.view(s, m).T
            out[6 + (3 + x) * m : 6 + (4 + x) * m] = spin.view(s, m).T
        self._sites.project(out[6:])
        # The cell: pulls on the vectors between centres, and the pressure.
        work, area = pressure * self.share, cofactors(cells)
        for x in range(3):
            for y in range(3):
                by_cell = sums(apart[x] * force[y], lists.slot, s) + work * area[x][y]
                for q in range(MAX_PARAMETERS):
                    out[q] += self._basis[q, x, y] * by_cell
        energy = touching.energy + work * determinants(cells)
        energy[lists.lost()] = torch.inf
        return energy, out

    def _touching(self, cells: Tensor, atoms: Tensor, apart: list[Tensor]) -> _Touching:
        """Sums over pairs.

        Args:
            cells: [3, 3, S] Å.
            atoms: [3, S M, n] Å about the centres.
            apart: 3 x [K] fractional vectors to the centres of the images.
        """
        lists = self._lists
        c = lists.cartesian[..., None]
        body = [atoms[x].index_select(0, lists.j) for x in range(3)]
        ghosts, d = [], []
        for x in range(3):
            at = inner(apart, [cells[y, x].index_select(0, lists.slot) for y in range(3)])
            ghosts.append(c[x, 0] * body[0] + c[x, 1] * body[1] + c[x, 2] * body[2])
            far = (ghosts[x] + at[:, None]).view(-1).index_select(0, lists.b)
            d.append(far.sub_(atoms[x].reshape(-1).index_select(0, lists.a)))
        squared = inner(d, d)
        near = torch.nonzero(squared < lists.limit * lists.limit).view(-1)
        distance = squared.index_select(0, near).sqrt_()
        missing = lists.limit.index_select(0, near) - distance
        weighted = lists.weight.index_select(0, near) * missing
        image = lists.image.index_select(0, near)
        # Coincident atoms have no direction to part in; their pair gives no force.
        slope = torch.where(
            distance > _COINCIDENT, -weighted / distance.clamp(min=_COINCIDENT), 0.0
        )
        g = [slope * d[x].index_select(0, near) for x in range(3)]
        a, b = lists.a.index_select(0, near), lists.b.index_select(0, near)
        there = [ghosts[x].reshape(-1).index_select(0, b) for x in range(3)]
        here = [atoms[x].reshape(-1).index_select(0, a) for x in range(3)]
        k = len(lists.slot)
        return _Touching(
            sums(0.5 * weighted * missing, lists.slot.index_select(0, image), len(self.members)),
            [sums(part, image, k) for part in g],
            [sums(part, image, k) for part in cross(there, g)],
            [sums(part, image, k) for part in cross(here, g)],
        )
