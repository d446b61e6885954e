"""Unit cells: matrix, parameters, and the unconstrained parametrisation of the flow.

Convention everywhere: a cell is a 3x3 matrix in Å whose rows are the lattice vectors a, b, c;
Cartesian = fractional @ cell. Parameters are (a, b, c, alpha, beta, gamma) in Å and degrees.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]

#: Range of cell angles the generator can express, in degrees (PackFlow, section 2.2.1).
MIN_ANGLE = 60.0
MAX_ANGLE = 120.0


def cell_to_parameters(cell: ArrayLike) -> FloatArray:
    """Lattice parameters [..., 6] (Å, degrees) of cell matrices [..., 3, 3] (rows a, b, c, Å)."""
    m = np.asarray(cell, dtype=np.float64)
    lengths = np.linalg.norm(m, axis=-1)
    # alpha is between b and c, beta between a and c, gamma between a and b.
    cosines = np.stack(
        [
            np.einsum("...i,...i->...", m[..., i, :], m[..., j, :])
            / (lengths[..., i] * lengths[..., j])
            for i, j in ((1, 2), (0, 2), (0, 1))
        ],
        axis=-1,
    )
    angles = np.degrees(np.arccos(np.clip(cosines, -1.0, 1.0)))
    return np.concatenate([lengths, angles], axis=-1)


def parameters_to_cell(parameters: ArrayLike) -> FloatArray:
    """Cell matrices [..., 3, 3] of parameters [..., 6], c along z and a in the xz plane.

    This is the frame of pymatgen's ``Lattice.from_parameters``, in which PackFlow was defined.
    The result is right-handed for positive lengths. Angles that close no cell give a NaN row;
    `is_valid_parameters` tells beforehand.
    """
    p = np.asarray(parameters, dtype=np.float64)
    a, b, c = p[..., 0], p[..., 1], p[..., 2]
    alpha, beta, gamma = (np.radians(p[..., i]) for i in (3, 4, 5))
    cos_a, cos_b, cos_g = np.cos(alpha), np.cos(beta), np.cos(gamma)
    sin_a, sin_b = np.sin(alpha), np.sin(beta)
    cos_gamma_star = (cos_a * cos_b - cos_g) / (sin_a * sin_b)
    with np.errstate(invalid="ignore"):
        valid = np.where(abs(cos_gamma_star) <= 1, cos_gamma_star, np.nan)
        sin_gamma_star = np.sqrt(1.0 - valid**2)
    zero = np.zeros_like(a)
    rows = [
        np.stack([a * sin_b, zero, a * cos_b], axis=-1),
        np.stack([-b * sin_a * cos_gamma_star, b * sin_a * sin_gamma_star, b * cos_a], axis=-1),
        np.stack([zero, zero, c], axis=-1),
    ]
    return np.stack(rows, axis=-2)


def is_valid_parameters(parameters: ArrayLike) -> bool:
    """Whether six numbers (Å, degrees) are finite, positive and close a cell of positive volume."""
    p = np.asarray(parameters, dtype=np.float64)
    if not np.isfinite(p).all() or (p[:3] <= 0).any() or (p[3:] <= 0).any() or (p[3:] >= 180).any():
        return False
    cos_a, cos_b, cos_g = np.cos(np.radians(p[3:]))
    return bool(1 - cos_a**2 - cos_b**2 - cos_g**2 + 2 * cos_a * cos_b * cos_g > 1e-6)


def unconstrain(parameters: ArrayLike) -> FloatArray:
    """Lattice state of the flow: lengths in Å as they are, logit((angle - 60) / 60) for angles.

    Shapes [..., 6] -> [..., 6]. The logit's argument is clamped to (float32 tiny, 1 - float32 eps)
    as in the published code, so 60 degrees maps to -87.34 and 120 degrees to 15.94.
    Source: PackFlow, section 2.2.1, after Miller et al. (FlowMM).
    """
    p = np.asarray(parameters, dtype=np.float64)
    info = np.finfo(np.float32)
    u = np.clip((p[..., 3:] - MIN_ANGLE) / (MAX_ANGLE - MIN_ANGLE), info.tiny, 1.0 - info.eps)
    return np.concatenate([p[..., :3], np.log(u) - np.log1p(-u)], axis=-1)


def constrain(state: ArrayLike) -> FloatArray:
    """Inverse of `unconstrain`: lengths as they are, angle = 60 + 60 sigmoid(s) degrees."""
    s = np.asarray(state, dtype=np.float64)
    sigmoid = 0.5 * (1.0 + np.tanh(0.5 * s[..., 3:]))
    angles = MIN_ANGLE + (MAX_ANGLE - MIN_ANGLE) * sigmoid
    return np.concatenate([s[..., :3], angles], axis=-1)


def heights(cell: ArrayLike) -> FloatArray:
    """Perpendicular heights [3] in Å of a cell: distances between opposite faces."""
    m = np.asarray(cell, dtype=np.float64)
    return np.asarray(1.0 / np.linalg.norm(np.linalg.inv(m), axis=0), dtype=np.float64)


def standard_frame(cell: ArrayLike, positions: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Rotate a right-handed crystal into the frame of `parameters_to_cell`.

    Args:
        cell: [3, 3] Å.
        positions: [N, 3] Å, Cartesian.

    Returns:
        The rotated (cell, positions). Only a proper rotation is applied, so every distance stays.
    """
    m = np.asarray(cell, dtype=np.float64)
    z_axis = m[2] / np.linalg.norm(m[2])
    # a lies in the xz plane with positive x, hence y is along c x a.
    y_axis = np.cross(m[2], m[0])
    y_axis /= np.linalg.norm(y_axis)
    x_axis = np.cross(y_axis, z_axis)
    rotation = np.stack([x_axis, y_axis, z_axis], axis=1)
    return m @ rotation, np.asarray(positions, dtype=np.float64) @ rotation


def niggli_cell(cell: ArrayLike, eps: float = 1e-5) -> FloatArray:
    """Right-handed Niggli-reduced cell [3, 3] Å in the same Cartesian frame, positions untouched.

    Reduced angles lie in 60 to 120 degrees, which is what the lattice map can express.

    Raises:
        ValueError: the reduction failed (a degenerate cell).
    """
    import spglib

    m = np.asarray(cell, dtype=np.float64)
    reduced = spglib.niggli_reduce(m, eps=eps)
    if reduced is None:
        raise ValueError(f"Niggli reduction failed for cell {m.tolist()}")
    # spglib may return the reduced cell in a frame of its own; the integer transformation puts
    # it back into ours exactly, so that atoms need not move.
    transform = np.rint(np.asarray(reduced) @ np.linalg.inv(m))
    if not np.isclose(abs(np.linalg.det(transform)), 1.0):
        raise ValueError(f"Niggli reduction left the lattice for cell {m.tolist()}")
    out: FloatArray = transform @ m
    return -out if np.linalg.det(out) < 0 else out
