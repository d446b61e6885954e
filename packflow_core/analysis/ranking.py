"""Order relaxed crystals by energy and group the duplicates among them.

Duplicates are found without bins: candidates sorted by energy meet their neighbours inside an
energy window, then inside a density window, then by a cheap invariant (AMD by element), and only
what is still close is confirmed by a packing comparison. Clusters grow from the confirmed pairs, so
twins are never split by where a bin edge happens to fall. What binds a cluster together is its
representative: a member that was confirmed against another member must also resemble the
representative, so that a chain of near twins cannot lead from one packing to another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

#: 1 eV in kJ/mol (CODATA 2018).
EV_TO_KJ_MOL = 96.48533212

#: Failed confirmations of one candidate against one cluster before the cluster is left alone.
_TRIES_PER_CLUSTER = 3
#: Every so many entries of the invariants are compared first.
_COARSE = 8


@dataclass(frozen=True)
class DuplicateWindows:
    """How close two candidates must be before their packings are compared.

    Attributes:
        energy_kJ_mol: difference of the energies per molecule.
        density_fraction: difference of the densities relative to the smaller one.
        amd_A: largest difference of their AMD vectors (element by element) in Å.
    """

    energy_kJ_mol: float = 1.0
    density_fraction: float = 0.03
    amd_A: float = 0.2


@dataclass(frozen=True, eq=False)
class Clusters:
    """Duplicate clusters of n candidates.

    Attributes:
        label: [n] cluster of each candidate, 0 for the one with the lowest energy, and so on.
        size: [n] candidates in that cluster.
        representative: [n] True for the lowest-energy member of each cluster.
        n_confirmations: pairs that were compared.
        n_refused: links that a representative refused: chains that were cut.
    """

    label: IntArray
    size: IntArray
    representative: NDArray[np.bool_]
    n_confirmations: int
    n_refused: int = 0


def relative_lattice_energies(energies_eV: FloatArray, z: IntArray) -> FloatArray:
    """[n] lattice energies in kJ/mol per molecule above the lowest candidate (paper, eq. 32).

    Candidates of one molecule with different numbers of molecules per cell are comparable.

    Args:
        energies_eV: [n] energies of the cells, all by one engine.
        z: [n] molecules per cell.

    Raises:
        ValueError: an energy is not finite, or a z is below 1.
    """
    energies, counts = np.asarray(energies_eV, dtype=np.float64), np.asarray(z)
    if not np.isfinite(energies).all() or (counts < 1).any():
        raise ValueError("energies must be finite and every cell must hold a molecule")
    per_molecule = energies / counts
    lowest = float(per_molecule.min(initial=np.inf))
    return np.asarray(EV_TO_KJ_MOL * (per_molecule - lowest), dtype=np.float64)


def energy_order(relative_kJ_mol: FloatArray, identities: Sequence[str]) -> IntArray:
    """[n] indices by ascending energy; equal energies by identity, so the order is one only.

    Energies are compared to 1e-6 kJ/mol, so that rounding noise decides nothing.
    """
    rounded = np.round(np.asarray(relative_kJ_mol, dtype=np.float64), 6)
    return np.lexsort((np.asarray(identities, dtype=str), rounded)).astype(np.int64)


def cluster_duplicates(
    relative_kJ_mol: FloatArray,
    densities: FloatArray,
    invariants: FloatArray,
    confirm: Callable[[int, int], bool],
    windows: DuplicateWindows | None = None,
    akin: Callable[[int, int], bool] | None = None,
) -> Clusters:
    """Group candidates that are the same crystal.

    A candidate is compared with the clusters that have members inside the windows, the cluster of
    the nearest invariant first; of a cluster with its representative where that is inside, else
    with the nearest members.

    Args:
        relative_kJ_mol: [n] ascending energies per molecule.
        densities: [n] in g/cm3.
        invariants: [n, k] AMD vectors in Å, those of the elements one after the other; a row with
            NaN is a duplicate of nothing.
        confirm: whether candidates i < j are the same packing; called for close pairs only, lower
            energies first.
        windows: limits within which pairs are compared; the defaults where None.
        akin: whether j, whatever its energy, resembles a representative i enough to be in its
            cluster; asked where j was confirmed against another member, and for the representative
            of a cluster that is joined to another. None: always (single linkage).

    Raises:
        ValueError: the energies are not ascending.
    """
    energy = np.asarray(relative_kJ_mol, dtype=np.float64)
    n = len(energy)
    if (np.diff(np.round(energy, 6)) < 0).any():
        raise ValueError("candidates must be sorted by energy")
    close = _CloseOnes(energy, densities, invariants, windows or DuplicateWindows())
    # The representative of a cluster is its lowest member: it was there first.
    head = np.arange(n)
    confirmations = refused = 0
    for j in range(n):
        for cluster, members in _by_cluster(head, close.before(j)):
            own = int(head[j])
            for i in members:
                confirmations += 1
                if confirm(i, j):
                    break
            else:
                continue
            # What was compared with its representative needs no other look at it.
            other = j if own == j else own
            first, second = sorted((cluster, other))
            known = i == cluster and own == j
            if known or akin is None or akin(first, second):
                head[head == second] = first
            else:
                refused += 1
    first_of, label = np.unique(head, return_inverse=True)
    size = np.bincount(label, minlength=len(first_of))[label] if n else head
    return Clusters(
        label=label.astype(np.int64),
        size=size.astype(np.int64),
        representative=head == np.arange(n),
        n_confirmations=confirmations,
        n_refused=refused,
    )


def _by_cluster(head: IntArray, near: IntArray) -> list[tuple[int, list[int]]]:
    """Clusters of the candidates `near`, in their order, with the members to compare with."""
    groups: dict[int, list[int]] = {}
    for i in near.tolist():
        groups.setdefault(int(head[i]), []).append(i)
    chosen = []
    for cluster, members in groups.items():
        if cluster in members:
            members.remove(cluster)
            members.insert(0, cluster)
        chosen.append((cluster, members[:_TRIES_PER_CLUSTER]))
    return chosen


class _CloseOnes:
    """Finds the candidates inside all windows of another one."""

    def __init__(
        self,
        energy: FloatArray,
        density: FloatArray,
        invariants: FloatArray,
        limits: DuplicateWindows,
    ) -> None:
        self._limits = limits
        self._density = np.asarray(density, dtype=np.float64)
        self._fine = np.asarray(invariants, dtype=np.float64)
        self._coarse = np.ascontiguousarray(self._fine[:, ::_COARSE])
        self._begin = np.searchsorted(energy, energy - limits.energy_kJ_mol - 1e-9, side="left")

    def before(self, j: int) -> IntArray:
        """Those before j, nearest invariant first."""
        begin, density = int(self._begin[j]), self._density
        smaller = np.minimum(density[begin:j], density[j])
        apart = np.abs(density[begin:j] - density[j])
        i = begin + np.flatnonzero(apart <= self._limits.density_fraction * smaller)
        for invariant in (self._coarse, self._fine):
            # The largest difference of some entries is at most that of all; False for NaN.
            distance = np.abs(invariant[i] - invariant[j]).max(axis=1, initial=0.0)
            near = distance <= self._limits.amd_A
            i, distance = i[near], distance[near]
        # Rounded, so that the order does not hang on the last bit of the invariant.
        return i[np.lexsort((i, np.round(distance, 6)))]
