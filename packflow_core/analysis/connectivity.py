"""Does a crystal still hold the molecule that was asked for: bonds against the input graph.

Atoms are named by element and position in the molecule, counted from 1 in the order of
`Molecule` (heavy atoms first, then hydrogens), molecules from 1 in the order of the crystal:
``O5-H9 of molecule 2``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from packflow_core.chem.elements import COVALENT_RADII, symbol
from packflow_core.chem.molecule import Molecule
from packflow_core.crystal.contacts import (
    BOND_TOLERANCE,
    bond_errors,
    bond_statistics,
    neighbour_pairs,
)
from packflow_core.crystal.crystal import Crystal

IntArray = NDArray[np.int64]

#: A pair is bonded up to this much beyond the sum of its covalent radii, in Å.
BOND_TOLERANCE_A = 0.4
#: The same for two neighbours of one atom, which strained rings bring close without a bond
#: (1.85 Å between the bridgeheads of bicyclo[1.1.1]pentane, 2.4 Å between Si of cyclodisiloxane).
GEMINAL_TOLERANCE_A = 0.1
_NAMED_CHANGES = 6


@dataclass(frozen=True)
class Connectivity:
    """Bonds of a crystal that differ from the molecule's graph.

    Attributes:
        broken: names of the bonds of the graph that are too long.
        formed: names of the contacts that are as short as a bond but are not in the graph.
        transfers: hydrogens that left their heavy atom for another one, each as
            ``H6 from O2 of molecule 1 to O2 of molecule 2``; their old bonds are among `broken`,
            the new ones among `formed`.
        only_transfers: nothing else changed than that hydrogens changed hands.
        pieces: separate molecules that the bonds of the crystal hold together.
    """

    broken: tuple[str, ...] = ()
    formed: tuple[str, ...] = ()
    transfers: tuple[str, ...] = ()
    only_transfers: bool = False
    pieces: int = 0

    @property
    def unchanged(self) -> bool:
        """Whether every bond is there and no other."""
        return not self.broken and not self.formed

    def describe(self) -> str:
        """One line naming the first changes, empty when nothing changed."""
        named = [f"{name} broken" for name in self.broken]
        named += [f"{name} formed" for name in self.formed]
        if self.only_transfers:
            named = list(self.transfers)
        more = len(named) - _NAMED_CHANGES
        return ", ".join(named[:_NAMED_CHANGES]) + (f" and {more} more" if more > 0 else "")


def check_connectivity(
    crystal: Crystal, molecule: Molecule, tolerance: float = BOND_TOLERANCE_A
) -> Connectivity:
    """Compare the bonds of a crystal with the graph of its molecule.

    A bond of the graph is broken when it is longer than r_i + r_j + tolerance. Any other pair
    closer than that counts as formed, between molecules too, with two exceptions: neighbours of
    one atom must come within `GEMINAL_TOLERANCE_A`, and a hydrogen only changes hands when it is
    nearer (relative to the covalent radii) to its new partner than to its own, so that a short
    hydrogen bond is no proton transfer. Where it has changed hands, its own bond counts as broken.

    Args:
        crystal: molecules whole; with all hydrogens of the molecule, or with none.
        molecule: the input graph.
        tolerance: in Å.

    Raises:
        ValueError: the crystal's atoms are not z times those of the molecule, or its cell is
            too flat for a neighbour search.
    """
    bonds = _tiled_bonds(crystal, molecule)
    radii = COVALENT_RADII[crystal.numbers]
    length = np.linalg.norm(crystal.positions[bonds[:, 1]] - crystal.positions[bonds[:, 0]], axis=1)
    expected = radii[bonds[:, 0]] + radii[bonds[:, 1]]
    is_broken = np.asarray(length > expected + tolerance)

    cutoff = 2.0 * float(radii.max()) + tolerance
    pairs = neighbour_pairs(crystal.positions, crystal.cell, cutoff)
    i, j, d = pairs.i, pairs.j, pairs.distance
    inside: NDArray[np.bool_] = np.asarray(~pairs.shift.any(axis=1), dtype=np.bool_)
    separation = _separation(crystal, bonds)[i, j]
    bonded = inside & (separation == 1)
    geminal = inside & (separation == 2)
    limit = radii[i] + radii[j] + np.where(geminal, min(GEMINAL_TOLERANCE_A, tolerance), tolerance)
    # Each unordered pair once; an atom and its own image appear as two opposite translations.
    forward = (i < j) | ((i == j) & _first_of_opposite(pairs.shift))
    candidates = np.flatnonzero(forward & ~bonded & (d < limit))

    parent_bond = _parent_bond(crystal, bonds)
    formed: list[int] = []
    moved: dict[int, int] = {}  # from the pair that a hydrogen formed to the bond that it left
    for p in candidates:
        if (hydrogen := _lone_hydrogen(crystal, int(i[p]), int(j[p]))) is not None:
            own = int(parent_bond[hydrogen])
            strain = d[p] / (radii[i[p]] + radii[j[p]])
            if own >= 0 and strain >= length[own] / expected[own]:
                continue
            if own >= 0:
                is_broken[own] = True
                moved[int(p)] = own
        formed.append(int(p))
    broken = np.flatnonzero(is_broken)
    both = (set(formed), set(broken.tolist()))
    return Connectivity(
        broken=tuple(_pair_name(crystal, int(a), int(b), True) for a, b in bonds[broken]),
        formed=tuple(_pair_name(crystal, int(i[p]), int(j[p]), bool(inside[p])) for p in formed),
        transfers=tuple(
            _transfer_name(crystal, (int(i[p]), int(j[p])), (int(bonds[b, 0]), int(bonds[b, 1])))
            for p, b in moved.items()
        ),
        only_transfers=bool(moved) and both == (set(moved), set(moved.values())),
        pieces=_pieces(len(crystal), bonds[~is_broken], np.stack([i[formed], j[formed]], axis=1)),
    )


def bond_validity(
    crystal: Crystal, molecule: Molecule, delta: float = BOND_TOLERANCE
) -> tuple[float, float]:
    """Bond lengths of the heavy atoms against the sum of covalent radii (appendix G, eq. G8).

    Args:
        crystal: molecules whole; with all hydrogens of the molecule, or with none.
        molecule: the input graph.
        delta: a bond is valid when |d - (r_i + r_j)| is at most this, Å.

    Returns:
        The fraction of valid bonds and the largest deviation in Å; (1, 0) without any bond.

    Raises:
        ValueError: the crystal's atoms are not z times those of the molecule.
    """
    heavy = crystal.heavy_only()
    _tiled_bonds(heavy, molecule)
    return bond_statistics(bond_errors(heavy, molecule.bonds), delta)


def _tiled_bonds(crystal: Crystal, molecule: Molecule) -> IntArray:
    """[nb z, 2] bonds of all molecules of the crystal, with hydrogens if the crystal has them."""
    for numbers, bonds in (
        (molecule.numbers_h, molecule.bonds_h),
        (molecule.numbers, molecule.bonds),
    ):
        if np.array_equal(np.tile(numbers, crystal.z), crystal.numbers):
            offsets = np.repeat(np.arange(crystal.z) * len(numbers), len(bonds))
            return np.tile(bonds, (crystal.z, 1)) + offsets[:, None]
    raise ValueError(
        f"the crystal's {len(crystal)} atoms are not {crystal.z} times those of {molecule.smiles}"
    )


def _separation(crystal: Crystal, bonds: IntArray) -> NDArray[np.int8]:
    """[N, N] 1 for bonded atoms, 2 for neighbours of one atom, 0 for all others."""
    n = len(crystal)
    adjacent = np.zeros((n, n), dtype=np.float32)
    adjacent[bonds[:, 0], bonds[:, 1]] = adjacent[bonds[:, 1], bonds[:, 0]] = 1.0
    out = np.where(adjacent @ adjacent > 0, 2, 0).astype(np.int8)
    out[adjacent > 0] = 1
    np.fill_diagonal(out, 0)
    return out


def _first_of_opposite(shift: IntArray) -> NDArray[np.bool_]:
    """[P] True for one of each pair of opposite translations: first nonzero component positive."""
    sign = np.sign(shift)
    first = np.where(sign[:, 0] != 0, sign[:, 0], np.where(sign[:, 1] != 0, sign[:, 1], sign[:, 2]))
    return np.asarray(first > 0)


def _parent_bond(crystal: Crystal, bonds: IntArray) -> IntArray:
    """[N] index of the bond that holds each hydrogen, -1 for other atoms."""
    parent = np.full(len(crystal), -1, dtype=np.int64)
    for column in (0, 1):
        atoms = bonds[:, column]
        is_h = crystal.numbers[atoms] == 1
        parent[atoms[is_h]] = np.flatnonzero(is_h)
    return parent


def _lone_hydrogen(crystal: Crystal, i: int, j: int) -> int | None:
    """The hydrogen of a pair of a hydrogen and a heavy atom, otherwise None."""
    hydrogens = [a for a in (i, j) if crystal.numbers[a] == 1]
    return hydrogens[0] if len(hydrogens) == 1 else None


def _pieces(n: int, kept: IntArray, formed: IntArray) -> int:
    """Connected components of n atoms under the bonds kept [nk, 2] and formed [nf, 2]."""
    pairs = np.concatenate([kept, formed])
    graph = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(n, n))
    return int(connected_components(graph, directed=False, return_labels=False))


def _transfer_name(crystal: Crystal, new: tuple[int, int], old: tuple[int, int]) -> str:
    """``H6 from O2 of molecule 1 to N4 of molecule 2``, by the pairs of atoms [2] of both bonds."""
    hydrogen = next(a for a in new if crystal.numbers[a] == 1)
    donor, acceptor = (next(a for a in pair if a != hydrogen) for pair in (old, new))
    names = [_atom_name(crystal, a) for a in (hydrogen, donor, acceptor)]
    molecules = [a // (len(crystal) // crystal.z) + 1 for a in (donor, acceptor)]
    return (
        f"{names[0]} from {names[1]} of molecule {molecules[0]} to {names[2]} of molecule "
        f"{molecules[1]}"
    )


def _atom_name(crystal: Crystal, atom: int) -> str:
    per_molecule = len(crystal) // crystal.z
    return f"{symbol(int(crystal.numbers[atom]))}{atom % per_molecule + 1}"


def _pair_name(crystal: Crystal, i: int, j: int, inside: bool) -> str:
    per_molecule = len(crystal) // crystal.z
    first, second = _atom_name(crystal, i), _atom_name(crystal, j)
    a, b = i // per_molecule + 1, j // per_molecule + 1
    if inside and a == b:
        return f"{first}-{second} of molecule {a}"
    if a == b:
        return f"{first}-{second} between molecule {a} and its image"
    return f"{first}-{second} between molecules {a} and {b}"
