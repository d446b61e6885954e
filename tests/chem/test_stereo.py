"""Stereochemistry in space against the SMILES."""

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdDistGeom

from packflow_core.chem.molecule import Molecule
from packflow_core.chem.stereo import senses, stereo_of

# SMILES, stereo elements, is the mirror image the same molecule?
CASES = [
    ("C[C@H](N)C(=O)O", 1, False),
    ("C[S@](=O)c1ccccc1", 1, False),
    ("C/C=C/C(=O)O", 1, True),
    ("C/C=N/O", 1, True),
    ("C[C@H]1CC[C@@H](C)CC1", 2, True),
    ("C[C@H]1CC[C@H](C)CC1", 2, True),
    ("O[C@@H](C(=O)O)[C@@H](O)C(=O)O", 2, False),
    ("O[C@H](C(=O)O)[C@@H](O)C(=O)O", 2, True),  # meso
    ("C[C@H](O)/C=C/[C@H](C)O", 3, False),
    ("C[C@]12CC[C@H]3[C@H]([C@@H]1CC[C@@H]2O)CCC4=CC(=O)CC[C@]34C", 6, False),
    ("CC(O)C(=O)O", 0, True),
    ("c1ccccc1", 0, True),
]


def embedded(smiles, seed=7):
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert rdDistGeom.EmbedMolecule(mol, randomSeed=seed) == 0
    return mol.GetConformer().GetPositions()


@pytest.mark.parametrize(("smiles", "count", "mirror"), CASES)
def test_embedded_molecules_are_right_and_mirrored_ones_judged(smiles, count, mirror):
    molecule = Molecule.from_smiles(smiles)
    stereo = stereo_of(molecule)
    positions = embedded(molecule.smiles)
    assert len(stereo) == count
    assert stereo.mirror_allowed == mirror
    assert not stereo.inverted_in(positions).any()
    assert stereo.count_flipped(positions) == 0
    flipped = stereo.count_flipped(-positions)
    assert flipped == (0 if mirror else len(stereo.centres))


def test_diastereomer_is_told_by_its_one_centre():
    wanted = Molecule.from_smiles("C[C@H](O)[C@@H](C)O")
    other = Molecule.from_smiles("C[C@H](O)[C@H](C)O")
    assert wanted.smiles != other.smiles
    assert (wanted.numbers == other.numbers).all()
    assert (wanted.bonds == other.bonds).all()
    assert stereo_of(wanted).count_flipped(embedded(other.smiles)) == 1


def test_z_instead_of_e_is_a_flip():
    wanted, other = (Molecule.from_smiles(s) for s in ("C/C=C/C#N", "C/C=C\\C#N"))
    positions = embedded(other.smiles)
    same_order = (wanted.numbers == other.numbers).all()
    assert same_order
    assert stereo_of(wanted).count_flipped(positions) == 1
    assert stereo_of(other).count_flipped(positions) == 0


def test_a_flat_centre_counts_as_lost():
    molecule = Molecule.from_smiles("C[C@H](N)C(=O)O")
    positions = embedded(molecule.smiles)
    positions[:, 2] = 0.0
    assert stereo_of(molecule).count_flipped(positions) == 1


@pytest.mark.parametrize(("smiles", "count", "mirror"), CASES)
def test_senses_need_heavy_atoms_only(smiles, count, mirror):
    del mirror
    molecule = Molecule.from_smiles(smiles)
    stereo = stereo_of(molecule)
    handles = stereo.handles()
    heavy = np.stack([embedded(molecule.smiles, seed)[: molecule.n_heavy] for seed in (1, 2, 3)])
    sign = np.sign(senses(heavy, *handles))
    assert sign.shape == (3, count)
    assert (sign == sign[0]).all()
    assert (sign != 0).all()
    mirrored = np.sign(senses(-heavy, *handles))
    centres = len(stereo.centres)
    assert (mirrored[:, :centres] == -sign[:, :centres]).all()
    assert (mirrored[:, centres:] == sign[:, centres:]).all()
