"""Are two crystals the same packing: RMSD of a cluster of molecules, and a cross-check.

The measure is RMSD15 as COMPACK defined it (Chisholm and Motherwell, J. Appl. Cryst. 38, 228,
2005), computed by `oxtalign`: a molecule of the reference with its 14 closest neighbours is laid
over the other crystal; a molecule counts as matched when its own heavy-atom RMSD is below 1 Å.
Hydrogens are ignored and mirror images are allowed. Where molecules are not equivalent by symmetry
(Z' > 1) the cluster around each is tried and the best counts, so a full match says that the
surroundings of one molecule are found again; duplicates must agree in AMD too.

No function here raises for an odd crystal: what cannot be compared does not match, and
`Match.detail` says why.
"""

from __future__ import annotations

import logging
import math
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from packflow_core.analysis.neighbors import reduced_cell
from packflow_core.chem.elements import symbol
from packflow_core.crystal.crystal import Crystal
from packflow_core.crystal.lattice import cell_to_parameters, heights

if TYPE_CHECKING:
    from types import FrameType

logger = logging.getLogger(__name__)

SHELL_SIZE = 15
#: A molecule of the cluster matches below this RMSD of its heavy atoms, in Å.
MOLECULE_TOLERANCE_A = 1.0
#: Cells flatter than this hold no molecule; comparing them would only cost memory. In Å.
MIN_HEIGHT_A = 1.5


@dataclass(frozen=True)
class Match:
    """Outcome of a packing comparison.

    Attributes:
        rmsd: over the heavy atoms of the matched molecules in Å; None where none matched.
        n_matched: molecules of the cluster that matched.
        n_total: molecules in the cluster.
        detail: why nothing could be compared; empty after a comparison.
        rmsd_1: over the heavy atoms of one molecule, the best pair of conformers, Å; None where
            nothing could be compared.
    """

    rmsd: float | None
    n_matched: int
    n_total: int
    detail: str = ""
    rmsd_1: float | None = None

    @property
    def full(self) -> bool:
        """Whether every molecule of the cluster matched: the same packing."""
        return self.rmsd is not None and self.n_matched == self.n_total


class Packing:
    """A crystal prepared for comparisons; reuse it where one crystal meets many.

    Args:
        crystal: molecules whole, atoms molecule by molecule.
    """

    def __init__(self, crystal: Crystal) -> None:
        self.problem = ""
        self.structure: Any = None
        try:
            self.structure = _oxtalign_structure(crystal)
        except Exception as error:  # an odd crystal is no match, never a broken run
            self.problem = f"{type(error).__name__}: {error}"


def matches(
    crystal: Crystal | Packing,
    reference: Crystal | Packing,
    *,
    n: int = SHELL_SIZE,
    molecule_tolerance: float = MOLECULE_TOLERANCE_A,
    timeout_s: float | None = 60.0,
) -> Match:
    """Overlay a cluster of `n` molecules of `reference` on `crystal`.

    Args:
        crystal: the candidate.
        reference: the crystal whose cluster is searched for.
        n: molecules in the cluster (15: RMSD15).
        molecule_tolerance: a molecule matches below this RMSD, Å.
        timeout_s: give up after so many seconds. Only the main thread of a process can be
            interrupted; elsewhere the comparison runs to its end.
    """
    first = crystal if isinstance(crystal, Packing) else Packing(crystal)
    second = reference if isinstance(reference, Packing) else Packing(reference)
    if first.problem or second.problem:
        which = "crystal" if first.problem else "reference"
        return Match(None, 0, n, f"{which} cannot be compared: {first.problem or second.problem}")
    from oxtalign import compare

    try:
        with _time_limit(timeout_s):
            found = compare(second.structure, first.structure, n=n, mol_rmsd_tol=molecule_tolerance)
    except _TimeLimitError:
        return Match(None, 0, n, f"comparison stopped after {timeout_s:g} s")
    except Exception as error:  # whatever breaks inside the comparison is no match
        logger.warning("packing comparison failed: %s: %s", type(error).__name__, error)
        return Match(None, 0, n, f"comparison failed: {type(error).__name__}: {error}")
    conformer = found.rmsd_1
    rmsd_1 = float(conformer) if conformer is not None and math.isfinite(conformer) else None
    if found.n_matched < 1 or not math.isfinite(found.rmsd_n):
        return Match(None, 0, n, found.message, rmsd_1)
    return Match(float(found.rmsd_n), int(found.n_matched), n, "", rmsd_1)


