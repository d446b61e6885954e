"""Phonons of a crystal with phonopy: which atoms to move, and what follows from the forces.

Phonopy: Togo, J. Phys. Soc. Jpn. 2023, 92, 012001. Finite
displacements in a supercell; symmetry tells which of them are needed. Frequencies are taken at
the wave vectors that the supercell holds exactly, so nothing is interpolated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from packflow_core.crystal.crystal import Crystal
from packflow_core.crystal.lattice import heights

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Repeats = tuple[int, int, int]

#: Length of a displacement, Å, phonopy's own default.
DISPLACEMENT_A = 0.01
#: Tolerances of the symmetry of a relaxed crystal, tried in turn, and of the refined one, Å.
_TOLERANCES = (0.05, 0.02, 0.005)
_EXACT = 1e-4


@dataclass(frozen=True, eq=False)
class Displacements:
    """What has to be moved, one atom at a time.

    Attributes:
        atoms: [D] places in `Crystal.repeated` of the supercell.
        vectors: [D, 3] Å.
        space_group: symbol of the symmetry that was used.
    """

    atoms: IntArray
    vectors: FloatArray
    space_group: str

    def __len__(self) -> int:
        return len(self.atoms)


def symmetrised(crystal: Crystal) -> Crystal:
    """The crystal with the symmetry that it nearly has, made exact; as it is where there is none.

    Atoms stay in their order and images. Each moves by the tolerance of its symmetry at most,
    0.05 Å, which is what relaxations leave.
    """
    from ase.spacegroup.symmetrize import refine_symmetry

    for tolerance in _TOLERANCES:
        atoms = crystal.to_ase()
        try:
            refine_symmetry(atoms, symprec=tolerance)
            cell = np.asarray(atoms.cell[:], dtype=np.float64)
            moved = atoms.get_scaled_positions(wrap=False) - crystal.fractional
            moved -= np.round(moved)
            refined = crystal.with_positions((crystal.fractional + moved) @ cell, cell)
        # Every version of spglib and ASE has exceptions of its own for a symmetry that is none.
        except Exception:
            continue
        strained = crystal.fractional @ cell
        if np.linalg.norm(refined.positions - strained, axis=1).max() <= 2 * tolerance:
            return refined
    return crystal


def plan_displacements(crystal: Crystal, repeats: Repeats) -> Displacements:
    """The displacements that give all force constants of a supercell; runs in a worker.

    Args:
        crystal: its symmetry exact where it has one, see `symmetrised`.
        repeats: of the cell, along a, b and c.
    """
    phonon = _displaced(crystal, repeats)
    order = _our_places(phonon, crystal, repeats)
    moved = phonon.dataset["first_atoms"]
    return Displacements(
        np.array([order[int(one["number"])] for one in moved], dtype=np.int64),
        np.array([one["displacement"] for one in moved], dtype=np.float64).reshape(-1, 3),
        str(phonon.symmetry.dataset.international),
    )


def supercell_frequencies(crystal: Crystal, repeats: Repeats, forces: FloatArray) -> FloatArray:
    """All frequencies of a supercell, imaginary ones negative; runs in a worker.

    Args:
        crystal: as for `plan_displacements`.
        repeats: likewise.
        forces: [D, n, 3] eV/Å on the atoms of `Crystal.repeated` in the order of the
            displacements.

    Returns:
        [3 n] THz, with the three translations next to zero.
    """
    from phonopy.harmonic.dynmat_to_fc import get_commensurate_points

    phonon = _displaced(crystal, repeats)
    order = _our_places(phonon, crystal, repeats)
    phonon.forces = np.ascontiguousarray(forces[:, order])
    phonon.produce_force_constants(show_drift=False)
    # Translational invariance, which finite displacements break a little.
    phonon.symmetrize_force_constants(show_drift=False)
    found = phonon.run_qpoints(get_commensurate_points(np.diag(repeats)))
    frequencies = phonon.get_qpoints_dict()["frequencies"] if found is None else found.frequencies
    return np.asarray(frequencies, dtype=np.float64).reshape(-1)


def equal_repeats(crystals: list[Crystal]) -> list[Repeats]:
    """Repeats that give crystals about as many molecules: those of the largest cell.

    A supercell has three translations, whatever its size, so crystals of different sizes would
    miss different shares of their lattice modes.
    """
    most = max(crystal.z for crystal in crystals)
    return [_repeats(crystal, max(1, round(most / crystal.z))) for crystal in crystals]


def _repeats(crystal: Crystal, copies: int) -> Repeats:
    """Repeats with a product of `copies`, the lowest heights first."""
    repeats = np.ones(3, dtype=np.int64)
    height = heights(crystal.cell)
    for prime in _primes(copies):
        repeats[int(np.argmin(height * repeats))] *= prime
    return int(repeats[0]), int(repeats[1]), int(repeats[2])


def _primes(number: int) -> list[int]:
    """Prime factors, largest first."""
    found, divisor = [], 2
    while number > 1:
        while number % divisor == 0:
            found.append(divisor)
            number //= divisor
        divisor += 1
    return found[::-1]


def _displaced(crystal: Crystal, repeats: Repeats) -> Any:
    """The phonopy object with its displacements; the same one in every process."""
    from phonopy import Phonopy
    from phonopy.structure.atoms import PhonopyAtoms

    unit = PhonopyAtoms(
        numbers=crystal.numbers, cell=crystal.cell, scaled_positions=crystal.fractional
    )
    phonon = Phonopy(
        unit, supercell_matrix=np.diag(repeats), primitive_matrix=np.eye(3), symprec=_EXACT
    )
    phonon.generate_displacements(distance=DISPLACEMENT_A)
    return phonon


def _our_places(phonon: Any, crystal: Crystal, repeats: Repeats) -> IntArray:
    """[n] place in `Crystal.repeated` of each atom of phonopy's supercell.

    Phonopy repeats atom by atom, we molecule by molecule and cell by cell.
    """
    supercell = phonon.supercell
    unit = np.array([supercell.u2u_map[int(s)] for s in supercell.s2u_map], dtype=np.int64)
    reps = np.array(repeats, dtype=np.int64)
    frac = np.asarray(supercell.scaled_positions) * reps
    image = np.rint(frac - crystal.fractional[unit]).astype(np.int64) % reps
    places: IntArray = ((image[:, 0] * reps[1] + image[:, 1]) * reps[2] + image[:, 2]) * len(
        crystal
    ) + unit
    if len(np.unique(places)) != len(places):
        raise ValueError("the supercell of phonopy is not ours")
    return places
