"""Lay one crystal over another, atom by atom: a quick proof that two packings are the same.

Candidates of one run have the same molecules with their atoms in the same order, but for the
symmetry of the molecular graph. That makes the packing comparison cheap: a molecule of the first
crystal is superposed on every molecule of the second, in both hands and with every symmetry of the
graph; the superposition carries the molecule's neighbours along, and they are compared with the
nearest molecules of the second crystal. The best superpositions are refined on all molecules that
fit (trimmed iterative closest point).

What comes out is the RMSD of an explicit superposition, so it is an upper bound of RMSD15: a small
value proves that the packings are the same, whatever the cells, origins, hands and orders of
molecules. A large one proves nothing; `similarity.matches` looks harder. Clusters are those of
COMPACK (Chisholm and Motherwell, J. Appl. Cryst. 38, 228, 2005): a molecule and the neighbours with
the closest contacts to it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from packflow_core.analysis.neighbors import nearest_distances, reduced_cell
from packflow_core.chem.elements import COVALENT_RADII
from packflow_core.crystal.crystal import Crystal
from packflow_core.crystal.lattice import heights

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

#: Symmetries of a molecular graph beyond which nothing is tried here.
MAX_SYMMETRIES = 192
#: Molecules whose mean distances to neighbours differ by less than this (Å) have the same
#: surroundings; a smaller value only costs time.
EQUIVALENT_A = 0.05
#: Neighbours of each atom that describe the surroundings of a molecule.
_NEIGHBOURS = 60
#: Molecules are looked for this far (Å) from where the first superposition puts them: it comes from
#: one molecule and is off by more the farther it reaches.
_WIDE_A = 1.5
#: Superpositions that are refined at most.
_REFINED = 8
_MAX_STEPS = 12
_BOND_SLACK_A = 0.4
#: Nearest images are found by rounding, which is right where the cell is thicker than this, in Å.
_MIN_HEIGHT_A = 2.0 * _WIDE_A


@dataclass(frozen=True)
class Overlay:
    """The best superposition that was found.

    Attributes:
        rmsd: in Å over the heavy atoms of the molecules that fit; infinite where none did. Where
            the first crystal has molecules with different surroundings, of the worst of them.
        n_matched: molecules of the cluster that fit, likewise.
        n_total: molecules of a cluster.
    """

    rmsd: float
    n_matched: int
    n_total: int

    @property
    def full(self) -> bool:
        """Whether every molecule of every cluster fits."""
        return self.n_matched == self.n_total


class OverlayCrystal:
    """A crystal prepared for overlays; reuse it where one crystal meets many.

    Args:
        crystal: molecules whole, atoms molecule by molecule, all in one order.

    Raises:
        ValueError: no heavy atom, or a cell too flat for molecules.
    """

    def __init__(self, crystal: Crystal) -> None:
        heavy = crystal.heavy_only()
        if not len(heavy):
            raise ValueError("no heavy atom to compare")
        self._crystal = Crystal(
            heavy.numbers, heavy.positions, reduced_cell(heavy.cell), heavy.z
        ).wrapped()
        self.cell = self._crystal.cell
        if heights(self.cell).min() < _MIN_HEIGHT_A:
            raise ValueError(f"the cell is only {heights(self.cell).min():.2f} Å thick")
        self.inverse = np.linalg.inv(self.cell)
        self.molecules = self._crystal.positions.reshape(heavy.z, -1, 3)
        self.centres = self.molecules.mean(axis=1)
        size = self.molecules.shape[1]
        self.numbers = self._crystal.numbers[:size]
        self._shells: dict[tuple[int, int], FloatArray] = {}

    @property
    def z(self) -> int:
        """Molecules in the cell."""
        return len(self.molecules)

    @cached_property
    def bonds(self) -> IntArray:
        """[B, 2] bonds of the first molecule, by distance."""
        x = self.molecules[0]
        reach = COVALENT_RADII[self.numbers]
        near = np.linalg.norm(x[:, None] - x[None], axis=-1) < (
            reach[:, None] + reach[None] + _BOND_SLACK_A
        )
        return np.argwhere(np.triu(near, 1)).astype(np.int64)

    @cached_property
    def independent(self) -> list[int]:
        """One molecule of each kind of surroundings, the first of each kind.

        Molecules that a symmetry of the crystal, proper or not, maps on each other have the same
        distances to their neighbours.
        """
        if self.z == 1:
            return [0]
        distances = nearest_distances(self._crystal, _NEIGHBOURS)
        by_molecule = distances.reshape(self.z, len(self.numbers), -1)
        kinds = np.stack(
            [by_molecule[:, self.numbers == e].mean(axis=1) for e in np.unique(self.numbers)],
            axis=1,
        ).reshape(self.z, -1)
        chosen: list[int] = []
        for m in range(self.z):
            if all(np.abs(kinds[m] - kinds[c]).max() > EQUIVALENT_A for c in chosen):
                chosen.append(m)
        return chosen

    def shell(self, molecule: int, n: int) -> FloatArray:
        """[n, atoms, 3] Å: a molecule and the n - 1 others with the closest contacts to it."""
        key = (molecule, n)
        if key not in self._shells:
            self._shells[key] = self._closest(molecule, n)
        return self._shells[key]

    def _closest(self, molecule: int, n: int) -> FloatArray:
        home = self.molecules[molecule]
        reach = np.linalg.norm(self.molecules - self.centres[:, None], axis=-1).max()
        volume = abs(np.linalg.det(self.cell)) / self.z
        radius = 1.2 * (3.0 * n * volume / (4.0 * np.pi)) ** (1.0 / 3.0) + 2.0 * float(reach)
        steps = [np.arange(-k, k + 1) for k in np.ceil(radius / heights(self.cell)).astype(int) + 1]
        shifts = np.stack(np.meshgrid(*steps, indexing="ij"), axis=-1).reshape(-1, 3) @ self.cell
        centres = self.centres[:, None] + shifts[None]
        m, s = np.nonzero(np.linalg.norm(centres - self.centres[molecule], axis=-1) <= radius)
        images = self.molecules[m] + shifts[s][:, None]
        distance, _ = cKDTree(home).query(images.reshape(-1, 3))
        contact = distance.reshape(images.shape[:2]).min(axis=1)
        # Rounded, so that equal contacts are ordered by place and not by the last bit.
        order = np.lexsort((np.arange(len(contact)), np.round(contact, 6)))
        return images[order[:n]]


def overlay(
    a: OverlayCrystal,
    b: OverlayCrystal,
    *,
    n: int = 15,
    molecule_tolerance: float = 1.0,
    enough: float | None = None,
) -> Overlay | None:
    """Lay the clusters of `a` over `b`, one for each kind of molecule of `a`; the worst counts.

    Args:
        a: the crystal whose clusters are looked for.
        b: where they are looked for.
        n: molecules in a cluster.
        molecule_tolerance: a molecule fits below this RMSD, Å.
        enough: only superpositions of all molecules with at most this RMSD in Å are of interest:
            the first is taken, and what cannot become one is given up early.

    Returns:
        The worst of the best superpositions, or None where the crystals cannot be compared this
        way: other molecules, or too many symmetries of the molecular graph.
    """
    worst = Overlay(0.0, n, n)
    for found in _overlays(a, b, n, molecule_tolerance, enough):
        if found is None:
            return None
        if (found.n_matched, -found.rmsd) < (worst.n_matched, -worst.rmsd):
            worst = found
        if enough is not None and not (found.full and found.rmsd <= enough):
            break
    return worst


def overlays(
    a: OverlayCrystal, b: OverlayCrystal, *, n: int = 15, molecule_tolerance: float = 1.0
) -> list[Overlay] | None:
    """The best superposition for each kind of molecule of `a`, in the order of `a.independent`.

    Args and None: see `overlay`.
    """
    found = list(_overlays(a, b, n, molecule_tolerance, None))
    known = [each for each in found if each is not None]
    return known if len(known) == len(found) else None


def _overlays(
    a: OverlayCrystal, b: OverlayCrystal, n: int, tolerance: float, enough: float | None
) -> Iterator[Overlay | None]:
    maps = _graph_maps(
        a.numbers.tobytes(), a.bonds.tobytes(), b.numbers.tobytes(), b.bonds.tobytes()
    )
    if maps is None:
        yield None
        return
    for central in a.independent:
        yield _overlay_one(a.shell(central, n), b, maps, tolerance, enough)


def _overlay_one(
    shell: FloatArray, b: OverlayCrystal, maps: IntArray, tolerance: float, enough: float | None
) -> Overlay:
    best = Overlay(np.inf, 0, len(shell))
    starts = _starts(shell, b, maps)
    if enough is not None:
        starts = _whole(starts, shell, b, tolerance)
    for k in starts.order()[:_REFINED]:
        found = _refined(shell, b, maps, starts.at(k), tolerance)
        if (found.n_matched, -found.rmsd) > (best.n_matched, -best.rmsd):
            best = found
        if enough is not None and best.full and best.rmsd <= enough:
            break
    return best


@dataclass(frozen=True, eq=False)
class _Pose:
    """Where a crystal is laid: x goes to (x - origin) @ rotation + target in the hand of the other.

    Attributes:
        rotation: [3, 3].
        origin, target: [3] Å.
        hand: 1, or -1 where the other crystal is inverted.
    """

    rotation: FloatArray
    origin: FloatArray
    target: FloatArray
    hand: float


@dataclass(frozen=True, eq=False)
class _Starts:
    """Poses of a cluster, by what they do to the centres of its molecules.

    Attributes:
        rotation: [S, 3, 3].
        origin, target: [S, 3] Å.
        hand: [S].
        miss: [S, n] Å from each centre to the nearest centre of the other crystal.
    """

    rotation: FloatArray
    origin: FloatArray
    target: FloatArray
    hand: FloatArray
    miss: FloatArray

    def at(self, k: int) -> _Pose:
        return _Pose(self.rotation[k], self.origin[k], self.target[k], float(self.hand[k]))

    def only(self, chosen: NDArray[np.bool_]) -> _Starts:
        return _Starts(
            self.rotation[chosen], self.origin[chosen], self.target[chosen], self.hand[chosen],
            self.miss[chosen],
        )  # fmt: skip

    def order(self) -> list[int]:
        """Those first that bring most centres near others, then by how near."""
        near = (self.miss < _WIDE_A).sum(axis=1)
        # Rounded, so that equal poses come in the order of the molecules.
        order: list[int] = np.lexsort((np.round(self.miss.sum(axis=1), 6), -near)).tolist()
        return order


def _starts(shell: FloatArray, b: OverlayCrystal, maps: IntArray) -> _Starts:
    """All poses that superpose the first molecule on one of the other crystal."""
    first = shell[0] - shell[0].mean(axis=0)
    shapes = (b.molecules - b.centres[:, None])[:, maps].reshape(-1, len(first), 3)
    targets = np.repeat(b.centres, len(maps), axis=0)
    hand = np.repeat([1.0, -1.0], len(targets))
    rotation = _rotations(first, np.concatenate([shapes, -shapes]))
    target = np.concatenate([targets, -targets])
    origin = np.broadcast_to(shell[0].mean(axis=0), target.shape)
    miss = np.linalg.norm(_to_nearest(shell, b, rotation, origin, target, hand)[1], axis=-1)
    return _Starts(rotation, origin, target, hand, miss)


def _to_nearest(
    shell: FloatArray,
    b: OverlayCrystal,
    rotation: FloatArray,
    origin: FloatArray,
    target: FloatArray,
    hand: FloatArray,
) -> tuple[FloatArray, FloatArray]:
    """[S, n, 3] Å the centres as they are laid, and the way from each to the nearest centre."""
    centres = shell.mean(axis=1)
    laid = (centres - origin[:, None]) @ rotation + target[:, None]
    way = (hand[:, None, None] * b.centres)[:, None] - laid[:, :, None]
    cells = way @ b.inverse
    way = (cells - np.rint(cells)) @ b.cell
    nearest = (way**2).sum(axis=-1).argmin(axis=-1)
    return laid, np.take_along_axis(way, nearest[..., None, None], axis=2)[:, :, 0]


def _whole(starts: _Starts, shell: FloatArray, b: OverlayCrystal, tolerance: float) -> _Starts:
    """Poses that may become superpositions of all molecules.

    The RMSD of a molecule is at least the distance of the centres, so all centres must come within
    the tolerance of others once the poses are improved on the centres.
    """
    centres = shell.mean(axis=1)
    for _ in range(2):
        starts = starts.only(starts.miss.max(axis=1) < 2.0 * _WIDE_A)
        laid, way = _to_nearest(
            shell, b, starts.rotation, starts.origin, starts.target, starts.hand
        )
        goal = laid + way
        origin, target = np.broadcast_to(centres.mean(axis=0), (len(goal), 3)), goal.mean(axis=1)
        rotation = _rotations(centres - centres.mean(axis=0), goal - target[:, None])
        _, way = _to_nearest(shell, b, rotation, origin, target, starts.hand)
        starts = _Starts(rotation, origin, target, starts.hand, np.linalg.norm(way, axis=-1))
    return starts.only(starts.miss.max(axis=1) < tolerance)


def _refined(
    shell: FloatArray,
    b: OverlayCrystal,
    maps: IntArray,
    pose: _Pose,
    tolerance: float,
) -> Overlay:
    """Superposition of all molecules that fit, from a pose."""
    n, size, _ = shell.shape
    rotation, origin, target, hand = pose.rotation, pose.origin, pose.target, pose.hand
    centres = hand * b.centres
    last = np.inf
    for step in range(_MAX_STEPS):
        moved = (shell - origin) @ rotation + target
        middle = moved.mean(axis=1)
        apart = (middle[:, None] - centres) @ b.inverse
        cells = np.rint(apart)
        miss = np.linalg.norm((apart - cells) @ b.cell, axis=-1)
        partner = miss.argmin(axis=1)
        images = cells[np.arange(n), partner]
        others = hand * b.molecules[partner] + (images @ b.cell)[:, None]
        squares = ((moved[:, None] - others[:, maps]) ** 2).sum(axis=(2, 3)) / size
        chosen = squares.argmin(axis=1)
        each = np.sqrt(squares[np.arange(n), chosen])
        fits = each < (max(_WIDE_A, tolerance) if step == 0 else tolerance)
        if not fits.any():
            return Overlay(np.inf, 0, n)
        rmsd = float(np.sqrt((each[fits] ** 2).mean()))
        if step and abs(last - rmsd) < 1e-4:
            break
        last = rmsd if step else np.inf
        x = shell[fits].reshape(-1, 3)
        y = others[np.arange(n)[:, None], maps[chosen]][fits].reshape(-1, 3)
        origin, target = x.mean(axis=0), y.mean(axis=0)
        rotation = _rotations(x - origin, (y - target)[None])[0]
    taken = {(int(p), *map(int, c)) for p, c in zip(partner[fits], images[fits], strict=True)}
    # Two molecules on one partner: no superposition of crystals.
    return Overlay(rmsd, len(taken) if len(taken) < fits.sum() else int(fits.sum()), n)


def _rotations(x: FloatArray, shapes: FloatArray) -> FloatArray:
    """[S, 3, 3] proper rotations with x @ rotation nearest to each of the shapes (Kabsch)."""
    u, _, vt = np.linalg.svd(x.T @ shapes)
    u[..., -1] *= np.sign(np.linalg.det(u @ vt))[..., None]
    rotations: FloatArray = u @ vt
    return rotations


@lru_cache(maxsize=256)
def _graph_maps(
    numbers_a: bytes, bonds_a: bytes, numbers_b: bytes, bonds_b: bytes
) -> IntArray | None:
    """[M, N] atoms of b that stand for the atoms of a, in every way; None for none or too many."""
    from rdkit import Chem

    def graph(numbers: bytes, bonds: bytes) -> Chem.Mol:
        mol = Chem.RWMol()
        for element in np.frombuffer(numbers, dtype=np.int64).tolist():
            atom = Chem.Atom(int(element))
            atom.SetNoImplicit(True)
            mol.AddAtom(atom)
        for i, j in np.frombuffer(bonds, dtype=np.int64).reshape(-1, 2).tolist():
            mol.AddBond(int(i), int(j), Chem.BondType.SINGLE)
        return mol.GetMol()

    if len(numbers_a) != len(numbers_b) or len(bonds_a) != len(bonds_b):
        return None
    found = graph(numbers_b, bonds_b).GetSubstructMatches(
        graph(numbers_a, bonds_a), uniquify=False, maxMatches=MAX_SYMMETRIES + 1
    )
    if not found or len(found) > MAX_SYMMETRIES:
        return None
    return np.array(found, dtype=np.int64)
