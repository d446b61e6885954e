"""How far two geometries of one molecule are apart, whatever their place, turn and atom names.

RMSD of the heavy atoms after the best rotation (Kabsch, Acta Cryst. A32, 922 (1976)), the least of
all symmetries of the molecular graph and, on request, of the mirror image. Hydrogens on N, O and S
are compared apart: a hydroxyl group that points elsewhere is another hydrogen bond, and moves no
heavy atom.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from packflow_core.chem.conformer_symmetry import POLAR, GraphSymmetry, best_rotation
from packflow_core.chem.conformers import hydrogen_parents
from packflow_core.chem.molecule import Molecule
from packflow_core.chem.stereo import stereo_of

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

#: Å by which the hydrogens of a polar group may be off and still point the same way: 50 degrees of
#: a hydroxyl group. A third of a turn moves its hydrogen by 1.6 Å, the middle of an NH2 by 0.9 Å.
POLAR_TOLERANCE = 0.75

#: Floating-point numbers in hand at once.
_CHUNK = 4_000_000


@dataclass(frozen=True, eq=False)
class Shapes:
    """Geometries of one molecule, made ready to be compared.

    Attributes:
        heavy: [K, n, 3] Å, the mean at the origin.
        size: [K] sum of the squared distances from the mean, Å2.
        radii: [K, n] distances from the mean in Å, sorted among atoms that may change places.
        polar: [K, m, 3] Å mean of the hydrogens of each polar group; m = 0 without hydrogens.
    """

    heavy: FloatArray
    size: FloatArray
    radii: FloatArray
    polar: FloatArray

    def __len__(self) -> int:
        return len(self.heavy)

    def take(self, which: IntArray) -> Shapes:
        """Some of them, by index."""
        return Shapes(self.heavy[which], self.size[which], self.radii[which], self.polar[which])


@dataclass(frozen=True, eq=False)
class Comparer:
    """Compares geometries of one molecule.

    Attributes:
        molecule: the molecule.
        mirror: a geometry and its mirror image count as one.
    """

    molecule: Molecule
    mirror: bool

    @classmethod
    def of(cls, molecule: Molecule) -> Comparer:
        """Mirror images are one where the SMILES fixes no hand: they have the same energy."""
        return cls(molecule, stereo_of(molecule).mirror_allowed)

    @cached_property
    def symmetry(self) -> GraphSymmetry:
        """Which atoms may change names."""
        return GraphSymmetry.of(self.molecule)

    @cached_property
    def polar_parents(self) -> IntArray:
        """[m] heavy atoms whose hydrogens make hydrogen bonds."""
        polar = np.isin(self.molecule.numbers, POLAR) & (self.molecule.hydrogen_counts > 0)
        return np.flatnonzero(polar)

    @cached_property
    def _polar_symmetries(self) -> IntArray:
        """[A, m] permutations of the polar groups."""
        place = np.zeros(self.molecule.n_heavy, dtype=np.int64)
        place[self.polar_parents] = np.arange(len(self.polar_parents))
        return place[self.symmetry.permutations[:, self.polar_parents]]

    def shapes(self, positions: FloatArray) -> Shapes:
        """Geometries [K, n or n_atoms, 3] Å, atoms in the order of `Molecule`.

        Raises:
            ValueError: neither the heavy atoms of the molecule nor all of its atoms.
        """
        x = np.asarray(positions, dtype=np.float64)
        n = self.molecule.n_heavy
        if x.ndim != 3 or x.shape[1] not in (n, self.molecule.n_atoms) or x.shape[2] != 3:
            raise ValueError(f"geometries of the shape {x.shape} are none of this molecule")
        centre = x[:, :n].mean(axis=1, keepdims=True)
        heavy = x[:, :n] - centre
        radii = np.linalg.norm(heavy, axis=-1)
        for members in self.symmetry.classes:
            radii[:, members] = np.sort(radii[:, members], axis=1)
        polar = np.zeros((len(x), 0, 3))
        if x.shape[1] > n and len(self.polar_parents):
            parents = hydrogen_parents(self.molecule)
            groups = [n + np.flatnonzero(parents == k) for k in self.polar_parents]
            polar = np.stack([x[:, group].mean(axis=1) for group in groups], axis=1) - centre
        return Shapes(heavy, np.square(radii).sum(axis=1), radii, polar)

    def at_least(self, a: Shapes, b: Shapes) -> FloatArray:
        """[K, L] lower bound in Å of the RMSD of every pair; cheap.

        A rotation about the mean leaves every distance from the mean as it is, so the RMSD of
        these distances, sorted among equivalent atoms, is never larger.
        """
        square = a.size[:, None] + b.size[None] - 2.0 * a.radii @ b.radii.T
        return np.asarray(np.sqrt(np.maximum(square, 0.0) / max(a.heavy.shape[1], 1)))

    def rmsd(self, a: Shapes, b: Shapes) -> FloatArray:
        """[K, L] RMSD in Å of the heavy atoms of every pair."""
        i, j = np.indices((len(a), len(b))).reshape(2, -1)
        return self.rmsd_of(a, b, i, j).reshape(len(a), len(b))

    def rmsd_of(self, a: Shapes, b: Shapes, i: IntArray, j: IntArray) -> FloatArray:
        """[P] RMSD in Å of the heavy atoms of the pairs a[i], b[j]."""
        out = np.empty(len(i))
        for part, _, every in self._every(a, b, i, j):
            out[part] = every.reshape(len(every), -1).min(axis=1)
        return out

    def alike(
        self, a: Shapes, b: Shapes, i: IntArray, j: IntArray, rmsd: float, polar: bool
    ) -> BoolArray:
        """[P] whether the pairs a[i], b[j] are one conformer.

        Args:
            a, b: geometries.
            i, j: [P] indices.
            rmsd: Å up to which heavy atoms agree.
            polar: the hydrogens of polar groups have to agree, too, in one of the superpositions
                in which the heavy atoms do.
        """
        out = np.zeros(len(i), dtype=np.bool_)
        polar = polar and a.polar.shape[1] > 0 and b.polar.shape[1] > 0
        for part, covariance, every in self._every(a, b, i, j):
            close = every <= rmsd
            if not polar:
                out[part] = close.any(axis=(1, 2))
                continue
            p, s, hand = np.nonzero(close)
            off = self._polar_offsets(a, b, i[part][p], j[part][p], s, hand, covariance[p, s, hand])
            np.logical_or.at(out, np.arange(len(i))[part][p], off.max(axis=1) <= POLAR_TOLERANCE)
        return out

    def polar_rmsd(self, a: Shapes, b: Shapes, i: IntArray, j: IntArray) -> FloatArray:
        """[P] RMSD in Å of the polar groups' hydrogens with the heavy atoms laid over each other.

        Of superpositions that fit equally well, the best for the hydrogens counts. Zero without
        such hydrogens.
        """
        out = np.zeros(len(i))
        if not (a.polar.shape[1] and b.polar.shape[1]):
            return out
        out[:] = np.inf
        for part, covariance, every in self._every(a, b, i, j):
            best = every.min(axis=(1, 2), keepdims=True)
            p, s, hand = np.nonzero(every <= best + 1e-3)
            off = self._polar_offsets(a, b, i[part][p], j[part][p], s, hand, covariance[p, s, hand])
            value = np.sqrt(np.square(off).mean(axis=1))
            np.minimum.at(out, np.arange(len(i))[part][p], value)
        return out

    # -- parts -------------------------------------------------------------------------------
    def _every(
        self, a: Shapes, b: Shapes, i: IntArray, j: IntArray
    ) -> Iterator[tuple[slice, FloatArray, FloatArray]]:
        """Every superposition of every pair, a part of the pairs at a time.

        Yields:
            The part; covariances [p, A, H, 3, 3] in Å2 and RMSDs [p, A, H] in Å for the A
            symmetries and H hands, of which the second is the mirror image of a[i].
        """
        permutations = self.symmetry.permutations
        count, n = permutations.shape
        hands = [1.0, -1.0] if self.mirror else [1.0]
        step = max(1, _CHUNK // (3 * n * count * len(hands)))
        for begin in range(0, len(i), step):
            part = slice(begin, min(begin + step, len(i)))
            x = a.heavy[i[part]][:, permutations]
            y = b.heavy[j[part]]
            if self.symmetry.ends:
                # Which order of the ends is best depends on the hand.
                best = [self.symmetry.settled(hand * x, y[:, None]) for hand in hands]
                covariance = np.stack([_covariance(each, y) for each in best], axis=2)
                overlap = _overlap(covariance)
            else:
                one = _covariance(x, y)
                covariance = np.stack([hand * one for hand in hands], axis=2)
                overlap = _overlaps(one)[..., : len(hands)]
            size = (a.size[i[part]] + b.size[j[part]])[:, None, None]
            yield part, covariance, np.sqrt(np.maximum(size - 2.0 * overlap, 0.0) / max(n, 1))

    def _polar_offsets(
        self,
        a: Shapes,
        b: Shapes,
        i: IntArray,
        j: IntArray,
        s: IntArray,
        hand: IntArray,
        covariance: FloatArray,
    ) -> FloatArray:
        """[q, m] Å between the hydrogens of polar groups in given superpositions.

        Args:
            a, b: geometries.
            i, j: [q] indices of the pairs.
            s: [q] symmetries.
            hand: [q] 1 where the mirror image of a[i] is taken.
            covariance: [q, 3, 3] of the heavy atoms, Å2, in that hand.
        """
        sign = np.where(hand == 1, -1.0, 1.0)[:, None, None]
        x = np.take_along_axis(a.polar[i], self._polar_symmetries[s][:, :, None], axis=1)
        return np.asarray(
            np.linalg.norm(sign * x @ best_rotation(covariance) - b.polar[j], axis=-1)
        )


def _covariance(x: FloatArray, y: FloatArray) -> FloatArray:
    """[p, A, 3, 3] x^T y of geometries x [p, A, n, 3] and y [p, n, 3]."""
    p, count, n, _ = x.shape
    # One product of [3 A, n] and [n, 3] for each pair is much faster than A small ones.
    return np.asarray(np.swapaxes(x, 2, 3).reshape(p, -1, n) @ y).reshape(p, count, 3, 3)


def _overlaps(covariance: FloatArray) -> FloatArray:
    """[..., 2] largest trace of the covariance [..., 3, 3] after a rotation, and mirrored."""
    singular = np.linalg.svd(covariance, compute_uv=False)
    sign = np.where(np.linalg.det(covariance) < 0, -1.0, 1.0)
    both, last = singular[..., 0] + singular[..., 1], sign * singular[..., 2]
    return np.stack([both + last, both - last], axis=-1)


def _overlap(covariance: FloatArray) -> FloatArray:
    """[...] largest trace of the covariance [..., 3, 3] after a rotation."""
    return np.asarray(_overlaps(covariance)[..., 0])