def structure_matcher_rms(a: Crystal, b: Crystal, timeout_s: float | None = None) -> float | None:
    """Cross-check by pymatgen's StructureMatcher on the heavy atoms, with its own tolerances.

    Cells are reduced and scaled to equal volume, so crystals that differ by a uniform strain
    match; use it beside `matches`, not instead.

    Args:
        a: one crystal.
        b: the other.
        timeout_s: give up after so many seconds, see `matches`; None for no limit.

    Returns:
        RMS displacement in Å (of the lattice scaled to the mean volume), or None for no match
        and for crystals that cannot be compared.
    """
    from pymatgen.analysis.structure_matcher import StructureMatcher

    first, second = a.heavy_only(), b.heavy_only()
    try:
        matcher = StructureMatcher(primitive_cell=True, scale=True, attempt_supercell=False)
        with _time_limit(timeout_s):
            found = matcher.get_rms_dist(first.to_pymatgen(), second.to_pymatgen())
    except _TimeLimitError:
        logger.warning("StructureMatcher stopped after %g s", timeout_s)
        return None
    except Exception as error:  # a cross-check must not break what it checks
        logger.warning("StructureMatcher failed: %s: %s", type(error).__name__, error)
        return None
    if found is None:
        return None
    # pymatgen normalises by the cube root of the volume per atom.
    per_atom = 0.5 * (first.volume / len(first) + second.volume / len(second))
    return float(found[0] * per_atom ** (1.0 / 3.0))


def _oxtalign_structure(crystal: Crystal) -> Any:
    """The heavy atoms as whole molecules with bonds perceived inside each molecule only.

    Handing over molecules instead of atoms keeps close contacts of bad crystals from being read
    as bonds, and the Niggli cell keeps the lists of lattice images short.
    """
    from oxtalign import Molecule as PackedMolecule
    from oxtalign import Structure, UnitCell
    from oxtalign.connectivity import perceive_bonds

    heavy = replace(crystal, cell=reduced_cell(crystal.cell)).heavy_only()
    if not len(heavy):
        raise ValueError("no heavy atom to compare")
    heavy = heavy.wrapped()
    if heights(heavy.cell).min() < MIN_HEIGHT_A:
        raise ValueError(f"the cell is only {heights(heavy.cell).min():.2f} Å thick")
    per_molecule = len(heavy) // heavy.z
    molecules = []
    for k in range(heavy.z):
        block = slice(k * per_molecule, (k + 1) * per_molecule)
        elements = tuple(symbol(int(number)) for number in heavy.numbers[block])
        coords = np.ascontiguousarray(heavy.positions[block])
        molecule = PackedMolecule(
            elements=elements,
            coords=coords,
            labels=tuple(f"{e}{i + 1}" for i, e in enumerate(elements)),
            bonds=tuple((int(i), int(j)) for i, j in perceive_bonds(coords, list(elements))),
        )
        molecule.species_key = molecule.formula()
        molecules.append(molecule)
    a, b, c, alpha, beta, gamma = cell_to_parameters(heavy.cell).tolist()
    unit_cell = UnitCell(
        a, b, c, alpha, beta, gamma, ["x,y,z"], heavy.cell.T.copy(), np.linalg.inv(heavy.cell.T)
    )
    return Structure(molecules, unit_cell, "crystal")


class _TimeLimitError(Exception):
    """The time is up."""


@contextmanager
def _time_limit(seconds: float | None) -> Iterator[None]:
    """Raise `_TimeLimitError` in the block after so many seconds, where signals allow it."""
    usable = (
        seconds is not None
        and hasattr(signal, "setitimer")
        and threading.current_thread() is threading.main_thread()
        and signal.getitimer(signal.ITIMER_REAL)[0] == 0.0  # somebody else's alarm is not ours
    )
    if not usable or seconds is None:
        yield
        return

    def expire(_signum: int, _frame: FrameType | None) -> None:
        raise _TimeLimitError

    previous = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, previous)
