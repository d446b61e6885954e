"""The molecule as Genarris sees it: its bonds by distance, and whose atom is whose.

Genarris takes a molecule as a list of atoms in space. What we write has the order of `Molecule`;
a file of the user, or a folder that somebody ran by hand, may have any.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
from ase.data import covalent_radii
from numpy.typing import NDArray
from rdkit import Chem

from packflow_core.chem.conformers import hydrogen_parents
from packflow_core.chem.elements import COVALENT_RADII
from packflow_core.chem.molecule import Molecule
from packflow_core.chem.stereo import stereo_of
from packflow_core.crystal.unwrap import BOND_SLACK
from packflow_core.errors import UserInputError

logger = logging.getLogger(__name__)

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

#: Multipliers of the covalent radii that are tried, the wanted one first.
_MULTIPLIERS = (1.1, 1.15, 1.2, 1.25, 1.3)
_MAX_MATCHES = 1000


def check_conformer(molecule: Molecule, positions: FloatArray) -> FloatArray:
    """The conformer [n_atoms, 3] Å itself, where it can be one of the molecule.

    Raises:
        UserInputError: it has another number of atoms, NaN, or other bonds than the molecule.
    """
    if positions.shape != (molecule.n_atoms, 3) or not np.isfinite(positions).all():
        raise UserInputError(
            f"The conformer must give three finite coordinates for each of the {molecule.n_atoms} "
            f"atoms of '{molecule.smiles}', hydrogens included; its array has the shape "
            f"{positions.shape}."
        )
    if not np.array_equal(_bonds(molecule.numbers_h, positions), _sorted(molecule.bonds_h)):
        raise UserInputError(
            f"The conformer has other bonds than '{molecule.smiles}'; give the geometry of this "
            "molecule, its atoms in the order of the canonical SMILES, hydrogens last."
        )
    return positions


def read_conformer(path: str | Path, molecule: Molecule) -> FloatArray:
    """A conformer [n_atoms, 3] Å in the order of `molecule` from any file that ASE reads.

    Args:
        path: for example .xyz, .mol or .sdf; its atoms may come in any order.
        molecule: the molecule; all its hydrogens must be in the file.

    Raises:
        UserInputError: the file is missing or unreadable, or holds another molecule.
    """
    from ase.io import read

    name = f"The conformer file '{path}'"
    if not Path(path).is_file():
        raise UserInputError(f"{name} does not exist; check the path.")
    try:
        atoms = read(str(path), index=0)
    except Exception as error:  # every reader of ASE has errors of its own
        raise UserInputError(
            f"{name} cannot be read ({type(error).__name__}: {error}); give an .xyz or .sdf file."
        ) from error
    numbers = np.asarray(atoms.numbers, dtype=np.int64)
    positions = np.asarray(atoms.positions, dtype=np.float64)
    if not np.isfinite(positions).all():
        raise UserInputError(f"{name} has coordinates that are not finite.")
    order = match_atoms(molecule, numbers, positions)
    if order is None:
        raise UserInputError(
            f"{name} does not hold the molecule '{molecule.smiles}' with all its hydrogens; "
            "check the file."
        )
    if stereo_of(molecule).count_flipped(positions[order]):
        raise UserInputError(
            f"{name} has another stereochemistry than '{molecule.smiles}'; mend one of the two."
        )
    return positions[order]


def match_atoms(molecule: Molecule, numbers: IntArray, positions: FloatArray) -> IntArray | None:
    """Whose atom is whose: where each atom of the molecule is found in a list of atoms.

    Args:
        molecule: the molecule.
        numbers: [n_atoms] atomic numbers, in any order.
        positions: [n_atoms, 3] Å.

    Returns:
        [n_atoms] indices that put the list into the order of `molecule`, or None where the
        list is another molecule. Where several orders fit, one whose stereochemistry is that of
        the SMILES is preferred, and of those the first.
    """
    if len(numbers) != molecule.n_atoms or positions.shape != (len(numbers), 3):
        return None
    bonds = _bonds(numbers, positions)
    if np.array_equal(numbers, molecule.numbers_h) and np.array_equal(
        bonds, _sorted(molecule.bonds_h)
    ):
        return np.arange(len(numbers))
    heavy = np.flatnonzero(numbers > 1)
    on_heavy: dict[int, list[int]] = {int(a): [] for a in heavy}
    for a, b in bonds.tolist():
        for atom, other in ((a, b), (b, a)):
            if numbers[atom] > 1 and numbers[other] == 1:
                on_heavy[atom].append(other)
    place = {int(a): k for k, a in enumerate(heavy)}
    inside = [(place[a], place[b]) for a, b in bonds.tolist() if a in place and b in place]
    counts = [len(on_heavy[int(a)]) for a in heavy]
    if sum(counts) != int((numbers == 1).sum()):
        return None
    found = _graph(numbers[heavy].tolist(), counts, inside)
    wanted = _graph(
        molecule.numbers.tolist(),
        molecule.hydrogen_counts.tolist(),
        [(int(a), int(b)) for a, b in molecule.bonds],
    )
    if found.GetNumBonds() != wanted.GetNumBonds():
        return None
    matches = found.GetSubstructMatches(wanted, uniquify=False, maxMatches=_MAX_MATCHES)
    orders = [_with_hydrogens(molecule, heavy[list(m)], on_heavy) for m in matches]
    if not orders:
        return None
    stereo = stereo_of(molecule)
    if not len(stereo):
        return orders[0]
    return min(orders, key=lambda order: stereo.count_flipped(positions[order]))


def bond_cutoff(molecule: Molecule, positions: FloatArray, wanted: float) -> float:
    """Multiplier of ASE's covalent radii, nearest to `wanted`, that finds the molecule's bonds.

    Genarris tells donors and acceptors of hydrogen bonds from the bonds that it finds so, and
    crashes on an atom that has none.

    Args:
        molecule: the molecule.
        positions: [n_atoms, 3] Å.
        wanted: first choice; returned, with a warning, where no multiplier does.
    """
    radii = covalent_radii[molecule.numbers_h]
    distance = np.linalg.norm(positions[:, None] - positions, axis=-1)
    expected = _sorted(molecule.bonds_h)
    for multiplier in sorted({wanted, *_MULTIPLIERS}, key=lambda m: (abs(m - wanted), m)):
        close = np.triu(distance < multiplier * (radii[:, None] + radii), 1)
        if np.array_equal(np.argwhere(close), expected):
            return multiplier
    logger.warning(
        "%s: no cutoff by which Genarris would find its bonds exactly; %g is used",
        molecule.smiles,
        wanted,
    )
    return wanted


def _bonds(numbers: IntArray, positions: FloatArray) -> IntArray:
    """[nb, 2] bonds by distance, sorted; a hydrogen keeps its best one."""
    radii = COVALENT_RADII[numbers]
    excess = np.linalg.norm(positions[:, None] - positions, axis=-1)
    excess -= radii[:, None] + radii
    hydrogen = numbers == 1
    excess[np.ix_(hydrogen, hydrogen)] = np.inf
    np.fill_diagonal(excess, np.inf)
    bonded = excess <= BOND_SLACK
    for h in np.flatnonzero(hydrogen):
        best = int(np.argmin(excess[h]))
        keep = bonded[h, best]
        bonded[h] = bonded[:, h] = False
        bonded[h, best] = bonded[best, h] = keep
    return np.asarray(np.argwhere(np.triu(bonded, 1)), dtype=np.int64)


def _sorted(bonds: IntArray) -> IntArray:
    """Bonds [nb, 2] with the smaller index first, in lexical order."""
    pairs = np.sort(bonds, axis=1)
    return pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]


def _graph(numbers: list[int], hydrogens: list[int], bonds: list[tuple[int, int]]) -> Chem.Mol:
    """Heavy atoms and which are bonded; hydrogen counts as isotopes, which RDKit compares."""
    mol = Chem.RWMol()
    for number, count in zip(numbers, hydrogens, strict=True):
        atom = Chem.Atom(number)
        atom.SetIsotope(count + 1)
        atom.SetNoImplicit(True)
        mol.AddAtom(atom)
    for a, b in bonds:
        mol.AddBond(a, b, Chem.BondType.SINGLE)
    mol.UpdatePropertyCache(strict=False)
    return mol.GetMol()


def _with_hydrogens(
    molecule: Molecule, heavy: IntArray, on_heavy: dict[int, list[int]]
) -> IntArray:
    """Order [n_atoms] from that of the heavy atoms [n]: hydrogens follow their parents."""
    left = {atom: list(hydrogens) for atom, hydrogens in on_heavy.items()}
    parents = hydrogen_parents(molecule)
    hydrogens = [left[int(heavy[parent])].pop(0) for parent in parents]
    return np.array([*heavy.tolist(), *hydrogens], dtype=np.int64)
