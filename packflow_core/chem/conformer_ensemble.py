"""The conformers of a molecule: an unchangeable pool, numbered by energy."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from packflow_core.chem.conformer_rmsd import Comparer, Shapes
from packflow_core.chem.molecule import Molecule

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class SearchCounts:
    """What became of the embeddings of a search.

    Attributes:
        asked: embeddings asked for.
        embedded: embeddings that gave a geometry.
        wrong: of those, geometries with another stereochemistry or other bonds than the SMILES.
        outside: sound ones beyond the energy window.
        duplicates: those within it that repeat a lower one.
        beyond: distinct ones that are too many, or were not looked at for that reason.
    """

    asked: int
    embedded: int
    wrong: int
    outside: int
    duplicates: int
    beyond: int


@dataclass(frozen=True, eq=False)
class ConformerEnsemble:
    """Conformers of one molecule; a conformer is known by its place, from 0.

    A search gives them by energy, lowest first, the same for the same SMILES and settings. A file
    gives them in its own order.

    Attributes:
        molecule: the molecule.
        positions: [K, n_atoms, 3] Å in the order of `Molecule` (heavy atoms, then hydrogens); the
            mean of the heavy atoms lies at the origin. Read-only.
        energies: [K] kJ/mol above the lowest; NaN where they are not known. Read-only.
        method: what gave geometries and energies: "MMFF94s", "UFF", "distance geometry" (then
            without energies), or the name of a file.
        found: [K] embeddings that gave each conformer; None for conformers from a file.
        counts: of the search; None for conformers from a file.
        notes: sentences about what a user should know.
    """

    molecule: Molecule
    positions: FloatArray
    energies: FloatArray
    method: str
    found: IntArray | None = field(default=None, repr=False)
    counts: SearchCounts | None = field(default=None, repr=False)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        k = len(self.positions)
        if not k or self.positions.shape != (k, self.molecule.n_atoms, 3):
            raise ValueError(f"conformers of the shape {self.positions.shape} are none of these")
        if self.energies.shape != (k,):
            raise ValueError(f"{k} conformers have energies of the shape {self.energies.shape}")
        self.positions.setflags(write=False)
        self.energies.setflags(write=False)

    def __len__(self) -> int:
        return len(self.positions)

    @cached_property
    def digest(self) -> str:
        """12 hexadecimal digits that differ where molecule or geometries do."""
        content = hashlib.sha256(self.molecule.smiles.encode())
        content.update(np.ascontiguousarray(self.positions, dtype="<f8").tobytes())
        return content.hexdigest()[:12]

    @cached_property
    def comparer(self) -> Comparer:
        """Compares geometries of the molecule."""
        return Comparer.of(self.molecule)

    @cached_property
    def shapes(self) -> Shapes:
        """The conformers, ready to be compared."""
        return self.comparer.shapes(self.positions)


def choose_conformers(ensemble: ConformerEnsemble, how_many: int) -> IntArray:
    """[k] places of the conformers that a method shall pack that takes few: the lowest ones.

    Crystals favour what packs well, so energies decide who takes part, not how often.

    Args:
        ensemble: the pool.
        how_many: conformers wanted; all where there are fewer.

    Raises:
        ValueError: none wanted.
    """
    if how_many < 1:
        raise ValueError(f"{how_many} conformers cannot be chosen")
    # Conformers from a file may come in any order; unknown energies go last, in their order.
    order = np.argsort(ensemble.energies, kind="stable")
    return np.asarray(order[:how_many], dtype=np.int64)


def equal_shares(total: int, parts: int) -> IntArray:
    """[parts] how many of `total` candidates each of the chosen conformers gets.

    As equal as can be; the first ones get one more where it does not come out even.

    Raises:
        ValueError: no part, or a negative total.
    """
    if parts < 1 or total < 0:
        raise ValueError(f"{total} candidates cannot be shared among {parts} conformers")
    shares = np.full(parts, total // parts, dtype=np.int64)
    shares[: total % parts] += 1
    return shares
