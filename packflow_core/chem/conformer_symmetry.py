"""Which atoms of a molecule may change names: symmetries of its graph, however many."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import permutations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components

from packflow_core.chem.conformers import heavy_automorphisms, labelled_graph
from packflow_core.chem.molecule import Molecule

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

#: Symmetries that are listed one by one. Three tert-butyl groups on a ring have 1296, four CF3
#: groups more; for these, ends of the same group are exchanged as geometry wants it.
MAX_LISTED = 192
#: Ends of one group at most that are exchanged freely.
_MAX_ENDS = 5

#: Hydrogens on these make hydrogen bonds.
POLAR = (7, 8, 16)


@dataclass(frozen=True, eq=False)
class GraphSymmetry:
    """Symmetries of a molecular graph.

    Attributes:
        permutations: [A, n] permutations of the heavy atoms, the identity first.
        ends: groups of places, such as the three F of a CF3 group, whose atoms may be exchanged
            at will on top of any of the permutations; none where `permutations` has it all.
    """

    permutations: IntArray
    ends: tuple[IntArray, ...] = ()

    @classmethod
    def of(cls, molecule: Molecule) -> GraphSymmetry:
        """The symmetries of a molecule; of those beyond the ends' the first 192."""
        listed = heavy_automorphisms(molecule, MAX_LISTED + 1)
        return cls(listed) if len(listed) <= MAX_LISTED else _with_free_ends(molecule)

    @cached_property
    def classes(self) -> list[IntArray]:
        """Atoms that some symmetry brings to each other's places."""
        n = self.permutations.shape[1]
        linked = np.zeros((n, n), dtype=np.bool_)
        linked[np.arange(n), self.permutations] = True
        for group in self.ends:
            linked[np.ix_(group, group)] = True
        count, label = connected_components(linked, directed=False)
        return [np.flatnonzero(label == k) for k in range(count)]

    @cached_property
    def exchanges(self) -> list[IntArray]:
        """[q, k] orders of the k atoms of each group of ends."""
        return [np.array(list(permutations(range(len(group))))) for group in self.ends]

    def settled(self, x: FloatArray, y: FloatArray) -> FloatArray:
        """Geometries with the atoms of each group of ends in the order that suits another one.

        The superposition is found first with the ends of a group in their common middle, then once
        more with what that gave.

        Args:
            x: [..., n, 3] Å, centred.
            y: [..., n, 3] Å, centred; broadcasts with x.
        """
        if not self.ends:
            return x
        a, b = np.broadcast_arrays(x, y)
        a, b = a.copy(), b.copy()
        for group in self.ends:
            a[..., group, :] = a[..., group, :].mean(axis=-2, keepdims=True)
            b[..., group, :] = b[..., group, :].mean(axis=-2, keepdims=True)
        best = np.broadcast_to(x, a.shape)
        for _ in range(2):
            turned = best @ best_rotation(np.swapaxes(a, -1, -2) @ b)
            order = np.broadcast_to(np.arange(x.shape[-2]), a.shape[:-1]).copy()
            for group, exchanges in zip(self.ends, self.exchanges, strict=True):
                overlap = turned[..., group, :] @ np.swapaxes(
                    np.broadcast_to(y, a.shape)[..., group, :], -1, -2
                )
                sums = overlap[..., exchanges, np.arange(len(group))].sum(axis=-1)
                order[..., group] = group[exchanges[np.argmax(sums, axis=-1)]]
            best = np.take_along_axis(best, order[..., None], axis=-2)
            a, b = best, np.broadcast_to(y, a.shape)
        return best


def best_rotation(covariance: FloatArray) -> FloatArray:
    """[..., 3, 3] proper rotations R so that x @ R is closest to y, from x^T y [..., 3, 3].

    Source: Kabsch, Acta Cryst. A32, 922 (1976).
    """
    u, _, vt = np.linalg.svd(covariance)
    u[..., :, 2] *= np.where(np.linalg.det(u @ vt) > 0, 1.0, -1.0)[..., None]
    return np.asarray(u @ vt)


def _with_free_ends(molecule: Molecule) -> GraphSymmetry:
    """Symmetries of the graph without ends that are alike, and these ends apart."""
    mol = labelled_graph(molecule)
    ends: dict[int, list[IntArray]] = {}
    labels: dict[tuple[object, ...], int] = {}
    for atom in list(mol.GetAtoms()):
        alike: dict[tuple[int, ...], list[int]] = {}
        for near in atom.GetNeighbors():
            number, isotope = near.GetAtomicNum(), near.GetIsotope()
            # The hydrogens of an exchanged OH would have to follow.
            if near.GetDegree() == 1 and not (number in POLAR and isotope > 1):
                bond = mol.GetBondBetweenAtoms(atom.GetIdx(), near.GetIdx()).GetBondType()
                facts = (number, isotope, near.GetFormalCharge(), int(bond))
                alike.setdefault(facts, []).append(near.GetIdx())
        groups = {f: g for f, g in sorted(alike.items()) if 1 < len(g) <= _MAX_ENDS}
        if groups:
            ends[atom.GetIdx()] = [np.array(group) for group in groups.values()]
            kinds = tuple((*facts, len(group)) for facts, group in groups.items())
            label = 1 + labels.setdefault(kinds, len(labels))
            atom.SetIsotope(atom.GetIsotope() + 100 * label)
    gone = {int(k) for groups in ends.values() for group in groups for k in group}
    rest = [k for k in range(molecule.n_heavy) if k not in gone]
    for k in sorted(gone, reverse=True):
        mol.RemoveAtom(k)
    matches = mol.GetSubstructMatches(mol, uniquify=False, maxMatches=MAX_LISTED)
    identity = tuple(range(len(rest)))
    others = sorted({tuple(m) for m in matches} - {identity})[: MAX_LISTED - 1]
    full = np.tile(np.arange(molecule.n_heavy), (1 + len(others), 1))
    for row, match in zip(full, [identity, *others], strict=True):
        for place, source in zip(rest, match, strict=True):
            row[place] = rest[source]
            for group, from_group in zip(
                ends.get(place, []), ends.get(rest[source], []), strict=True
            ):
                row[group] = from_group
    return GraphSymmetry(full, tuple(group for groups in ends.values() for group in groups))
