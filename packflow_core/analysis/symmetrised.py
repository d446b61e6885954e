"""A relaxed P1 crystal with its symmetry made exact: asymmetric unit and operations.

The relaxation keeps symmetry only to its tolerances. Here every atom moves to the mean of what the
operations make of its mates, which is the nearest crystal that has the symmetry exactly.
"""

from __future__ import annotations

import logging

import numpy as np
from numpy.typing import NDArray

from packflow_core.analysis.symmetry import SYMPREC_LADDER
from packflow_core.chem.elements import COVALENT_RADII
from packflow_core.crystal.crystal import Crystal
from packflow_core.crystal.monoclinic import upright_setting
from packflow_core.crystal.symmetric_cif import SymmetricCrystal
from packflow_core.crystal.unwrap import BOND_SLACK

logger = logging.getLogger(__name__)

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

#: Numbers of the monoclinic space groups.
_MONOCLINIC = range(3, 16)
#: An atom and the mate that an operation gives it are at most so many tolerances apart.
_FAR = 3.0
#: Images of one atom closer than this, in Å, after the symmetry was made exact, are one atom.
_SAME_ATOM_A = 0.05


def symmetrise(crystal: Crystal, symprec: float = SYMPREC_LADDER[0]) -> SymmetricCrystal | None:
    """The asymmetric unit of a crystal in the conventional cell of its space group.

    The setting is that of spglib, but for monoclinic crystals, whose angle beta shall be near 90
    degrees: P2_1/n, I2/a and their like are written where they are more upright.

    Args:
        crystal: molecules whole; any cell of the crystal (primitive, centred, a supercell).
        symprec: tolerance of the space group, Å. Finer ones follow where spglib fails at this
            one or where the operations do not give the crystal back.

    Returns:
        A crystal whose operations give back every atom of `crystal`, once and within a few
        tolerances; in P1 where no symmetry does. None where spglib does not take the crystal.
    """
    for tolerance in (symprec, *(s for s in SYMPREC_LADDER if s < symprec)):
        found = _symmetrise_at(crystal, tolerance)
        if found is not None:
            return found
    return None


def expand(crystal: SymmetricCrystal) -> tuple[IntArray, FloatArray]:
    """All atoms of the conventional cell: numbers [N] and fractional coordinates [N, 3].

    Images of an atom on a special position count once; nothing is wrapped into the cell.
    """
    images = (
        np.einsum("gij,aj->gai", crystal.rotations, crystal.frac) + crystal.translations[:, None]
    )
    keep = np.ones(images.shape[:2], dtype=np.bool_)
    for a in range(len(crystal.numbers)):
        difference = images[None, :, a] - images[:, None, a]
        difference -= np.rint(difference)
        same = np.linalg.norm(difference @ crystal.cell, axis=-1) < _SAME_ATOM_A
        keep[:, a] = ~np.tril(same, -1).any(axis=1)
    return np.broadcast_to(crystal.numbers, keep.shape)[keep], images[keep]


