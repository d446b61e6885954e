"""Stereochemistry that a SMILES specifies, compared with molecules in space.

A labelled centre that comes out inverted is not always wrong: in cis-1,4-dimethylcyclohexane or a
meso compound, inverting all centres gives the same molecule again. So a pattern of inverted
centres is judged by the canonical SMILES that it leads to.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from rdkit import Chem

from packflow_core.chem.molecule import Molecule

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

_CHIRAL = (Chem.ChiralType.CHI_TETRAHEDRAL_CW, Chem.ChiralType.CHI_TETRAHEDRAL_CCW)
_OPPOSITE = {
    Chem.BondStereo.STEREOE: Chem.BondStereo.STEREOZ,
    Chem.BondStereo.STEREOZ: Chem.BondStereo.STEREOE,
    Chem.BondStereo.STEREOCIS: Chem.BondStereo.STEREOTRANS,
    Chem.BondStereo.STEREOTRANS: Chem.BondStereo.STEREOCIS,
}


@dataclass(frozen=True, eq=False)
class Stereo:
    """The stereo elements a molecule's SMILES specifies: centres first, then double bonds.

    Attributes:
        smiles: canonical SMILES of the molecule.
        centres: atom indices of the specified tetrahedral centres.
        bonds: bond indices of the specified double bonds.
    """

    smiles: str
    centres: tuple[int, ...]
    bonds: tuple[int, ...]
    _molecule: Molecule = field(repr=False)

    def __len__(self) -> int:
        return len(self.centres) + len(self.bonds)

    def accepts(self, inverted: BoolArray) -> bool:
        """Whether the molecule with these elements [m] inverted is still the molecule wanted.

        Of a racemate, both hands are.
        """
        return self.as_written(inverted) or (
            self._molecule.racemic and self.as_written(inverted ^ self._mirrored)
        )

    def as_written(self, inverted: BoolArray) -> bool:
        """Whether the molecule with these elements [m] inverted is that of the SMILES."""
        return not inverted.any() or _same_molecule(
            self._molecule.one_hand, tuple(inverted.tolist())
        )

    def left_handed(self, molecules: FloatArray) -> BoolArray:
        """[z] which of the molecules [z, n_atoms, 3] Å are not of the hand that is written."""
        return np.array([not self.as_written(self.inverted_in(x)) for x in molecules], np.bool_)

    @property
    def mirror_allowed(self) -> bool:
        """Whether the mirror image is the molecule wanted, as far as the SMILES says."""
        return self.accepts(self._mirrored)

    @property
    def _mirrored(self) -> BoolArray:
        """[m] elements that a mirror inverts: the centres, not the double bonds."""
        return np.arange(len(self)) < len(self.centres)

    def inverted_in(self, positions: FloatArray) -> BoolArray:
        """[m] elements that differ from the SMILES in a molecule in space, lost ones included.

        Args:
            positions: [n_atoms, 3] Å, heavy atoms and hydrogens in the order of `Molecule`.
        """
        wanted = self._molecule.rdmol_h
        found = Chem.Mol(wanted)
        conformer = Chem.Conformer(found.GetNumAtoms())
        conformer.SetPositions(np.ascontiguousarray(positions, dtype=np.float64))
        found.RemoveAllConformers()
        found.AddConformer(conformer)
        # Forget what the SMILES said, so that only the coordinates speak.
        Chem.RemoveStereochemistry(found)
        Chem.AssignStereochemistryFrom3D(found)
        tags = [
            found.GetAtomWithIdx(k).GetChiralTag() != wanted.GetAtomWithIdx(k).GetChiralTag()
            for k in self.centres
        ]
        double = [
            found.GetBondWithIdx(k).GetStereo() != wanted.GetBondWithIdx(k).GetStereo()
            for k in self.bonds
        ]
        return np.array(tags + double, dtype=np.bool_)

    def count_flipped(self, positions: FloatArray) -> int:
        """Elements [n_atoms, 3] Å that make this another molecule; 0 where it is the right one."""
        inverted = self.inverted_in(positions)
        return 0 if self.accepts(inverted) else int(inverted.sum())

    def handles(self) -> tuple[IntArray, IntArray]:
        """Heavy atoms whose places give the sense of each element.

        Returns:
            (centres [c, 4], bonds [b, 4]). Of a centre: three neighbours, and the fourth
            neighbour or, where that is a hydrogen or a lone pair, the centre itself. Of a double
            bond a=b: stereo atom, a, b, stereo atom. A row of -1 where heavy atoms do not tell.
        """
        mol = self._molecule.rdmol
        centres = []
        for k in self.centres:
            near = [a.GetIdx() for a in mol.GetAtomWithIdx(k).GetNeighbors()]
            centres.append([*near, k][:4] if len(near) in (3, 4) else [-1] * 4)
        bonds = []
        for k in self.bonds:
            bond = mol.GetBondWithIdx(k)
            outer = list(bond.GetStereoAtoms())
            inner = [bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()]
            bonds.append([outer[0], *inner, outer[1]] if len(outer) == 2 else [-1] * 4)
        return (
            np.array(centres, dtype=np.int64).reshape(-1, 4),
            np.array(bonds, dtype=np.int64).reshape(-1, 4),
        )


def stereo_of(molecule: Molecule) -> Stereo:
    """The stereo elements that the molecule's SMILES specifies."""
    mol = molecule.rdmol
    return Stereo(
        smiles=molecule.smiles,
        centres=tuple(a.GetIdx() for a in mol.GetAtoms() if a.GetChiralTag() in _CHIRAL),
        bonds=tuple(b.GetIdx() for b in mol.GetBonds() if b.GetStereo() in _OPPOSITE),
        _molecule=molecule,
    )


