"""From a SMILES to the molecule that every stage shares."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from rdkit import Chem, RDLogger
from rdkit.Chem.rdMolDescriptors import CalcMolFormula

from packflow_core.chem.elements import MASSES, SUPPORTED_NUMBERS, SUPPORTED_SYMBOLS, symbol
from packflow_core.errors import UserInputError

IntArray = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Molecule:
    """One molecule, its heavy atoms in the order of its canonical SMILES.

    The order depends on the molecule alone, not on how its SMILES was written, so two spellings
    of one molecule give the same candidates.

    Attributes:
        smiles: canonical SMILES (with the stereochemistry the user gave), whose atom order is
            the order of every per-atom array of the project.
        rdmol: sanitised RDKit molecule without explicit hydrogens, in that order.
    """

    smiles: str
    rdmol: Chem.Mol = field(repr=False)

    @classmethod
    def from_smiles(cls, smiles: str) -> Molecule:
        """Parse and check a SMILES.

        Raises:
            UserInputError: not a SMILES, several components, an ion, a radical, an element
                outside the supported set, or nothing but hydrogen.
        """
        text = smiles.strip()
        if not text:
            raise UserInputError("The SMILES is empty; give one molecule, for example c1ccccc1.")
        with _QuietRDKit():
            mol = Chem.MolFromSmiles(text)
        if mol is None:
            raise UserInputError(
                f"'{smiles}' is not a valid SMILES; check brackets, ring closures and valences."
            )
        if len(Chem.GetMolFrags(mol)) > 1:
            raise UserInputError(
                f"'{smiles}' has {len(Chem.GetMolFrags(mol))} components; salts, solvates and "
                "co-crystals are not supported, give the SMILES of a single molecule."
            )
        wrong = sorted({a.GetSymbol() for a in mol.GetAtoms()} - set(SUPPORTED_SYMBOLS))
        if wrong:
            raise UserInputError(
                f"'{smiles}' contains {', '.join(wrong)}; the model knows "
                f"{', '.join(SUPPORTED_SYMBOLS)} only."
            )
        charge = Chem.GetFormalCharge(mol)
        if charge:
            raise UserInputError(
                f"'{smiles}' has a total charge of {charge:+d}; give a neutral molecule "
                "(zwitterions are fine)."
            )
        if any(a.GetNumRadicalElectrons() for a in mol.GetAtoms()):
            raise UserInputError(f"'{smiles}' is a radical; give a closed-shell molecule.")
        for atom in mol.GetAtoms():
            atom.SetIsotope(0)  # isotopes pack alike, and [2H] would survive RemoveHs
            atom.SetAtomMapNum(0)
        mol = Chem.RemoveHs(mol)
        if not any(a.GetAtomicNum() > 1 for a in mol.GetAtoms()):
            raise UserInputError(f"'{smiles}' has no heavy atom; nothing can be packed.")
        # Workers parse the canonical SMILES again and must get the same atom order, so writing and
        # reading is repeated until nothing changes (once is enough but for odd stereo centres).
        canonical = Chem.MolToSmiles(mol)
        for _ in range(5):
            ordered = Chem.MolFromSmiles(canonical)
            if ordered is None:
                raise UserInputError(
                    f"RDKit cannot read back its own canonical form of '{smiles}'; write the "
                    "SMILES in another way."
                )
            again = Chem.MolToSmiles(ordered)
            if again == canonical:
                break
            canonical = again
        return cls(smiles=canonical, rdmol=ordered)

    @cached_property
    def numbers(self) -> IntArray:
        """[n] atomic numbers of the heavy atoms."""
        return np.array([a.GetAtomicNum() for a in self.rdmol.GetAtoms()], dtype=np.int64)

    @cached_property
    def bonds(self) -> IntArray:
        """[nb, 2] heavy-atom bonds in RDKit order."""
        pairs = [(b.GetBeginAtomIdx(), b.GetEndAtomIdx()) for b in self.rdmol.GetBonds()]
        return np.array(pairs, dtype=np.int64).reshape(-1, 2)

    @cached_property
    def hydrogen_counts(self) -> IntArray:
        """[n] hydrogens on each heavy atom."""
        return np.array([a.GetTotalNumHs() for a in self.rdmol.GetAtoms()], dtype=np.int64)

    @cached_property
    def graph_distance(self) -> IntArray:
        """[n, n] number of bonds between heavy atoms along the shortest path."""
        return np.asarray(Chem.GetDistanceMatrix(self.rdmol), dtype=np.int64)

    @property
    def n_heavy(self) -> int:
        """Heavy atoms in one molecule."""
        return len(self.numbers)

    @property
    def n_atoms(self) -> int:
        """Atoms in one molecule, hydrogens included."""
        return self.n_heavy + int(self.hydrogen_counts.sum())

    @property
    def mass(self) -> float:
        """Molar mass in g/mol, hydrogens included."""
        return float(MASSES[self.numbers].sum() + MASSES[1] * self.hydrogen_counts.sum())

    @property
    def formula(self) -> str:
        """Hill formula, hydrogens included."""
        return str(CalcMolFormula(self.rdmol))

    @cached_property
    def rdmol_h(self) -> Chem.Mol:
        """RDKit molecule with explicit hydrogens; heavy atoms keep their order and come first."""
        return Chem.AddHs(self.rdmol)

    @cached_property
    def numbers_h(self) -> IntArray:
        """[n_atoms] atomic numbers, heavy atoms first, then the hydrogens in RDKit order."""
        return np.array([a.GetAtomicNum() for a in self.rdmol_h.GetAtoms()], dtype=np.int64)

    @cached_property
    def bonds_h(self) -> IntArray:
        """[nb_h, 2] all bonds, hydrogens included, in the order of `numbers_h`."""
        pairs = [(b.GetBeginAtomIdx(), b.GetEndAtomIdx()) for b in self.rdmol_h.GetBonds()]
        return np.array(pairs, dtype=np.int64).reshape(-1, 2)


def check_supported(numbers: IntArray, what: str) -> None:
    """Refuse atomic numbers outside the supported set; `what` names the input in the message.

    Raises:
        UserInputError: with the symbols that are not supported.
    """
    wrong = sorted({symbol(int(n)) for n in numbers if int(n) not in SUPPORTED_NUMBERS})
    if wrong:
        raise UserInputError(
            f"{what} contains {', '.join(wrong)}; the model knows "
            f"{', '.join(SUPPORTED_SYMBOLS)} only."
        )


class _QuietRDKit:
    """Keep RDKit's parser messages off the terminal: the caller's sentence says it better."""

    def __enter__(self) -> None:
        RDLogger.DisableLog("rdApp.*")  # type: ignore[attr-defined]

    def __exit__(self, *exc: object) -> None:
        RDLogger.EnableLog("rdApp.error")  # type: ignore[attr-defined]
