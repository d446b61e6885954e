"""Repair of generated molecules: a crooked one is replaced by the conformer that fits it best.

A young generator draws bonds that no force field can mend. The place and the orientation it chose
for the molecule are worth keeping, its inner geometry is not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from packflow_core.chem.conformers import ConformerPool
from packflow_core.chem.stereo import senses

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]


class Fit(NamedTuple):
    """A conformer laid over a drawn molecule.

    Attributes:
        positions: [n_atoms, 3] Å, heavy atoms and hydrogens.
        rmsd: Å over the heavy atoms.
        conformer: index in the pool.
        mirrored: the mirror image was taken.
    """

    positions: FloatArray
    rmsd: float
    conformer: int
    mirrored: bool


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """What is wrong with each of z drawn molecules.

    Attributes:
        bond_error: [z] largest deviation of a bond from the conformers, Å.
        angle_error: [z] largest deviation of a 1-3 distance from the conformers' range, Å.
        collapsed: [z] two atoms three or more bonds apart sit on top of each other.
        flipped: [z] a stereo element of the SMILES is inverted, as far as heavy atoms tell.
    """

    bond_error: FloatArray
    angle_error: FloatArray
    collapsed: BoolArray
    flipped: BoolArray

    def crooked(self, bond_tolerance: float, angle_tolerance: float) -> BoolArray:
        """[z] molecules whose geometry is beyond the tolerances (Å)."""
        return np.asarray(
            (self.bond_error > bond_tolerance)
            | (self.angle_error > angle_tolerance)
            | self.collapsed,
            dtype=np.bool_,
        )


def diagnose(heavy: FloatArray, pool: ConformerPool) -> Diagnosis:
    """Compare drawn molecules with the conformers of their molecule.

    Args:
        heavy: [z, n, 3] Å, heavy atoms of whole molecules.
        pool: conformers of the molecule.
    """
    z = len(heavy)

    def lengths(pairs: IntArray) -> FloatArray:
        vectors = heavy[:, pairs[:, 1]] - heavy[:, pairs[:, 0]]
        return np.asarray(np.linalg.norm(vectors, axis=-1))

    bond = np.abs(lengths(pool.molecule.bonds) - pool.bond_lengths)
    angle = lengths(pool.angle_pairs)
    low, high = pool.angle_distances.T
    angle = np.maximum(np.maximum(low - angle, angle - high), 0.0)
    collapsed = (lengths(pool.apart_pairs) < pool.apart_distances).any(axis=1)
    return Diagnosis(
        bond_error=bond.max(axis=1, initial=0.0),
        angle_error=angle.max(axis=1, initial=0.0),
        collapsed=np.asarray(collapsed, dtype=np.bool_).reshape(z),
        flipped=flipped_molecules(heavy, pool),
    )


def flipped_molecules(heavy: FloatArray, pool: ConformerPool) -> BoolArray:
    """[z] molecules that are another stereoisomer than the SMILES asks for.

    Judged by heavy atoms [z, n, 3] alone; an element they cannot tell counts as right.
    """
    expected = pool.stereo_senses
    inverted = senses(heavy, *pool.stereo_handles) * expected < 0
    return np.array([not pool.stereo.accepts(row) for row in inverted], dtype=np.bool_)


def mirror_is_better(heavy: FloatArray, pool: ConformerPool) -> bool:
    """Whether the mirror image of the whole crystal has more molecules of the right hand.

    The generator knows no hands: a crystal of the wrong enantiomer is as good a proposal as its
    mirror image, which has the same packing and is made of the molecules wanted.
    """
    if pool.stereo.mirror_allowed:
        return False
    return bool(flipped_molecules(-heavy, pool).sum() < flipped_molecules(heavy, pool).sum())


def fit_conformer(heavy: FloatArray, pool: ConformerPool) -> Fit:
    """Lay the conformer with the smallest RMSD over a drawn molecule (Kabsch).

    All conformers, all symmetries of the molecular graph, and the mirror image where the SMILES
    allows it are tried; the centroid of the heavy atoms stays. Any drawing gets an answer, also
    a line or a point.

    Args:
        heavy: [n, 3] Å, finite.
        pool: conformers of the molecule.

    Source:
        Kabsch, Acta Cryst. A32, 922 (1976), with the sign of the determinant kept apart, so that
        one decomposition answers for both hands.
    """
    n = len(heavy)
    centroid = heavy.mean(axis=0)
    target = heavy - centroid
    candidates = pool.heavy[:, pool.automorphisms]  # [K, A, n, 3]
    covariance = np.einsum("kani,nj->kaij", candidates, target)
    singular = np.linalg.svd(covariance, compute_uv=False)
    sign = np.where(np.linalg.det(covariance) < 0, -1.0, 1.0)
    both = singular[..., 0] + singular[..., 1]
    proper, mirror = both + sign * singular[..., 2], both - sign * singular[..., 2]
    overlap = np.stack([proper, mirror], axis=-1)
    if not pool.stereo.mirror_allowed:
        overlap = overlap[..., :1]
    size = np.square(pool.heavy).sum(axis=(1, 2)) + np.square(target).sum()
    square = np.maximum(size[:, None, None] - 2.0 * overlap, 0.0) / n
    # Equivalent fits differ by rounding only; the first of them is taken, whatever the rounding.
    best = int(np.argmax(square <= square.min() + 1e-9))
    k, a, mirrored = (int(i) for i in np.unravel_index(best, square.shape))
    order = pool.permutation_with_hydrogens(pool.automorphisms[a])
    hand = -1.0 if mirrored else 1.0
    u, _, vt = np.linalg.svd(hand * covariance[k, a])
    u[:, 2] *= 1.0 if np.linalg.det(u @ vt) > 0 else -1.0
    placed = hand * pool.positions[k][order] @ (u @ vt) + centroid
    rmsd = float(np.sqrt(np.square(placed[:n] - heavy).sum() / n))
    return Fit(placed, rmsd, k, bool(mirrored))
