"""Overlapping molecules turned and shifted out of each other's way, with as little room as needed.

Growing the cell alone (`separate`) parts molecules at the price of the density. Here the rigid
molecules move, turn, and strain the cell, so that contacts below a fraction of the van der Waals
sum vanish in a cell of nearly the volume that was drawn. Minimised is

    E = 1/2 sum_pairs max(0, s_ij - d_ij)^2 + k V0 / 2 ((V / V0 - 1)^2 + |dev strain|^2)

over the contacts between molecules (images of the same one included), with s_ij the wanted
distance; the stiffness k of the cell falls step by step to zero. The energy is soft: molecules
can pass through each other, so even a hopeless drawing has a way out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from packflow_core.chem.elements import VDW_RADII
from packflow_core.crystal.contacts import Pairs, neighbour_pairs
from packflow_core.crystal.crystal import Crystal
from packflow_core.crystal.lattice import heights

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

#: Stiffness k of the cell in 1/Å, one minimisation each. The last one leaves the cell free.
STIFFNESS = (0.3, 0.03, 0.003, 0.0)

#: Limits of the strain: stretch of an axis, and shear. The cell stays right-handed within them.
_MIN_STRETCH, _MAX_SHEAR = -0.3, 0.25

#: Cells with two opposite faces closer than this, in Å, are left alone.
_MIN_HEIGHT = 1.0

#: Å by which the list of neighbours reaches beyond the contacts, so that it lasts many steps.
_SKIN = 1.0

#: Closest approach in Å at which the direction of a contact is still defined.
_COINCIDENT = 1e-9

#: Standard deviation in Å of the first kick; the second is twice as strong, and so on.
_KICK = 0.5

#: A relieved cell this much larger than the drawn one is good enough not to try again.
_AMPLE_VOLUME = 1.03

#: Rows and columns of the six strain components.
_VOIGT = np.array([[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]])
_ROOT2 = float(np.sqrt(2.0))


@dataclass(frozen=True)
class Relief:
    """Outcome of `relieve_overlaps`.

    Attributes:
        crystal: the relieved crystal; the very input where nothing overlapped or nothing helped.
        n_evaluations: evaluations of energy and gradient.
        max_shift_A: largest move of a molecule's centroid beside the strain of the cell, Å.
        max_rotation_deg: largest turn of a molecule, degrees.
        volume_ratio: volume of the cell over that of the input.
        residual_A: by how much the worst contact is still below its threshold, Å; 0 for success.
        note: why nothing was done, else empty.
    """

    crystal: Crystal
    n_evaluations: int
    max_shift_A: float
    max_rotation_deg: float
    volume_ratio: float
    residual_A: float
    note: str = ""


def relieve_overlaps(
    crystal: Crystal,
    *,
    min_contact: float = 0.7,
    min_contact_hydrogen: float = 0.5,
    margin: float = 0.06,
    max_steps: int = 150,
    max_growth: float = 1.35,
    attempts: int = 4,
) -> Relief:
    """Move, turn and strain a crystal of rigid molecules until nothing overlaps.

    Args:
        crystal: molecules whole.
        min_contact: smallest allowed distance of two heavy atoms over their van der Waals sum.
        min_contact_hydrogen: the same where a hydrogen takes part; 0 to leave hydrogens out.
        margin: wanted distances exceed the smallest allowed ones by this fraction, so that a
            minimisation that comes close meets the threshold.
        max_steps: iterations of each minimisation.
        max_growth: largest stretch of the cell along any axis.
        attempts: minimisations at most: one from the drawing as it is; further ones, where it
            fails or needs more room, from the drawing shaken ever harder. The kicks are the same
            in every call.

    Returns:
        The relieved crystal with the smallest volume. Where no attempt succeeds, the one with the
        smallest remaining overlap. Atoms keep their order and molecules their shape. A cell too
        flat to search never raises: it comes back as it was, with a note.
    """
    if float(heights(crystal.cell).min()) < _MIN_HEIGHT:
        return _untouched(crystal, np.inf, "cell too flat")
    problem = RigidPacking(crystal, min_contact, min_contact_hydrogen, margin, max_growth)
    found: list[Relief] = []
    try:
        residual = problem.residual(crystal)
        if residual <= 0.0:
            return _untouched(crystal, 0.0, "")
        for attempt in range(attempts):
            found.append(problem.minimise(problem.start(attempt), max_steps))
            if found[-1].residual_A <= 0.0 and found[-1].volume_ratio <= _AMPLE_VOLUME:
                break
    except ValueError as error:
        if not found:
            return _untouched(crystal, np.inf, str(error))
    best = min(found, key=lambda relief: (relief.residual_A, relief.volume_ratio))
    return replace(best, n_evaluations=problem.n_evaluations)


class RigidPacking:
    """Soft overlap energy of rigid molecules in a cell that may strain.

    Variables, [6 z + 6] and all in Å: shifts of the centroids in the unstrained cell [z, 3];
    rotation vectors times the molecule's radius [z, 3]; strain xx, yy, zz, yz, xz, xy (the last
    three times the square root of 2, so that the norm is that of the symmetric matrix) times the
    cube root of the volume. With strain e, cell = cell0 (1 + e) and centroid = (c0 + shift)(1 + e).

    Args:
        crystal: molecules whole; the cell not flat.
        min_contact, min_contact_hydrogen, margin, max_growth: see `relieve_overlaps`.
    """

    def __init__(
        self,
        crystal: Crystal,
        min_contact: float,
        min_contact_hydrogen: float,
        margin: float,
        max_growth: float = 1.35,
    ) -> None:
        self.crystal = crystal
        self.z = crystal.z
        molecules = crystal.positions.reshape(self.z, -1, 3)
        self.centroids = molecules.mean(axis=1)
        self.offsets = molecules - self.centroids[:, None]
        self.n = molecules.shape[1]
        square = (self.offsets**2).sum(axis=2)
        self.radius = np.sqrt(np.maximum(square.mean(axis=1), 0.25))[:, None]
        self.length = crystal.volume ** (1.0 / 3.0)
        self.n_evaluations = 0
        self._turned = np.tile(np.eye(3), (self.z, 1, 1))
        self._margin, self._max_stretch = 1.0 + margin, max_growth - 1.0
        self._heavy, self._vdw = crystal.heavy, VDW_RADII[crystal.numbers]
        self._factors = (min_contact, min_contact_hydrogen)
        heavy = float(self._vdw[self._heavy].max(initial=0.0))
        widest = float(self._vdw.max(initial=0.0))
        hydrogen = float(self._vdw[~self._heavy].max(initial=0.0))
        self._cutoff = max(2.0 * min_contact * heavy, min_contact_hydrogen * (widest + hydrogen))
        self._list: _List | None = None

    def start(self, kick: int = 0, growth: float = 1.0) -> FloatArray:
        """Variables of the crystal as given, grown, and shaken where `kick` is not 0."""
        x = np.zeros(6 * self.z + 6)
        x[-6:-3] = (growth - 1.0) * self.length
        if kick:
            x[:-6] = np.random.default_rng(kick).normal(scale=_KICK * kick, size=6 * self.z)
        return x

    def bounds(self) -> list[tuple[float | None, float | None]]:
        """Limits of the variables; only the strain has some."""
        shear = _MAX_SHEAR * _ROOT2 * self.length
        stretch = (_MIN_STRETCH * self.length, self._max_stretch * self.length)
        return [(None, None)] * (6 * self.z) + [stretch] * 3 + [(-shear, shear)] * 3

    def minimise(self, x: FloatArray, max_steps: int) -> Relief:
        """Minimise from `x` with an ever softer cell, as far as the overlaps require.

        Raises:
            ValueError: the cell became too flat for a neighbour search.
        """
        self._turned = np.tile(np.eye(3), (self.z, 1, 1))
        turns = slice(3 * self.z, 6 * self.z)
        for stiffness in STIFFNESS:
            x = minimize(
                self.energy,
                x,
                args=(stiffness,),
                jac=True,
                method="L-BFGS-B",
                bounds=self.bounds(),
                options={"maxiter": max_steps, "maxcor": 20, "ftol": 1e-7, "gtol": 1e-3},
            ).x
            # Rotation vectors start anew from the turned molecules: their map is singular at 2 pi.
            self._turned = rotation_matrices(self._rotation(x)) @ self._turned
            x[turns] = 0.0
            out = self.crystal_at(x)
            residual = self.residual(out)
            if residual <= 0.0:
                break
        cosine = (np.trace(self._turned, axis1=1, axis2=2) - 1.0) / 2.0
        shifts = np.linalg.norm(x[: 3 * self.z].reshape(-1, 3), axis=1)
        return Relief(
            crystal=out,
            n_evaluations=self.n_evaluations,
            max_shift_A=float(shifts.max()),
            max_rotation_deg=float(np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0))).max()),
            volume_ratio=out.volume / self.crystal.volume,
            residual_A=residual,
        )

    def crystal_at(self, x: FloatArray) -> Crystal:
        """The crystal of variables `x`."""
        centroids, turned, cell, _ = self._geometry(x)
        return self.crystal.with_positions((centroids[:, None] + turned).reshape(-1, 3), cell)

    def residual(self, crystal: Crystal) -> float:
        """By how much the worst contact of a crystal is below its threshold, in Å; or 0."""
        pairs = self._between(neighbour_pairs(crystal.positions, crystal.cell, self._cutoff))
        # The slack is that of `separate_molecules`, so that both agree on what overlaps.
        missing = self._wanted(pairs) * (1.0 - 1e-9) - pairs.distance
        return float(missing.max(initial=0.0))

    def energy(self, x: FloatArray, stiffness: float = 0.0) -> tuple[float, FloatArray]:
        """Energy in Å² and its gradient [6 z + 6] in Å.

        Raises:
            ValueError: the cell is too flat for a neighbour search.
        """
        self.n_evaluations += 1
        centroids, turned, cell, stretch = self._geometry(x)
        positions = (centroids[:, None] + turned).reshape(-1, 3)
        i, j, shift, wanted = self._neighbours(positions, cell)
        vector = positions[j] - positions[i] + shift @ cell
        distance = np.sqrt((vector * vector).sum(axis=1))
        close = np.flatnonzero(distance < wanted)
        i, j, vector, distance = i[close], j[close], vector[close], distance[close]
        missing = wanted[close] - distance
        # Coincident atoms have no direction to part in; their pair gives no force.
        scale = np.where(distance > _COINCIDENT, -missing / np.maximum(distance, _COINCIDENT), 0.0)
        pull = scale[:, None] * vector  # dE / d vector
        total = len(positions)
        force = np.stack(
            [
                np.bincount(j, pull[:, k], total) - np.bincount(i, pull[:, k], total)
                for k in range(3)
            ],
            axis=1,
        ).reshape(self.z, self.n, 3)
        on_centroids = force.sum(axis=1)
        torque = np.cross(turned, force).sum(axis=1)
        jacobian = left_jacobians(self._rotation(x))
        # Only the vector between centroids follows the strain.
        apart = (vector - turned.reshape(-1, 3)[j] + turned.reshape(-1, 3)[i]) @ np.linalg.inv(
            stretch
        )
        by_stretch = apart.T @ pull
        ratio = float(np.linalg.det(stretch))
        strain = stretch - np.eye(3)
        deviator = strain - np.eye(3) * (np.trace(strain) / 3.0)
        bulk = stiffness * self.crystal.volume
        by_stretch += bulk * ((ratio - 1.0) * ratio * np.linalg.inv(stretch) + deviator)
        by_strain = (by_stretch + by_stretch.T)[_VOIGT[0], _VOIGT[1]]
        by_strain[:3] /= 2.0
        by_strain[3:] /= _ROOT2
        gradient = np.concatenate(
            [
                (on_centroids @ stretch).ravel(),
                (np.einsum("zab,za->zb", jacobian, torque) / self.radius).ravel(),
                by_strain / self.length,
            ]
        )
        overlap = 0.5 * float(missing @ missing)
        elastic = 0.5 * bulk * ((ratio - 1.0) ** 2 + float((deviator**2).sum()))
        return overlap + elastic, gradient

    def _rotation(self, x: FloatArray) -> FloatArray:
        """[z, 3] rotation vectors of the variables."""
        vectors = x[3 * self.z : 6 * self.z].reshape(-1, 3) / self.radius
        return np.asarray(vectors, dtype=np.float64)

    def _geometry(self, x: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        """Centroids [z, 3], turned offsets [z, n, 3], cell, and 1 + strain."""
        stretch = np.eye(3)
        values = x[-6:] / self.length
        stretch[np.arange(3), np.arange(3)] += values[:3]
        for a, b, value in zip(_VOIGT[0, 3:], _VOIGT[1, 3:], values[3:] / _ROOT2, strict=True):
            stretch[a, b] += value
            stretch[b, a] += value
        centroids = (self.centroids + x[: 3 * self.z].reshape(-1, 3)) @ stretch
        rotation = rotation_matrices(self._rotation(x)) @ self._turned
        turned = np.einsum("zab,znb->zna", rotation, self.offsets)
        return centroids, turned, self.crystal.cell @ stretch, stretch

    def _between(self, pairs: Pairs) -> Pairs:
        """Pairs of different molecules, each in one direction only."""
        later = pairs.shift[:, 2] + 0.5 * np.sign(pairs.shift[:, 1]) > 0
        later |= (pairs.shift[:, 1:] == 0).all(axis=1) & (pairs.shift[:, 0] > 0)
        pairs = pairs.take((pairs.i < pairs.j) | ((pairs.i == pairs.j) & later))
        apart = (pairs.i // self.n != pairs.j // self.n) | pairs.shift.any(axis=1)
        if self._factors[1] <= 0:
            apart &= self._heavy[pairs.i] & self._heavy[pairs.j]
        return pairs.take(apart)

    def _wanted(self, pairs: Pairs) -> FloatArray:
        """[P] smallest allowed distances in Å."""
        both = self._heavy[pairs.i] & self._heavy[pairs.j]
        factor = np.where(both, self._factors[0], self._factors[1])
        return np.asarray(factor * (self._vdw[pairs.i] + self._vdw[pairs.j]), dtype=np.float64)

    def _neighbours(
        self, positions: FloatArray, cell: FloatArray
    ) -> tuple[IntArray, IntArray, FloatArray, FloatArray]:
        """Pairs i, j, shift and wanted distance that may overlap; the list lasts many steps."""
        reach = self._cutoff * self._margin
        if self._list is None or not self._list.holds(positions, cell, reach):
            pairs = self._between(neighbour_pairs(positions, cell, reach + _SKIN))
            wanted = self._wanted(pairs) * self._margin
            keep = pairs.distance < wanted + _SKIN
            pairs = pairs.take(keep)
            self._list = _List(
                positions, cell, pairs.i, pairs.j, pairs.shift.astype(np.float64), wanted[keep]
            )
        found = self._list
        return found.i, found.j, found.shift, found.wanted


@dataclass(frozen=True)
class _List:
    """Neighbours of a geometry, to within `_SKIN` of their wanted distance."""

    positions: FloatArray
    cell: FloatArray
    i: IntArray
    j: IntArray
    shift: FloatArray
    wanted: FloatArray

    def holds(self, positions: FloatArray, cell: FloatArray, reach: float) -> bool:
        """Whether no pair outside the list can have come closer than it wants to be.

        A vector v of the listed geometry has become v M + u_j - u_i, with M the strain since and
        u the moves beside it; outside the list |v| is at least wanted + skin.
        """
        strain = np.linalg.solve(self.cell, cell)
        move = positions - self.positions @ strain
        # The affine map has no origin of its own: what all atoms do together does not count.
        move -= move.mean(axis=0)
        smallest = float(np.linalg.svd(strain, compute_uv=False)[-1])
        farthest = 2.0 * float(np.sqrt((move * move).sum(axis=1).max()))
        return bool(farthest <= smallest * _SKIN - max(1.0 - smallest, 0.0) * reach)


def rotation_matrices(vectors: FloatArray) -> FloatArray:
    """Rotation matrices [z, 3, 3] (acting on columns) of rotation vectors [z, 3] in radians."""
    skew, first, second, _ = _rodrigues(vectors)
    return np.asarray(np.eye(3) + first * skew + second * (skew @ skew), dtype=np.float64)


def left_jacobians(vectors: FloatArray) -> FloatArray:
    """Left Jacobians J [z, 3, 3] of SO(3): R(v + dv) = R(J dv) R(v) to first order.

    Source: Barfoot, State Estimation for Robotics (2017), eq. 7.77.
    """
    skew, _, second, third = _rodrigues(vectors)
    return np.asarray(np.eye(3) + second * skew + third * (skew @ skew), dtype=np.float64)


def _rodrigues(vectors: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Skew matrices, and sin(a)/a, (1 - cos a)/a², (a - sin a)/a³ of the angles, [z, 1, 1]."""
    angle = np.linalg.norm(vectors, axis=1)[:, None, None]
    small = angle < 1e-3  # below, the series are exact to rounding and the quotients are not
    a = np.where(small, 1.0, angle)
    first = np.where(small, 1.0 - angle**2 / 6.0, np.sin(a) / a)
    second = np.where(small, 0.5 - angle**2 / 24.0, (1.0 - np.cos(a)) / a**2)
    third = np.where(small, (1.0 - angle**2 / 20.0) / 6.0, (a - np.sin(a)) / a**3)
    skew = np.zeros((len(vectors), 3, 3))
    for a_, b_, c_ in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
        skew[:, a_, b_], skew[:, b_, a_] = -vectors[:, c_], vectors[:, c_]
    return skew, first, second, third


def _untouched(crystal: Crystal, residual: float, note: str) -> Relief:
    return Relief(crystal, 0, 0.0, 0.0, 1.0, residual, note)