def _symmetrise_at(crystal: Crystal, symprec: float) -> SymmetricCrystal | None:
    import spglib

    cell = (crystal.cell, crystal.fractional, crystal.numbers)
    try:
        data = spglib.get_symmetry_dataset(cell, symprec=symprec)
        operations = spglib.get_symmetry_from_database(data.hall_number) if data else None
    # spglib has its own exceptions or None for a failure, depending on its version.
    except Exception as error:
        logger.debug("spglib failed at symprec %g: %s", symprec, error)
        return None
    if data is None or operations is None:
        return None
    lattice = np.asarray(data.std_lattice, dtype=np.float64)
    place = np.asarray(data.transformation_matrix)
    frac = crystal.fractional @ place.T + np.asarray(data.origin_shift)
    rotations = np.asarray(operations["rotations"], dtype=np.int64)
    translations = np.asarray(operations["translations"], dtype=np.float64)
    if int(data.number) in _MONOCLINIC:
        lattice, rotations, translations, change = upright_setting(lattice, rotations, translations)
        frac = frac @ change.T
    chosen = _asymmetric_atoms(crystal, np.asarray(data.crystallographic_orbits))
    moved = _made_exact(
        frac, crystal.numbers, chosen, rotations, translations, lattice, _FAR * symprec
    )
    if moved is None:
        logger.debug("operations at symprec %g do not give the crystal back", symprec)
        return None
    size = len(crystal) // crystal.z
    n_standard = len(data.std_types)
    if n_standard % size:
        return None
    found = SymmetricCrystal(
        numbers=crystal.numbers[chosen],
        frac=_near_the_origin(moved, chosen // size),
        cell=lattice,
        rotations=rotations,
        translations=translations,
        number=int(data.number),
        symbol=str(data.international),
        molecule=crystal.numbers[:size],
        z=n_standard // size,
        rmsd_A=float(np.sqrt(np.mean(np.sum(((moved - frac[chosen]) @ lattice) ** 2, axis=1)))),
        symprec=symprec,
    )
    # What is written must be the crystal: as many atoms, each where one was.
    return found if len(expand(found)[0]) == n_standard else None


def _asymmetric_atoms(crystal: Crystal, orbits: IntArray) -> IntArray:
    """Atoms of the asymmetric unit: one of each orbit, connected, in the order of the crystal.

    Args:
        crystal: molecules whole.
        orbits: [N] label of the orbit of each atom.
    """
    size = len(crystal) // crystal.z
    chosen: list[int] = []
    seen: set[int] = set()
    for m in range(crystal.z):
        atoms = np.arange(m * size, (m + 1) * size)
        if seen.issuperset(orbits[atoms].tolist()):
            continue
        neighbours = _neighbours(crystal.numbers[atoms], crystal.positions[atoms])
        for root in atoms.tolist():
            # Only through chosen atoms, so that half a molecule is one piece.
            queue = [root]
            while queue:
                atom = queue.pop(0)
                if int(orbits[atom]) in seen:
                    continue
                seen.add(int(orbits[atom]))
                chosen.append(atom)
                queue += [m * size + k for k in neighbours[atom - m * size]]
    return np.array(sorted(chosen), dtype=np.int64)


def _neighbours(numbers: IntArray, positions: FloatArray) -> list[list[int]]:
    """Bonded atoms of each atom of one molecule, by distance."""
    radii = COVALENT_RADII[numbers]
    distance = np.linalg.norm(positions[None] - positions[:, None], axis=-1)
    bonded = distance < radii[None] + radii[:, None] + BOND_SLACK
    np.fill_diagonal(bonded, False)
    return [np.flatnonzero(row).tolist() for row in bonded]


def _made_exact(
    frac: FloatArray,
    numbers: IntArray,
    chosen: IntArray,
    rotations: IntArray,
    translations: FloatArray,
    lattice: FloatArray,
    limit: float,
) -> FloatArray | None:
    """Places of the chosen atoms [A, 3] in the nearest crystal that has the symmetry exactly.

    Each operation takes an atom to a mate. What the mate is off, taken back by the operation, is
    how far the operation wants the atom to move; the mean over all operations is the projection
    onto the symmetric crystals.

    Returns:
        None where a mate is further off than `limit`, Å.
    """
    identity = (rotations == np.eye(3, dtype=np.int64)).all(axis=(1, 2))
    # A primitive cell lacks the centring translations of the conventional one.
    targets = (frac[None] + translations[identity][:, None]).reshape(-1, 3)
    species = np.tile(numbers, int(identity.sum()))
    out = frac[chosen].copy()
    inverse = np.linalg.inv(rotations.astype(np.float64))
    for element in np.unique(numbers):
        mine = np.flatnonzero(numbers[chosen] == element)
        goals = targets[species == element]
        for rotation, translation, back in zip(rotations, translations, inverse, strict=True):
            images = frac[chosen[mine]] @ rotation.T + translation
            off = goals[None] - images[:, None]
            off -= np.rint(off)
            length = np.linalg.norm(off @ lattice, axis=-1)
            nearest = length.argmin(axis=1)
            rows = np.arange(len(mine))
            if length[rows, nearest].max() > limit:
                return None
            out[mine] += off[rows, nearest] @ back.T / len(rotations)
    return out


def _near_the_origin(frac: FloatArray, molecule: IntArray) -> FloatArray:
    """Every molecule, or part of one, moved as a whole so that its centroid is in the cell."""
    out = frac.copy()
    for m in np.unique(molecule):
        own = molecule == m
        out[own] -= np.floor(out[own].mean(axis=0) + 1e-9)
    return out
