"""The elements the workflow knows, with the radii and masses that its filters use."""

from __future__ import annotations

import numpy as np
from ase.data import atomic_masses, chemical_symbols
from ase.data import covalent_radii as _ase_covalent_radii
from ase.data.vdw_alvarez import vdw_radii as _alvarez_vdw_radii
from numpy.typing import NDArray

#: Element set of the PackFlow paper, eq. 30.
SUPPORTED_SYMBOLS = ("H", "B", "C", "N", "O", "F", "Si", "P", "S", "Cl", "As", "Se", "Br", "I")
SUPPORTED_NUMBERS = frozenset(chemical_symbols.index(s) for s in SUPPORTED_SYMBOLS)

#: Covalent radii in Å by atomic number (Cordero et al., Dalton Trans. 2008, 2832), via ASE.
COVALENT_RADII: NDArray[np.float64] = np.asarray(_ase_covalent_radii, dtype=np.float64)

#: Van der Waals radii in Å by atomic number (Bondi, J. Phys. Chem. 1964, 68, 441, for the elements
#: he lists; Alvarez, Dalton Trans. 2013, 42, 8617, for the rest of the supported set).
VDW_RADII: NDArray[np.float64] = np.asarray(_alvarez_vdw_radii, dtype=np.float64).copy()
for _symbol, _radius in {
    "H": 1.20, "C": 1.70, "N": 1.55, "O": 1.52, "F": 1.47, "Si": 2.10, "P": 1.80,
    "S": 1.80, "Cl": 1.75, "As": 1.85, "Se": 1.90, "Br": 1.85, "I": 1.98,
}.items():  # fmt: skip
    VDW_RADII[chemical_symbols.index(_symbol)] = _radius

#: Atomic masses in unified atomic mass units by atomic number (IUPAC 2016), via ASE.
MASSES: NDArray[np.float64] = np.asarray(atomic_masses, dtype=np.float64)

#: 1 u/Å^3 in g/cm^3 (CODATA 2018 atomic mass constant).
AMU_PER_A3_TO_G_CM3 = 1.66053906660


def symbol(number: int) -> str:
    """Chemical symbol of an atomic number."""
    return str(chemical_symbols[number])
