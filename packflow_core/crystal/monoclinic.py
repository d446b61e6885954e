"""The setting of a monoclinic crystal: of all cells with the unique axis b, the most upright one.

A group such as P2_1/c has a cell choice for every pair of vectors that spans the plane normal to b;
tables name P2_1/c, P2_1/n and P2_1/a. People take the one whose angle beta is nearest to 90
degrees.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import gemmi
import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

#: An angle that is nearer to 90 degrees by less than this is not worth another setting.
_NEARER_DEG = 0.5


class Setting(NamedTuple):
    """A cell choice.

    Attributes:
        cell: [3, 3] Å, rows a, b, c.
        rotations: [G, 3, 3] integer rotations of all operations.
        translations: [G, 3] fractional translations.
        change: [3, 3] matrix; fractional coordinates x of the former cell become change @ x.
    """

    cell: FloatArray
    rotations: IntArray
    translations: FloatArray
    change: FloatArray


def upright_setting(cell: FloatArray, rotations: IntArray, translations: FloatArray) -> Setting:
    """The most upright cell with the same b, and the operations there.

    Args:
        cell: [3, 3] Å, conventional cell with the unique axis b.
        rotations: [G, 3, 3] integer rotations of all operations, centring included.
        translations: [G, 3] fractional translations.

    Returns:
        The cell as it is where none is more upright, or where the operations of the more upright
        one are in no table.
    """
    given = Setting(cell, rotations, translations, np.eye(3))
    options = []
    for p, q, r, s in itertools.product(range(-2, 3), repeat=4):
        if abs(p * s - q * r) != 1:
            continue
        basis = np.array([[p, 0, q], [0, p * s - q * r, 0], [r, 0, s]], dtype=np.float64)
        a, _, c = new = basis @ cell
        cosine = float(a @ c / np.sqrt((a @ a) * (c @ c)))
        if cosine > 1e-9:  # obtuse or right, as is the custom
            continue
        length = float(np.linalg.norm(a) + np.linalg.norm(c))
        options.append((round(length, 6), -round(p + s, 6), abs(q) + abs(r), basis, new, cosine))
    best = min(options, key=lambda option: option[:3], default=None)
    if best is None or _lean(cell) - float(np.degrees(np.arcsin(-best[5]))) < _NEARER_DEG:
        return given
    change = np.asarray(np.linalg.inv(best[3]).T, dtype=np.float64)
    back = best[3].T
    turned = np.rint(change @ rotations @ back).astype(np.int64)
    moved = np.asarray(translations @ change.T, dtype=np.float64)
    moved = moved - np.floor(moved + 1e-6)
    return Setting(best[4], turned, moved, change) if _is_tabulated(turned, moved) else given


def _lean(cell: FloatArray) -> float:
    """How far the angle beta is from 90 degrees."""
    cosine = cell[0] @ cell[2] / (np.linalg.norm(cell[0]) * np.linalg.norm(cell[2]))
    return abs(float(np.degrees(np.arcsin(np.clip(cosine, -1.0, 1.0)))))


def _is_tabulated(rotations: IntArray, translations: FloatArray) -> bool:
    operations = [
        operation_of(rotation, translation)
        for rotation, translation in zip(rotations, translations, strict=True)
    ]
    # gemmi's stub claims a space group always; it is None for operations that it does not know.
    group: gemmi.SpaceGroup | None = gemmi.find_spacegroup_by_ops(gemmi.GroupOps(operations))
    return group is not None


def operation_of(rotation: IntArray, translation: FloatArray) -> gemmi.Op:
    """Operation of an integer rotation [3, 3] and a translation [3] in multiples of 1/24."""
    operation = gemmi.Op()
    operation.rot = (np.rint(rotation).astype(int) * gemmi.Op.DEN).tolist()
    operation.tran = np.rint(np.asarray(translation) * gemmi.Op.DEN).astype(int).tolist()
    return operation.wrap()
