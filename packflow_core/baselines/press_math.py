"""Small algebra over a batch, elementwise: the last index runs over candidates or pairs.

Matrix products of libraries choose their order of summation by the size of the batch; these do
not, so that a candidate's numbers are the same to the last bit in any company.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

FloatArray = NDArray[np.float64]
Tensor = torch.Tensor


def sums(values: Tensor, index: Tensor, size: int) -> Tensor:
    """[size] sums of the values [P] with each index [P], added in their order."""
    return torch.zeros(size, dtype=values.dtype).scatter_add_(0, index, values)


def dot(a: Tensor, b: Tensor) -> Tensor:
    """[S] products of the columns of two matrices [D, S]."""
    out = a[0] * b[0]
    for k in range(1, len(a)):
        out = out + a[k] * b[k]
    return out


def times(matrix: Tensor, vector: Tensor) -> Tensor:
    """[D, S] matrices [D, D, S] times vectors [D, S]."""
    out = matrix[:, 0] * vector[0]
    for k in range(1, len(vector)):
        out = out + matrix[:, k] * vector[k]
    return out


def inner(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """Inner products of vectors, given by component."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def cross(a: Sequence[Tensor], b: Sequence[Tensor]) -> list[Tensor]:
    """Cross products, by component."""
    return [
        a[1] * b[2] - a[2] * b[1],
        a[2] * b[0] - a[0] * b[2],
        a[0] * b[1] - a[1] * b[0],
    ]


def cofactors(m: Tensor) -> list[list[Tensor]]:
    """Derivatives of the determinant by the entries of matrices [3, 3, S]; of a cell, its faces."""
    rows = [list(row) for row in m]
    return [cross(rows[(k + 1) % 3], rows[(k + 2) % 3]) for k in range(3)]


def determinants(m: Tensor) -> Tensor:
    """[S] determinants of matrices [3, 3, S]; of a cell, its volume."""
    rows = [list(row) for row in m]
    return inner(rows[0], cross(rows[1], rows[2]))


def matrices(q: Tensor) -> Tensor:
    """[3, 3, ...] rotation matrices, acting on columns, of unit quaternions [4, ...]."""
    w, x, y, z = q
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return torch.stack([torch.stack(row) for row in rows])


def turned(q: Tensor, vector: Tensor) -> Tensor:
    """Unit quaternions [4, ...] turned further by rotation vectors [3, ...] in radians."""
    square = vector[0] * vector[0] + vector[1] * vector[1] + vector[2] * vector[2]
    half = 0.5 * torch.sqrt(square)
    # sin(a/2) / a, whose series is exact to rounding where the quotient is not.
    small = half < 1e-4
    scale = torch.where(small, 0.5 - square / 48.0, torch.sin(half) / (2.0 * half).clamp(min=1e-30))
    w, (x, y, z) = torch.cos(half), (scale * vector[k] for k in range(3))
    a, b, c, d = q
    out = torch.stack(
        [
            w * a - x * b - y * c - z * d,
            w * b + x * a + y * d - z * c,
            w * c - x * d + y * a + z * b,
            w * d + x * c - y * b + z * a,
        ]
    )
    norm = torch.sqrt(out[0] * out[0] + out[1] * out[1] + out[2] * out[2] + out[3] * out[3])
    return out / norm


def quaternions(turns: FloatArray) -> FloatArray:
    """[M, 4] unit quaternions, scalar first, of rotation matrices [M, 3, 3]."""
    x, y, z, w = Rotation.from_matrix(turns).as_quat().T
    return np.stack([w, x, y, z], axis=1)
