"""RDKit's own answers to the questions that the conformer code answers."""

import numpy as np
from rdkit import Chem
from rdkit.Chem import rdMolAlign


def as_rdkit(molecule, positions, hydrogens=False):
    """RDKit molecule with one geometry; without hydrogens, GetBestRMS compares heavy atoms."""
    mol = Chem.Mol(molecule.rdmol_h if hydrogens else molecule.rdmol)
    conformer = Chem.Conformer(mol.GetNumAtoms())
    conformer.SetPositions(np.ascontiguousarray(positions[: mol.GetNumAtoms()], dtype=float))
    mol.RemoveAllConformers()
    mol.AddConformer(conformer)
    return mol


def best_rms(molecule, a, b, mirror):
    """Smallest heavy-atom RMSD in Å over all symmetries, of both hands where asked."""
    hands = (1.0, -1.0) if mirror else (1.0,)
    target = as_rdkit(molecule, b)
    return min(rdMolAlign.GetBestRMS(as_rdkit(molecule, hand * a), target) for hand in hands)


def isomer(molecule, positions):
    """SMILES of the stereoisomer that a geometry [n_atoms, 3] is, and its CIP labels."""
    mol = as_rdkit(molecule, positions, hydrogens=True)
    Chem.RemoveStereochemistry(mol)
    Chem.AssignStereochemistryFrom3D(mol)
    bare = Chem.RemoveHs(mol)
    labels = [label for _, label in Chem.FindMolChiralCenters(bare, useLegacyImplementation=False)]
    return Chem.MolToSmiles(bare), labels


def torsion(x, i, j, k, m):
    """Torsion angle in degrees."""
    b0, b1, b2 = x[i] - x[j], x[k] - x[j], x[m] - x[k]
    b1 = b1 / np.linalg.norm(b1)
    v, w = b0 - (b0 @ b1) * b1, b2 - (b2 @ b1) * b1
    return float(np.degrees(np.arctan2(np.cross(b1, v) @ w, v @ w)))
