"""Hydrogens: one call equals the paper's crystal-wide call, every molecule gets its own."""

import numpy as np
import pytest
from rdkit import Chem
from scipy.spatial.transform import Rotation

from packflow_core.chem.conformers import conformer_pool, hydrogen_parents
from packflow_core.chem.hydrogens import add_hydrogens, misplaced_hydrogens
from packflow_core.chem.molecule import Molecule

SMILES = [
    "CC(=O)Oc1ccccc1C(=O)O",
    "O=[N+]([O-])c1cc(Cl)c(Cl)cc1[N+](=O)[O-]",
    "C[C@H](N)C(=O)O",
    "CC#N",
    "CO",
    "O",
    "C",
    "CS",
    "C[SiH](C)C",
    "CP",
    "OB(O)c1ccccc1",
    "C12C3C4C1C5C2C3C45",
]


def drawn(smiles, z=3):
    """Molecule and z turned copies of its first conformer's heavy atoms."""
    molecule = Molecule.from_smiles(smiles)
    first = conformer_pool(molecule).heavy[0]
    turns = Rotation.random(z, random_state=1).as_matrix()
    return molecule, np.einsum("ai,zij->zaj", first, turns) + np.arange(z)[:, None, None] * 9.0


@pytest.mark.parametrize("smiles", SMILES)
def test_same_as_one_molecule_object_of_the_whole_cell(smiles):
    molecule, heavy = drawn(smiles)
    z, n = heavy.shape[:2]
    cell = Chem.MolFromSmiles(".".join([molecule.smiles] * z))
    conformer = Chem.Conformer(z * n)
    conformer.SetPositions(heavy.reshape(-1, 3).copy())
    cell.AddConformer(conformer)
    cell = Chem.AddHs(cell, addCoords=True)
    positions = cell.GetConformer().GetPositions()
    wide = positions[z * n :].reshape(z, -1, 3)
    assert add_hydrogens(heavy, molecule)[:, n:] == pytest.approx(wide, abs=1e-9)


@pytest.mark.parametrize("smiles", SMILES)
def test_hydrogens_sit_on_their_parents(smiles):
    molecule, heavy = drawn(smiles)
    n = molecule.n_heavy
    full = add_hydrogens(heavy, molecule)
    assert full.shape == (3, molecule.n_atoms, 3)
    assert (full[:, :n] == heavy).all()
    parents = hydrogen_parents(molecule)
    assert np.bincount(parents, minlength=n).tolist() == molecule.hydrogen_counts.tolist()
    length = np.linalg.norm(full[:, n:] - full[:, parents], axis=-1)
    light = molecule.numbers[parents] < 10
    assert ((length > 0.8) & (length < 1.55)).all()
    assert (length[:, light] < 1.3).all()
    assert not misplaced_hydrogens(full, molecule).any()


def test_hydrogens_turn_with_the_molecule():
    # No methyl or hydroxyl: RDKit lays their free rotor along the axes of space.
    molecule, heavy = drawn("O=C1CCC2CC1CN2", z=1)
    turn = Rotation.random(random_state=5).as_matrix()
    turned = add_hydrogens(heavy @ turn + [1.0, 2.0, 3.0], molecule)
    assert turned == pytest.approx(add_hydrogens(heavy, molecule) @ turn + [1, 2, 3], abs=1e-6)


def test_misplaced_hydrogens_are_seen():
    molecule, heavy = drawn("CCO", z=5)
    full = add_hydrogens(heavy, molecule)
    n = molecule.n_heavy
    parent = hydrogen_parents(molecule)[0]
    full[1, n] = full[1, parent] + [1.7, 0, 0]  # too far
    full[2, n] = full[2, parent] + [0.4, 0, 0]  # too near
    full[3, n] = full[3, n + 1]  # on another hydrogen
    full[4, n, 0] = np.nan
    assert misplaced_hydrogens(full, molecule).tolist() == [False, True, True, True, True]


def test_hydrogen_on_top_of_a_far_atom_is_seen():
    molecule, heavy = drawn("CCCO", z=2)
    full = add_hydrogens(heavy, molecule)
    n = molecule.n_heavy
    hydroxyl = n + int(np.flatnonzero(hydrogen_parents(molecule) == 3)[0])
    away = full[1, 0] - full[1, hydroxyl]
    full[1, 0] -= away * (1 - 0.9 / np.linalg.norm(away))  # the far carbon meets the hydrogen
    assert misplaced_hydrogens(full, molecule).tolist()[1]


def test_molecule_without_hydrogens():
    molecule, heavy = drawn("FC(F)(F)F")
    assert (add_hydrogens(heavy, molecule) == heavy).all()
    assert not misplaced_hydrogens(heavy, molecule).any()
