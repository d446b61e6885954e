"""From a symmetric crystal to its asymmetric unit: what the press takes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from packflow_core.baselines.packing import Packing
from packflow_core.baselines.space_groups import SpaceGroup, space_group
from packflow_core.crystal.crystal import Crystal

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

#: Å to which a crystal must be symmetric; samples are, to single precision.
SYMPREC = 0.01


def packing_of(crystal: Crystal, molecule: FloatArray, numbers: IntArray) -> Packing | None:
    """A crystal as one rigid molecule in its space group.

    Args:
        crystal: a primitive cell, with hydrogens or without; only its symmetry counts.
        molecule: [n, 3] Å the first molecule as it shall be, in its place, hydrogens included.
        numbers: [n] atomic numbers of the molecule.

    Returns:
        None where the molecules are not all equivalent, lie on special positions, or the group
        has no setting in common with `space_group`.
    """
    import spglib

    fractional = crystal.positions @ np.linalg.inv(crystal.cell)
    found = spglib.get_symmetry_dataset((crystal.cell, fractional, crystal.numbers), SYMPREC)
    if found is None:
        return None
    group = space_group(int(found.number))
    if len(group.representatives) != crystal.z:
        return None
    change, shift = np.asarray(found.transformation_matrix), np.asarray(found.origin_shift)
    if not _same_setting(group, found, change, shift):
        return None
    standard = np.linalg.inv(change).T @ crystal.cell  # rows a, b, c of the standard setting
    parameters = _parameters(group, standard @ standard.T)
    u, _, vt = np.linalg.svd(np.linalg.inv(standard) @ group.cell(parameters))
    turn = u @ vt
    centre = molecule.mean(axis=0)
    place = change @ (centre @ np.linalg.inv(crystal.cell)) + shift
    return Packing(
        group=group,
        numbers=numbers,
        offsets=(molecule - centre) @ turn,
        parameters=parameters,
        centres=(place % 1.0)[None],
        turns=np.eye(3)[None],
    )


def _same_setting(group: SpaceGroup, found: object, change: FloatArray, shift: FloatArray) -> bool:
    """Whether the operations that were found are those of the group in its standard setting.

    The origin of spglib may be the other choice of the tables, and its cell left-handed.
    """
    if np.linalg.det(change) <= 0:
        return False
    rotations = np.asarray(found.rotations, dtype=np.float64)  # type: ignore[attr-defined]
    translations = np.asarray(found.translations)  # type: ignore[attr-defined]
    inverse = np.linalg.inv(change)
    rotations = np.rint(change @ rotations @ inverse)
    translations = translations @ change.T + shift - rotations @ shift
    for rotation, translation in zip(rotations, translations, strict=True):
        same = (group.rotations == rotation).all(axis=(1, 2))
        off = group.translations - translation
        if not (same & (np.abs(off - np.rint(off)) < 1e-3).all(axis=1)).any():
            return False
    return True


def _parameters(group: SpaceGroup, metric: FloatArray) -> FloatArray:
    """Free parameters of the conventional cell of a metric tensor [3, 3] in Å^2."""
    lengths = np.sqrt(np.diag(metric))
    if group.number <= 2:
        return np.asarray(np.linalg.cholesky(metric)[np.tril_indices(3)], dtype=np.float64)
    if group.number <= 15:
        a, b, c = lengths
        cosine = metric[0, 2] / (a * c)
        return np.array([a, b, c * cosine, c * np.sqrt(1.0 - cosine**2)])
    free = {3: [0, 1, 2], 2: [0, 2], 1: [0]}[len(group.basis)]
    return np.asarray(lengths[free], dtype=np.float64)
