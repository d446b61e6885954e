"""Bond lengths, bond angles and lattices, as the figures compare them (PackFlow, fig. 3)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from packflow_core.analysis.neighbors import reduced_cell
from packflow_core.chem.elements import COVALENT_RADII
from packflow_core.crystal.contacts import BOND_TOLERANCE, neighbour_pairs
from packflow_core.crystal.crystal import Crystal
from packflow_core.crystal.lattice import cell_to_parameters

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


def angle_triples(bonds: IntArray) -> IntArray:
    """[na, 3] atoms (end, middle, end) of every bond angle of a graph with bonds [nb, 2]."""
    neighbours: dict[int, list[int]] = {}
    for i, j in bonds.tolist():
        neighbours.setdefault(i, []).append(j)
        neighbours.setdefault(j, []).append(i)
    triples = [
        (first, middle, second)
        for middle, around in sorted(neighbours.items())
        for place, first in enumerate(around)
        for second in around[place + 1 :]
    ]
    return np.array(triples, dtype=np.int64).reshape(-1, 3)


def bond_angles(molecules: FloatArray, triples: IntArray) -> FloatArray:
    """Angles [..., na] in degrees at the middle atoms of triples [na, 3].

    Args:
        molecules: [..., n, 3] Å, whole.
        triples: see `angle_triples`.
    """
    middle = molecules[..., triples[:, 1], :]
    return _angles(
        molecules[..., triples[:, 0], :] - middle, molecules[..., triples[:, 2], :] - middle
    )


def bonds_of_known_form(crystal: Crystal, n_bonds: int) -> tuple[FloatArray, FloatArray] | None:
    """Bond lengths in Å and angles in degrees of a crystal, whatever the order of its atoms.

    Args:
        crystal: heavy atoms; molecules need not be whole.
        n_bonds: bonds of one molecule.

    Returns:
        [z n_bonds] lengths and [any] angles; None where the distances up to 0.4 Å above the
        covalent sum are not the bonds of the molecule.

    Raises:
        ValueError: the cell is too flat for a neighbour search.
    """
    radii = COVALENT_RADII[crystal.numbers]
    pairs = neighbour_pairs(
        crystal.positions, crystal.cell, 2.0 * float(radii.max()) + BOND_TOLERANCE
    )
    pairs = pairs.take(pairs.distance <= radii[pairs.i] + radii[pairs.j] + BOND_TOLERANCE)
    if len(pairs.i) != 2 * crystal.z * n_bonds:
        return None
    vectors = crystal.positions[pairs.j] + pairs.shift @ crystal.cell - crystal.positions[pairs.i]
    angles = []
    for atom in range(len(crystal)):
        own = vectors[pairs.i == atom]
        first, second = np.triu_indices(len(own), 1)
        angles.append(_angles(own[first], own[second]))
    # Every bond is listed from both of its ends.
    return np.sort(pairs.distance)[::2], np.concatenate(angles)


def lattice_of(cell: FloatArray) -> FloatArray:
    """[6] lengths in Å and angles in degrees of the Niggli cell, so that lattices compare."""
    return cell_to_parameters(reduced_cell(cell))


def _angles(u: FloatArray, v: FloatArray) -> FloatArray:
    with np.errstate(invalid="ignore", divide="ignore"):
        cosine = (u * v).sum(axis=-1) / (np.linalg.norm(u, axis=-1) * np.linalg.norm(v, axis=-1))
    return np.asarray(np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0))), dtype=np.float64)
