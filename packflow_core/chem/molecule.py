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

_CHIRAL = (Chem.ChiralType.CHI_TETRAHEDRAL_CW, Chem.ChiralType.CHI_TETRAHEDRAL_CCW)
_NO_BONDS = (Chem.BondType.UNSPECIFIED, Chem.BondType.ZERO, Chem.BondType.OTHER)


@dataclass(frozen=True, eq=False)
class Molecule:
    """One molecule, its heavy atoms in the order of its canonical SMILES.

    The order depends on the molecule alone, not on how its SMILES was written, so two spellings
    of one molecule give the same candidates.

    Attributes:
        smiles: canonical SMILES (with the stereochemistry the user gave), whose atom order is
            the order of every per-atom array of the project.
        rdmol: sanitised RDKit molecule without explicit hydrogens, in that order.
        racemic: both hands of the molecule are meant. The SMILES then ends with the mark of a
            racemate in ChemAxon's extended SMILES, `|&1:...|`, and has the same hand whichever of
            the two was written.
    """

    smiles: str
    rdmol: Chem.Mol = field(repr=False)
    racemic: bool = False

    @classmethod
    def from_smiles(cls, smiles: str) -> Molecule:
        """Parse and check a SMILES.

        Raises:
            UserInputError: not a SMILES, several components, an ion, a radical, an element
                outside the supported set, a bond of no kind, a mixture of diastereomers, or
                nothing but hydrogen.
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
        if any(b.GetBondType() in _NO_BONDS for b in mol.GetBonds()):
            raise UserInputError(f"'{smiles}' has a bond of no kind (~); write which it is.")
        both_hands = _racemic(mol, smiles)
        for atom in mol.GetAtoms():
            atom.SetIsotope(0)  # isotopes pack alike, and [2H] would survive RemoveHs
            atom.SetAtomMapNum(0)
        mol = Chem.RemoveHs(mol)
        molecule = cls._canonical(mol, smiles)
        return molecule.as_racemate() if both_hands else molecule

    @classmethod
    def _canonical(cls, mol: Chem.Mol, smiles: str) -> Molecule:
        """The molecule in the order of its canonical SMILES; `smiles` names it in messages."""
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

    def as_racemate(self) -> Molecule:
        """The molecule with both of its hands meant.

        Raises:
            UserInputError: it has no marked centre, or is its own mirror image.
        """
        if self.racemic:
            return self
        mirrored = Chem.RWMol(self.rdmol)
        for atom in mirrored.GetAtoms():
            if atom.GetChiralTag() in _CHIRAL:
                atom.InvertChirality()
        other = self._canonical(mirrored.GetMol(), self.smiles)
        if other.smiles == self.smiles:
            raise UserInputError(
                f"'{self.smiles}' has no two hands to make a racemate of; mark its stereo centres, "
                "those of either hand, or leave racemic out."
            )
        one = min(self, other, key=lambda molecule: molecule.smiles)
        centres = [a.GetIdx() for a in one.rdmol.GetAtoms() if a.GetChiralTag() in _CHIRAL]
        mark = f" |&1:{','.join(map(str, centres))}|"
        return Molecule(one.smiles + mark, one.rdmol, racemic=True)

    @property
    def one_hand(self) -> str:
        """Canonical SMILES without the mark of a racemate."""
        return self.smiles.partition(" ")[0]

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


def _racemic(mol: Chem.Mol, smiles: str) -> bool:
    """Whether an extended SMILES marks a racemate.

    Raises:
        UserInputError: it marks a mixture of diastereomers.
    """
    groups = [
        group
        for group in mol.GetStereoGroups()
        if group.GetGroupType() != Chem.StereoGroupType.STEREO_ABSOLUTE
    ]
    if not groups:
        return False
    marked = {atom.GetIdx() for group in groups for atom in group.GetAtoms()}
    centres = {a.GetIdx() for a in mol.GetAtoms() if a.GetChiralTag() in _CHIRAL}
    if len(groups) > 1 or marked != centres:
        raise UserInputError(
            f"'{smiles}' marks a mixture of diastereomers; put all stereo centres into one group "
            "&1 for a racemate, or give one stereoisomer."
        )
    # "or" means that one of the two hands is there, unknown which: their crystals are alike.
    return bool(groups[0].GetGroupType() == Chem.StereoGroupType.STEREO_AND)


class _QuietRDKit:
    """Keep RDKit's parser messages off the terminal: the caller's sentence says it better."""

    def __enter__(self) -> None:
        RDLogger.DisableLog("rdApp.*")  # type: ignore[attr-defined]

    def __exit__(self, *exc: object) -> None:
        RDLogger.EnableLog("rdApp.error")  # type: ignore[attr-defined]
