"""What the engine `springs` is made of: springs inside molecules, wells between them.

Well depths and distances are those of UFF (Rappé, Casewit, Colwell, Goddard, Skiff, JACS 1992,
114, 10024, table I, geometric mixing, eq. 21b and 22). The springs, and the wells of hydrogen
bonds that stand in for the charges that the engine lacks, are ours, chosen on two crystals (urea,
benzene). Of 146 known crystals with up to 170 atoms in the cell, relaxed from where they are, the
density comes out 1.6 % too high, with a standard deviation of 4.9 %.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from ase.data import atomic_numbers
from ase.units import kcal, mol
from numpy.typing import NDArray

from packflow_core.chem.elements import COVALENT_RADII, symbol
from packflow_core.crystal.contacts import BOND_TOLERANCE
from packflow_core.crystal.crystal import Crystal

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

#: Distance x of the minimum in Å and depth D in kcal/mol.
UFF_WELLS: dict[str, tuple[float, float]] = {
    "H": (2.886, 0.044), "B": (4.083, 0.180), "C": (3.851, 0.105), "N": (3.660, 0.069),
    "O": (3.500, 0.060), "F": (3.364, 0.050), "Si": (4.295, 0.402), "P": (4.147, 0.305),
    "S": (4.035, 0.274), "Cl": (3.947, 0.227), "As": (4.230, 0.309), "Se": (4.205, 0.291),
    "Br": (4.189, 0.251), "I": (4.500, 0.339),
}  # fmt: skip

#: The same for a hydrogen on N or O with an N or O of another molecule: a hydrogen bond.
HYDROGEN_BOND = (2.0, 2.5)

#: Potentials between molecules are switched off from SWITCH to CUTOFF, Å.
SWITCH = 6.5
CUTOFF = 8.0

#: (r/x)² below which the wells go on linearly in r²; r = 0.7 sigma.
SOFT_CORE = 0.49 / 2.0 ** (1.0 / 3.0)

#: Stiffness in eV/Å² of distances 1-2, 1-3, 1-4 and of all others in a molecule.
STIFFNESS = (20.0, 10.0, 3.0, 1.0)

_SYMBOLS = tuple(UFF_WELLS)
_POLAR = len(_SYMBOLS)
_KINDS = np.full(max(atomic_numbers.values()) + 1, -1, dtype=np.int64)
for _index, _symbol in enumerate(_SYMBOLS):
    _KINDS[atomic_numbers[_symbol]] = _index


class Springs(NamedTuple):
    """Distances inside the molecules of a crystal.

    Attributes:
        i: [K] first atom.
        j: [K] second atom.
        length: [K] Å, at rest.
        stiffness: [K] eV/Å².
    """

    i: IntArray
    j: IntArray
    length: FloatArray
    stiffness: FloatArray


def well_tables() -> tuple[FloatArray, FloatArray]:
    """1/x² in 1/Å² and D in eV for pairs of kinds (see `atom_kinds`), each [kinds * kinds]."""
    wells = np.array([*UFF_WELLS.values(), UFF_WELLS["H"]])
    distance = np.sqrt(np.outer(wells[:, 0], wells[:, 0]))
    depth = np.sqrt(np.outer(wells[:, 1], wells[:, 1]))
    for acceptor in (_SYMBOLS.index("N"), _SYMBOLS.index("O")):
        for pair in ((_POLAR, acceptor), (acceptor, _POLAR)):
            distance[pair], depth[pair] = HYDROGEN_BOND
    return (1.0 / distance**2).reshape(-1), (depth * float(kcal / mol)).reshape(-1)


#: Number of kinds; the pair (a, b) is entry a * N_KINDS + b of the tables.
N_KINDS = len(_SYMBOLS) + 1


def bonded(crystal: Crystal) -> NDArray[np.bool_]:
    """[z, n, n] which atoms of each molecule are bonded, by covalent radii and distance."""
    molecules = crystal.positions.reshape(crystal.z, -1, 3)
    n = molecules.shape[1]
    radii = COVALENT_RADII[crystal.numbers[:n]]
    distance = np.linalg.norm(molecules[:, :, None] - molecules[:, None], axis=-1)
    near = distance < radii[:, None] + radii[None] + BOND_TOLERANCE
    return np.asarray(near & ~np.eye(n, dtype=np.bool_))


def atom_kinds(crystal: Crystal, bonds: NDArray[np.bool_]) -> IntArray:
    """[N] index of each atom's element in `UFF_WELLS`; hydrogens on N or O have one of their own.

    Raises:
        ValueError: an element is not in the table.
    """
    kinds = _KINDS[crystal.numbers]
    if (kinds < 0).any():
        raise ValueError(f"no parameters for {symbol(int(crystal.numbers[kinds < 0][0]))}")
    donor = np.isin(crystal.numbers, (7, 8)).reshape(crystal.z, 1, -1)
    polar = (bonds & donor).any(axis=-1).reshape(-1) & (crystal.numbers == 1)
    return np.where(polar, _POLAR, kinds)


def springs_of(crystal: Crystal, bonds: NDArray[np.bool_]) -> Springs:
    """Springs between all pairs of atoms of each molecule, at rest in `crystal`."""
    z, n = crystal.z, len(crystal) // crystal.z
    first, second = np.triu_indices(n, 1)
    # Number of bonds between two atoms, where it is at most three.
    steps = bonds.astype(np.float64)
    within = [steps > 0]
    for _ in range(2):
        within.append(within[-1] | ((within[-1].astype(np.float64) @ steps) > 0))
    rank = 3 - sum(w[:, first, second].astype(np.int64) for w in within)
    molecules = crystal.positions.reshape(z, n, 3)
    length = np.linalg.norm(molecules[:, second] - molecules[:, first], axis=-1)
    offsets = (np.arange(z) * n)[:, None]
    return Springs(
        (offsets + first).reshape(-1),
        (offsets + second).reshape(-1),
        length.reshape(-1),
        np.asarray(STIFFNESS)[rank].reshape(-1),
    )


def well(
    r2: torch.Tensor, inverse: torch.Tensor, depth: torch.Tensor, work: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Energies (eV) and their derivatives by r² (eV/Å²) of Lennard-Jones pairs.

    D ((x/r)^12 - 2 (x/r)^6), linear in r² below SOFT_CORE x², times a switch that is cubic in r²
    between SWITCH and CUTOFF; exactly zero beyond.

    Args:
        r2: [P] Å²; overwritten.
        inverse: [P] 1/x² in 1/Å².
        depth: [P] D in eV.
        work: [5, P] room for intermediate values; the results lie there.
    """
    # In place, for fresh memory costs more than the arithmetic; products and sums only, for fused
    # operations round differently in the tail of an array.
    u, q, w, energy, slope = work
    torch.mul(r2, inverse, out=u)
    torch.clamp(u, min=SOFT_CORE, out=q)
    u.sub_(q)
    q.reciprocal_()
    torch.mul(q, q, out=w)
    w.mul_(q)
    torch.mul(w, depth, out=energy)
    w.sub_(1.0)
    torch.mul(energy, w, out=slope)
    slope.mul_(q).mul_(-6.0)
    energy.mul_(w.sub_(1.0)).add_(u.mul_(slope))
    # The switch s² (3 + 2 s), from 1 at s = -1 to 0 at s = 0.
    width = 1.0 / (CUTOFF**2 - SWITCH**2)
    s = r2.sub_(CUTOFF**2).mul_(width).clamp_(-1.0, 0.0)
    fall = torch.add(s, 1.0, out=u).mul_(s).mul_(6.0 * width)
    keep = torch.mul(s, 2.0, out=w).add_(3.0).mul_(s).mul_(s)
    slope.mul_(inverse).mul_(keep).add_(fall.mul_(energy))
    return energy.mul_(keep), slope


def spring(
    r2: torch.Tensor, length: torch.Tensor, stiffness: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Energies (eV) and their derivatives by r² (eV/Å²) of springs, k (r - length)² / 2.

    Args:
        r2: [K] Å².
        length: [K] Å.
        stiffness: [K] k in eV/Å².
    """
    # Two atoms on one point have no direction; the force there is zero, not NaN.
    r = r2.sqrt().clamp(min=1e-9)
    stretch = r - length
    pull = stiffness * stretch
    return 0.5 * pull * stretch, 0.5 * pull / r
