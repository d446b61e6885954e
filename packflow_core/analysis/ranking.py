"""Order relaxed crystals by energy and find the duplicates among them.

Duplicates are found without bins: candidates sorted by energy meet their neighbours inside an
energy window, then inside a density window, then by a cheap invariant (AMD by element), and only
what is still close is confirmed by a packing comparison. Clusters are the connected components of
the confirmed pairs, so twins are never split by where a bin edge happens to fall.
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
_PAIRS_PER_CHUNK = 20_000


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
        n_confirmations: packing comparisons that were made.
    """

    label: IntArray
    size: IntArray
    representative: NDArray[np.bool_]
    n_confirmations: int


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
) -> Clusters:
    """Group candidates that are the same crystal.

    Args:
        relative_kJ_mol: [n] ascending energies per molecule.
        densities: [n] in g/cm3.
        invariants: [n, k] AMD vectors in Å, those of the elements one after the other; a row with
            NaN is a duplicate of nothing.
        confirm: whether candidates i < j are the same packing; called for close pairs only,
            lower energies first and, for one candidate, nearest invariants first.
        windows: limits within which pairs are compared; the defaults where None.

    Raises:
        ValueError: the energies are not ascending.
    """
    energy = np.asarray(relative_kJ_mol, dtype=np.float64)
    n = len(energy)
    if (np.diff(np.round(energy, 6)) < 0).any():
        raise ValueError("candidates must be sorted by energy")
    limits = windows or DuplicateWindows()
    parent = np.arange(n)

    def root(a: int) -> int:
        while parent[a] != a:
            parent[a] = parent[parent[a]]
            a = int(parent[a])
        return a

    n_confirmations = 0
    for j, earlier in _close_pairs(energy, np.asarray(densities), np.asarray(invariants), limits):
        failures: dict[int, int] = {}
        for i in earlier:
            cluster = root(i)
            if cluster == root(j) or failures.get(cluster, 0) >= _TRIES_PER_CLUSTER:
                continue
            n_confirmations += 1
            if confirm(i, j):
                low, high = sorted((cluster, root(j)))
                parent[high] = low  # the root of a cluster is its lowest-energy member
            else:
                failures[cluster] = failures.get(cluster, 0) + 1
    roots = np.array([root(a) for a in range(n)], dtype=np.int64)
    first, label = np.unique(roots, return_inverse=True)
    size = np.bincount(label, minlength=len(first))[label] if n else roots
    return Clusters(
        label=label.astype(np.int64),
        size=size.astype(np.int64),
        representative=roots == np.arange(n),
        n_confirmations=n_confirmations,
    )


def _close_pairs(
    energy: FloatArray, density: FloatArray, invariants: FloatArray, limits: DuplicateWindows
) -> list[tuple[int, list[int]]]:
    """For each candidate j the earlier ones inside all windows, nearest invariant first."""
    begin = np.searchsorted(energy, energy - limits.energy_kJ_mol - 1e-9, side="left")
    close = []
    for j in range(len(energy)):
        i = np.arange(begin[j], j)
        smaller = np.minimum(density[i], density[j])
        i = i[np.abs(density[i] - density[j]) <= limits.density_fraction * smaller]
        if not len(i):
            continue
        distance = np.concatenate(
            [
                np.abs(invariants[part] - invariants[j]).max(axis=1)
                for part in np.array_split(i, len(i) // _PAIRS_PER_CHUNK + 1)
            ]
        )
        near = distance <= limits.amd_A  # False for NaN
        i, distance = i[near], distance[near]
        if len(i):
            # Rounded, so that the order does not hang on the last bit of the invariant.
            close.append((j, i[np.lexsort((i, np.round(distance, 6)))].tolist()))
    return close