def senses(positions: FloatArray, centres: IntArray, bonds: IntArray) -> FloatArray:
    """Sense of every stereo element from heavy atoms alone: its sign is what counts.

    Args:
        positions: [..., n, 3] Å.
        centres: [c, 4] as `Stereo.handles` gives them.
        bonds: [b, 4] likewise.

    Returns:
        [..., c + b] signed volume in Å^3 of each centre's neighbours, then for each double bond
        the product in Å^2 of its two sides across the axis (positive: cis). 0 where heavy atoms
        do not tell.
    """
    x = np.asarray(positions, dtype=np.float64)
    arms = x[..., centres[:, :3], :] - x[..., centres[:, 3:], :]
    volume = np.einsum(
        "...i,...i->...", arms[..., 0, :], np.cross(arms[..., 1, :], arms[..., 2, :])
    )
    axis = x[..., bonds[:, 2], :] - x[..., bonds[:, 1], :]
    left = np.cross(axis, x[..., bonds[:, 0], :] - x[..., bonds[:, 1], :])
    right = np.cross(axis, x[..., bonds[:, 3], :] - x[..., bonds[:, 2], :])
    side = np.einsum("...i,...i->...", left, right)
    known = np.concatenate([(centres >= 0).all(axis=1), (bonds >= 0).all(axis=1)])
    return np.where(known, np.concatenate([volume, side], axis=-1), 0.0)


@lru_cache(maxsize=4096)
def _same_molecule(smiles: str, inverted: tuple[bool, ...]) -> bool:
    """Whether inverting some stereo elements of a SMILES gives the same molecule."""
    molecule = Molecule.from_smiles(smiles)
    elements = stereo_of(molecule)
    mol = Chem.RWMol(molecule.rdmol)
    for k, invert in zip(elements.centres, inverted[: len(elements.centres)], strict=True):
        if invert:
            mol.GetAtomWithIdx(k).InvertChirality()
    for k, invert in zip(elements.bonds, inverted[len(elements.centres) :], strict=True):
        if invert:
            bond = mol.GetBondWithIdx(k)
            bond.SetStereo(_OPPOSITE[bond.GetStereo()])
    return Molecule.from_smiles(Chem.MolToSmiles(mol)).smiles == smiles
