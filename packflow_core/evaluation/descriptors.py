"""AMD, pair distribution, clashes and volume of many crystals at once.

The same numbers as `packflow_core.analysis.metrics` gives for one crystal, in half to a third of
the time: the distances of a batch are one array, from which everything is read. Crystals of a
batch have equal atoms, as the candidates of one molecule and Z have. What is found for a crystal
depends on that crystal alone, to the last bit: no sum runs over more than one of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from packflow_core.analysis.metrics import (
    AMD_NEIGHBOURS,
    RDF_BINS,
    RDF_EDGE_TOLERANCE_A,
    RDF_RANGE_A,
    STANDARD,
    ElementTable,
)
from packflow_core.analysis.neighbors import MAX_IMAGE_ATOMS, reduced_cell
from packflow_core.crystal.contacts import CLASH_FACTOR
from packflow_core.crystal.lattice import heights

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

#: Distances held at once; two arrays of them stay in a processor's cache.
_CHUNK = 400_000
#: Distances of one crystal at most; no crystal of molecules comes near.
_MAX_DISTANCES = 20_000_000
#: Coordinate of the images that only fill up an array, in Å: farther than any distance asked for.
_NOWHERE = 1e8


@dataclass(frozen=True, eq=False)
class Descriptors:
    """What the metrics need to know of B crystals; the numbers of a faulty one are NaN.

    Attributes:
        amd: [B, k] average minimum distances, Å.
        rdf: [B, bins] ordered periodic pairs per bin of 0 to 10 Å.
        clash_percent: [B] atoms that clash (PackFlow, eq. 25 and 26).
        volume: [B] volume of the cell, Å3.
        problem: [B] why there are no numbers; empty where there are.
    """

    amd: FloatArray
    rdf: FloatArray
    clash_percent: FloatArray
    volume: FloatArray
    problem: list[str]


def describe(
    numbers: IntArray,
    positions: FloatArray,
    cells: FloatArray,
    elements: ElementTable = STANDARD,
    k: int = AMD_NEIGHBOURS,
) -> Descriptors:
    """Descriptors of crystals with equal atoms.

    Args:
        numbers: [N] atomic numbers; hydrogens, where there are any, count like other atoms.
        positions: [B, N, 3] Å, wrapped or not.
        cells: [B, 3, 3] Å, right-handed.
        elements: covalent radii of the clashes.
        k: neighbours of the AMD.

    Returns:
        One entry for each crystal. One that is empty, not finite, without volume, or so thin that
        its neighbours cannot be listed has its problem in words.
    """
    size = len(positions)
    found = Descriptors(
        amd=np.full((size, k), np.nan),
        rdf=np.full((size, RDF_BINS), np.nan),
        clash_percent=np.full(size, np.nan),
        volume=np.full(size, np.nan),
        problem=[_unfit(x, cell) for x, cell in zip(positions, cells, strict=True)],
    )
    radii = elements.radii[numbers]
    limits = CLASH_FACTOR * (radii[:, None] + radii[None])
    waiting = []
    for b in range(size):
        if not found.problem[b]:
            found.volume[b] = volume = float(np.linalg.det(cells[b]))
            # The sphere that holds k atoms on average, with a margin; what it holds is checked.
            radius = 1.25 * (3.0 * k * volume / (4.0 * np.pi * len(numbers))) ** (1.0 / 3.0)
            waiting.append(_Crystal(b, positions[b], cells[b], max(radius, RDF_RANGE_A)))
    while waiting:
        short = [
            crystal
            for chunk in _chunks(waiting, found.problem)
            for crystal in _describe_chunk(chunk, limits, k, found)
        ]
        waiting = short
    faulty = np.array([bool(problem) for problem in found.problem], dtype=np.bool_)
    for values in (found.amd, found.rdf, found.clash_percent, found.volume):
        values[faulty] = np.nan
    return found


class _Crystal:
    """Wrapped atoms of one crystal in its reduced cell, and how far its images reach."""

    def __init__(self, place: int, positions: FloatArray, cell: FloatArray, radius: float) -> None:
        self.place = place
        self.cell = reduced_cell(cell)
        frac = positions @ np.linalg.inv(self.cell)
        self.frac = frac - np.floor(frac)
        self.heights = heights(self.cell)
        self.reach_to(radius)

    def reach_to(self, radius: float) -> None:
        """Set the distance in Å up to which all neighbours are among the images."""
        self.radius = radius
        self.margin = radius / self.heights + 1e-9
        self.reach = np.ceil(self.margin)
        #: Pairs of an atom and an image, about: images fill the cell and its margins.
        self.size = len(self.frac) ** 2 * float(np.prod(1.0 + 2.0 * self.margin))

    def problem(self) -> str:
        """Why the images cannot be listed; empty where they can."""
        count = np.prod(2.0 * self.reach + 1.0) * len(self.frac)
        if np.isfinite(count) and count <= MAX_IMAGE_ATOMS and self.size <= _MAX_DISTANCES:
            return ""
        return (
            f"the cell is collapsed (heights {self.heights.round(3).tolist()} Å); its neighbours "
            f"within {self.radius:.1f} Å cannot be listed"
        )

    def images(self) -> tuple[FloatArray, IntArray, int]:
        """Images that can matter, [M, 3] Å, the atom of each [M], and the place of atom 0."""
        steps = [np.arange(-r, r + 1) for r in self.reach]
        shifts = np.stack(np.meshgrid(*steps, indexing="ij"), axis=-1).reshape(-1, 3)
        frac = (self.frac[None] + shifts[:, None]).reshape(-1, 3)
        near = np.flatnonzero(((frac > -self.margin) & (frac < 1.0 + self.margin)).all(axis=1))
        # The untranslated atoms are in the middle of the list, and all of them are near.
        own = int(np.searchsorted(near, len(shifts) // 2 * len(self.frac)))
        return frac[near] @ self.cell, near % len(self.frac), own


def _unfit(positions: FloatArray, cell: FloatArray) -> str:
    if not len(positions):
        return "the crystal holds no atoms"
    if not (np.isfinite(positions).all() and np.isfinite(cell).all()):
        return "positions or cell contain NaN or infinity"
    if np.linalg.det(cell) <= 0:
        return "the cell has no volume"
    return ""


def _chunks(waiting: list[_Crystal], problem: list[str]) -> list[list[_Crystal]]:
    """Crystals with about as many images together; one that cannot be listed gets its problem."""
    chunks: list[list[_Crystal]] = []
    held = 0.0
    for crystal in sorted(waiting, key=lambda c: (c.size, c.place)):
        if reason := crystal.problem():
            problem[crystal.place] = reason
            continue
        if not chunks or held + crystal.size > _CHUNK:
            chunks.append([])
            held = 0.0
        chunks[-1].append(crystal)
        held += crystal.size
    return chunks


def _describe_chunk(
    chunk: list[_Crystal], limits: FloatArray, k: int, found: Descriptors
) -> list[_Crystal]:
    """Fill in the descriptors of a chunk; returns the crystals whose radius was too small."""
    squares, atom = _squares(chunk)
    _count_pairs(chunk, squares, atom, limits, found)
    if squares.shape[2] > k:
        squares.partition(k - 1, axis=2)
        nearest = np.sqrt(squares[:, :, :k])
        nearest.sort(axis=2)
    else:
        nearest = np.full((*squares.shape[:2], k), _NOWHERE)
    short = []
    for distances, crystal in zip(nearest, chunk, strict=True):
        farthest = float(distances[:, -1].max())
        if farthest <= crystal.radius:
            found.amd[crystal.place] = distances.mean(axis=0)
            continue
        # What was found is an upper bound of the radius that is needed, if it was found at all.
        enough = farthest < 0.1 * _NOWHERE
        crystal.reach_to(farthest * (1.0 + 1e-9) if enough else 1.5 * crystal.radius)
        short.append(crystal)
    return short


def _squares(chunk: list[_Crystal]) -> tuple[FloatArray, IntArray]:
    """Squared distances [C, N, M] Å2 of the atoms to all images, and the atom of each [C, M].

    The distance of an atom to itself is infinite. Differences are squared one by one, not by a
    matrix product: that would lose digits of short distances, and its rounding depends on shapes.
    """
    listed = [crystal.images() for crystal in chunk]
    n = len(chunk[0].frac)
    most = max(len(images) for images, _, _ in listed)
    around = np.full((len(chunk), 3, most), _NOWHERE)
    home = np.empty((len(chunk), 3, n))
    atom = np.zeros((len(chunk), most), dtype=np.int64)
    for row, (images, atoms, own) in enumerate(listed):
        around[row, :, : len(images)] = images.T
        home[row] = images[own : own + n].T
        atom[row, : len(images)] = atoms
    squares, term = np.empty((2, len(chunk), n, most))
    for axis in range(3):
        target = term if axis else squares
        np.subtract(around[:, axis, None, :], home[:, axis, :, None], out=target)
        np.multiply(target, target, out=target)
        if axis:
            squares += term
    for row, (_, _, own) in enumerate(listed):
        squares[row, np.arange(n), own + np.arange(n)] = np.inf
    return squares, atom


def _count_pairs(
    chunk: list[_Crystal],
    squares: FloatArray,
    atom: IntArray,
    limits: FloatArray,
    found: Descriptors,
) -> None:
    """Pair distributions and clashes of a chunk from its squared distances."""
    _, n, most = squares.shape
    near = np.flatnonzero(squares < RDF_RANGE_A**2)
    distance = np.sqrt(squares.reshape(-1)[near])
    row = near // (n * most)
    scale = RDF_BINS / RDF_RANGE_A
    bins = ((distance + RDF_EDGE_TOLERANCE_A) * scale).astype(np.int64)
    inside = bins < RDF_BINS
    counts = np.bincount(
        row[inside] * RDF_BINS + bins[inside], minlength=len(chunk) * RDF_BINS
    ).reshape(len(chunk), RDF_BINS)
    close = distance < limits.max()
    row, near, distance = row[close], near[close], distance[close]
    i = near // most % n
    clashes = distance < limits[i, atom[row, near % most]]
    clashing = np.zeros((len(chunk), n), dtype=np.bool_)
    clashing[row[clashes], i[clashes]] = True
    for counted, hit, crystal in zip(counts, clashing, chunk, strict=True):
        found.rdf[crystal.place] = counted
        found.clash_percent[crystal.place] = 100.0 * np.count_nonzero(hit) / n
