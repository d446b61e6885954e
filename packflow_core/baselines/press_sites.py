"""Molecules on special positions in a batch: what may move, and where they are held."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from packflow_core.baselines.packing import Packing

Tensor = torch.Tensor


class Sites:
    """Constraints of special positions.

    The operation S = (R, t) of order two maps such a molecule onto itself. Its centre may move
    along (1 + R) and it may turn about (1 + det R R), so gradients are projected onto these, and
    rounding is kept from carrying the centre away.

    Args:
        packings: the candidates.
        n_molecules: independent molecules of the batch; one on a special position is alone.
    """

    def __init__(self, packings: Sequence[Packing], n_molecules: int) -> None:
        self._m = n_molecules
        held = [(k, p) for k, p in enumerate(packings) if p.site is not None]
        self._slots = torch.tensor([k for k, _ in held], dtype=torch.int64)
        turn, rotation, shift = np.zeros((2, len(held), 3, 3)), [], []
        for n, (_, packing) in enumerate(held):
            site, group = packing.site, packing.group
            assert site is not None
            matrix = group.cartesian[site.operation]
            turn[0, n] = 0.5 * (np.eye(3) + matrix)
            turn[1, n] = 0.5 * (np.eye(3) + np.rint(np.linalg.det(matrix)) * matrix)
            rotation.append(group.rotations[site.operation])
            shift.append(group.translations[site.operation] + site.shift)
        self._projectors = torch.from_numpy(turn.transpose(0, 2, 3, 1).copy())
        if held:
            self._rotation = torch.from_numpy(np.stack(rotation, axis=-1))
            self._shift = torch.from_numpy(np.stack(shift, axis=-1))

    def project(self, gradient: Tensor) -> None:
        """Take out of a gradient [6 M, S] what is not allowed, in place."""
        if not len(self._slots):
            return
        for part in range(2):
            rows = [(3 * part + x) * self._m for x in range(3)]
            old = [gradient[row, self._slots] for row in rows]
            p = self._projectors[part]
            for x in range(3):
                new = p[x, 0] * old[0] + p[x, 1] * old[1] + p[x, 2] * old[2]
                gradient[rows[x], self._slots] = new

    def hold(self, centres: Tensor) -> Tensor:
        """Fractional centres [3, M, S] put back onto their symmetry elements."""
        if not len(self._slots):
            return centres
        old = [centres[x, 0, self._slots] for x in range(3)]
        w = self._rotation
        for x in range(3):
            image = w[x, 0] * old[0] + w[x, 1] * old[1] + w[x, 2] * old[2] + self._shift[x]
            centres[x, 0, self._slots] = 0.5 * (old[x] + image)
        return centres
