"""Symmetry of a conformer: inversion centres, twofold axes and mirror planes.

That is what a molecule needs to sit on a special position of a space group. The conformer is made
exactly symmetric, since force fields leave it a little off.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from packflow_core.baselines.space_groups import SiteKind
from packflow_core.chem.conformers import heavy_automorphisms, hydrogen_parents
from packflow_core.chem.molecule import Molecule

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

#: Å that an atom may move when a conformer is made symmetric.
TOLERANCE = 0.2

#: Axes of one kind closer than this cosine are one.
_SAME_AXIS = 0.95


@dataclass(frozen=True, eq=False)
class MolecularSymmetry:
    """One operation of order two that maps a conformer onto itself.

    Attributes:
        kind: inversion centre, twofold axis or mirror plane.
        axis: [3] unit vector along the axis, or normal to the plane; any for an inversion.
        offsets: [n, 3] Å the conformer made exactly symmetric, about its mean, which lies on the
            element.
        deviation: Å largest move of an atom by that.
    """

    kind: SiteKind
    axis: FloatArray
    offsets: FloatArray
    deviation: float


def symmetries(
    molecule: Molecule, conformer: FloatArray, tolerance: float = TOLERANCE
) -> list[MolecularSymmetry]:
    """Operations of order two of a conformer, the best of each axis.

    Args:
        molecule: the molecule.
        conformer: [n_atoms, 3] Å in the order of `Molecule`, heavy atoms before hydrogens.
        tolerance: Å that atoms may be off.
    """
    n = molecule.n_heavy
    x = conformer - conformer.mean(axis=0)
    parents = hydrogen_parents(molecule)
    permutations = heavy_automorphisms(molecule)
    twice = np.take_along_axis(permutations, permutations, axis=1)
    found: list[MolecularSymmetry] = []
    for permutation in permutations[(twice == np.arange(n)).all(axis=1)]:
        for kind, matrix, axis in _candidates(x[:n], permutation, tolerance):
            full = _with_hydrogens(x, permutation, parents, matrix, n)
            if full is None:
                continue
            offsets = 0.5 * (x + x[full] @ matrix)
            offsets -= offsets.mean(axis=0)
            deviation = float(np.linalg.norm(offsets - x, axis=1).max())
            if deviation <= tolerance:
                found.append(MolecularSymmetry(kind, axis, offsets, deviation))
    found.sort(key=lambda item: (item.kind, item.deviation))
    kept: list[MolecularSymmetry] = []
    for item in found:
        alike = (k for k in kept if k.kind == item.kind)
        if not any(k.kind == "-1" or abs(float(k.axis @ item.axis)) > _SAME_AXIS for k in alike):
            kept.append(item)
    return kept


def _candidates(
    heavy: FloatArray, permutation: IntArray, tolerance: float
) -> list[tuple[SiteKind, FloatArray, FloatArray]]:
    """Operations that may map each heavy atom k near where atom permutation[k] is."""
    centred = heavy - heavy.mean(axis=0)
    # For an operation Q of order two, Q = 2 n n^T - 1 or its negative: the best axis n is an end
    # of the spectrum of the symmetric part of the covariance.
    covariance = centred.T @ centred[permutation]
    _, vectors = np.linalg.eigh(0.5 * (covariance + covariance.T))
    out: list[tuple[SiteKind, FloatArray, FloatArray]] = []
    tries: list[tuple[SiteKind, FloatArray, FloatArray]] = [
        ("-1", -np.eye(3), np.array([0.0, 0.0, 1.0])),
        ("2", 2.0 * np.outer(vectors[:, 2], vectors[:, 2]) - np.eye(3), vectors[:, 2]),
        ("m", np.eye(3) - 2.0 * np.outer(vectors[:, 0], vectors[:, 0]), vectors[:, 0]),
    ]
    for kind, matrix, axis in tries:
        off = np.linalg.norm(centred @ matrix - centred[permutation], axis=1).max()
        if off <= 2.0 * tolerance:
            out.append((kind, matrix, axis))
    return out


def _with_hydrogens(
    x: FloatArray, permutation: IntArray, parents: IntArray, matrix: FloatArray, n: int
) -> IntArray | None:
    """[n_atoms] permutation of all atoms, hydrogens by place, or None where they do not fit."""
    full = np.concatenate([permutation, np.full(len(parents), -1, dtype=np.int64)])
    for heavy in range(n):
        own = n + np.flatnonzero(parents == heavy)
        other = n + np.flatnonzero(parents == permutation[heavy])
        if len(own) != len(other):
            return None
        if not len(own):
            continue
        apart = np.linalg.norm((x[own] @ matrix)[:, None] - x[other][None], axis=-1)
        nearest = apart.argmin(axis=1)
        if len(set(nearest.tolist())) != len(own):
            return None
        full[own] = other[nearest]
    # Of order two with the hydrogens as well, or averaging over it would not be symmetric.
    return full if (full[full] == np.arange(len(full))).all() else None
