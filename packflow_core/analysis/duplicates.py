"""Which relaxed crystals of one molecule are the same: thousands of them, in minutes.

Three questions about a pair that is close in energy, density and AMD, cheap ones first:

1. Does an explicit superposition prove that the packings are the same (`overlay`: RMSD of the
   clusters around every kind of molecule, of both crystals)? Most duplicates end here, after a few
   milliseconds.
2. Are the pointwise distance distributions so far apart that they cannot be (`pdd`)?
3. What is left is compared by `oxtalign` (`similarity`).

The first says yes; its no counts only with molecules of several kinds and for the resemblance to a
representative. The second can only say no. How often they were asked is in `Effort`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from packflow_core.analysis.metrics import amd_by_element
from packflow_core.analysis.overlay import OverlayCrystal, overlay
from packflow_core.analysis.pdd import NEIGHBOURS, Pdd, pdd, pdd_distance
from packflow_core.analysis.ranking import Clusters, DuplicateWindows, cluster_duplicates
from packflow_core.analysis.similarity import MOLECULE_TOLERANCE_A, Packing, matches
from packflow_core.crystal.crystal import Crystal

FloatArray = NDArray[np.float64]

#: Molecules in the compared clusters. Stackings of the same layers may agree in 15.
SHELL_SIZE = 30
#: Neighbours, counted from 1, whose mean distances are compared first.
AMD_COLUMNS = tuple(range(4, NEIGHBOURS + 1, 4))
#: A member of a cluster differs from its representative by at most so many times the RMSD of
#: duplicates.
CLUSTER_RADIUS = 2.0
#: Rows of relaxed crystals that symmetry would make equal differ by about this much, in Å.
_MERGE_A = 0.01
#: Invariants this close are those of duplicates, most often: the proof is tried first, in Å.
_LIKELY_A = 0.05
_KEPT_IN_MEMORY = 2000


@dataclass(frozen=True)
class DuplicateLimits:
    """When two crystals are the same.

    Attributes:
        windows: within which pairs are compared at all.
        rmsd_A: largest RMSD of the clusters of molecules, heavy atoms, Å.
        pdd_A: largest distance of the PDDs by element, heavy atoms, Å.
        shell_size: molecules in a cluster.
        molecule_tolerance_A: a molecule of the cluster fits below this RMSD, Å.
        timeout_s: time limit of one comparison by `oxtalign`, s.
    """

    windows: DuplicateWindows = field(default_factory=DuplicateWindows)
    rmsd_A: float = 0.25
    pdd_A: float = 0.25
    shell_size: int = SHELL_SIZE
    molecule_tolerance_A: float = MOLECULE_TOLERANCE_A
    timeout_s: float | None = 60.0


@dataclass
class Effort:
    """How a search for duplicates was spent.

    Attributes:
        proved: pairs that a superposition proved to be the same.
        excluded: pairs that their PDDs excluded.
        compared: pairs that `oxtalign` compared.
        compared_same: those of them that it found to be the same.
        akin: comparisons with a representative for the sake of the cluster.
        refused: chains that a representative cut.
    """

    proved: int = 0
    excluded: int = 0
    compared: int = 0
    compared_same: int = 0
    akin: int = 0
    refused: int = 0

    def describe(self) -> str:
        """The numbers in words, for a log."""
        return (
            f"{self.proved} proved the same by a superposition, {self.excluded} excluded by their "
            f"PDDs, {self.compared} compared by oxtalign ({self.compared_same} the same); "
            f"{self.refused} chains cut"
        )


def amd_columns(crystal: Crystal) -> FloatArray:
    """[elements * 25] Å: AMD of the heavy atoms by element, at every fourth neighbour to the 100th.

    Elements by ascending atomic number, one after the other.

    Raises:
        ValueError: no heavy atom, or a collapsed cell.
    """
    invariant = amd_by_element(crystal.heavy_only())[:, np.array(AMD_COLUMNS) - 1]
    return invariant.reshape(-1)


def find_duplicates(
    crystals: Sequence[Crystal],
    relative_kJ_mol: FloatArray,
    invariants: Sequence[Sequence[float] | FloatArray | None],
    limits: DuplicateLimits | None = None,
) -> tuple[Clusters, Effort]:
    """Group relaxed crystals of one molecule that are the same.

    Args:
        crystals: [n] with the atoms of all molecules in one order.
        relative_kJ_mol: [n] ascending energies per molecule.
        invariants: [n] from `amd_columns`; None where it could not be computed: such a crystal is
            a duplicate of nothing.
        limits: when two are the same; the defaults where None.

    Raises:
        ValueError: the energies are not ascending.
    """
    limits = limits or DuplicateLimits()
    width = max((len(v) for v in invariants if v is not None), default=1)
    vectors = np.full((len(crystals), width), np.nan)
    for k, vector in enumerate(invariants):
        if vector is not None and len(vector) == width:
            vectors[k] = vector
    pairs = _Pairs(crystals, vectors, limits)
    clusters = cluster_duplicates(
        relative_kJ_mol,
        np.array([crystal.density for crystal in crystals], dtype=np.float64),
        vectors,
        pairs.same,
        limits.windows,
        pairs.akin,
    )
    pairs.effort.refused = clusters.n_refused
    return clusters, pairs.effort


class _Pairs:
    """Compares pairs of crystals and remembers what it prepared for that."""

    def __init__(
        self, crystals: Sequence[Crystal], vectors: FloatArray, limits: DuplicateLimits
    ) -> None:
        self.effort = Effort()
        self._crystals, self._vectors, self._limits = crystals, vectors, limits
        self._prepared: Callable[[int], OverlayCrystal | None] = lru_cache(_KEPT_IN_MEMORY)(
            self._make_prepared
        )
        self._pdd: Callable[[int], Pdd] = lru_cache(_KEPT_IN_MEMORY)(self._make_pdd)
        self._packing: Callable[[int], Packing] = lru_cache(_KEPT_IN_MEMORY)(self._make_packing)

    def same(self, i: int, j: int) -> bool:
        """Whether two crystals are the same packing."""
        likely = float(np.abs(self._vectors[i] - self._vectors[j]).max()) <= _LIKELY_A
        if not likely and self._excluded(i, j):
            return False
        proved = self._proved(i, j, self._limits.rmsd_A)
        if proved:
            self.effort.proved += 1
            return True
        if likely and self._excluded(i, j):
            return False
        if proved is not None and self._several_kinds(i, j):
            # oxtalign would say whether some molecule has the same surroundings, not all of them.
            return False
        self.effort.compared += 1
        same = self._compared(i, j, self._limits.rmsd_A)
        self.effort.compared_same += same
        return same

    def akin(self, i: int, j: int) -> bool:
        """Whether two crystals are near enough for one cluster."""
        self.effort.akin += 1
        limit = CLUSTER_RADIUS * self._limits.rmsd_A
        proved = self._proved(i, j, limit)
        return self._compared(i, j, limit) if proved is None else proved

    def _compared(self, i: int, j: int, rmsd: float) -> bool:
        """Whether `oxtalign` finds the same packing."""
        found = matches(
            self._packing(j),
            self._packing(i),
            n=self._limits.shell_size,
            molecule_tolerance=self._limits.molecule_tolerance_A,
            timeout_s=self._limits.timeout_s,
        )
        return found.full and found.rmsd is not None and found.rmsd <= rmsd

    def _several_kinds(self, i: int, j: int) -> bool:
        each = (self._prepared(i), self._prepared(j))
        return any(crystal is not None and len(crystal.independent) > 1 for crystal in each)

    def _proved(self, i: int, j: int, rmsd: float) -> bool | None:
        """Whether a superposition has at most that RMSD; None where none can be made."""
        a, b = self._prepared(i), self._prepared(j)
        if a is None or b is None:
            return None
        found = self._overlay(a, b, rmsd)
        # A cluster around one kind of molecule may be found in another packing.
        if found and self._several_kinds(i, j):
            found = self._overlay(b, a, rmsd)
        return found

    def _overlay(self, a: OverlayCrystal, b: OverlayCrystal, rmsd: float) -> bool | None:
        found = overlay(
            a,
            b,
            n=self._limits.shell_size,
            molecule_tolerance=self._limits.molecule_tolerance_A,
            enough=rmsd,
        )
        return None if found is None else found.full and found.rmsd <= rmsd

    def _excluded(self, i: int, j: int) -> bool:
        if pdd_distance(self._pdd(i), self._pdd(j)) <= self._limits.pdd_A:
            return False
        self.effort.excluded += 1
        return True

    def _make_prepared(self, k: int) -> OverlayCrystal | None:
        try:
            return OverlayCrystal(self._crystals[k])
        except ValueError:  # flat: left to oxtalign, which says so
            return None

    def _make_pdd(self, k: int) -> Pdd:
        return pdd(self._crystals[k].heavy_only(), merge=_MERGE_A)

    def _make_packing(self, k: int) -> Packing:
        return Packing(self._crystals[k])
