"""Molecules: canonical order, counts and the sentences for bad SMILES."""

import numpy as np
import pytest
from rdkit import Chem

from packflow_core.chem.elements import MASSES
from packflow_core.chem.molecule import Molecule, check_supported
from packflow_core.errors import UserInputError

SPELLINGS = [
    ("OC(=O)c1ccccc1OC(C)=O", "CC(=O)Oc1ccccc1C(=O)O"),
    ("C1=CC=CC=C1", "c1ccccc1"),
    ("N[C@@H](C)C(O)=O", "C[C@H](N)C(=O)O"),
    ("[2H]C([2H])([2H])O", "CO"),
    ("[H]/C(C)=C/C", "C/C=C\\C"),
]
AWKWARD = [
    "C[C@@H]([2H])O",
    "[13CH3][C@H](C)O",
    "C1[C@@H](C)C[C@H]1C",
    "C/C=C/C=C\\C",
    "C[S@@](=O)c1ccccc1",
    "[NH3+]CC([O-])=O",
    "C[C@]12CC[C@H]3[C@H]([C@@H]1CC[C@@H]2O)CCC4=CC(=O)CC[C@]34C",
]


@pytest.mark.parametrize(("first", "second"), SPELLINGS)
def test_two_spellings_are_one_molecule(first, second):
    a, b = Molecule.from_smiles(first), Molecule.from_smiles(second)
    assert a.smiles == b.smiles
    assert (a.numbers == b.numbers).all()
    assert (a.bonds == b.bonds).all()
    assert (a.numbers_h == b.numbers_h).all()


@pytest.mark.parametrize("smiles", AWKWARD)
def test_canonical_smiles_is_a_fixed_point(smiles):
    molecule = Molecule.from_smiles(smiles)
    again = Molecule.from_smiles(molecule.smiles)
    assert again.smiles == molecule.smiles
    assert (again.numbers == molecule.numbers).all()
    assert (again.bonds == molecule.bonds).all()


def test_atoms_come_in_the_order_of_the_smiles():
    molecule = Molecule.from_smiles("OC(=O)c1ccccc1OC(C)=O")
    written = Chem.MolFromSmiles(molecule.smiles)
    assert [a.GetAtomicNum() for a in written.GetAtoms()] == molecule.numbers.tolist()
    assert molecule.smiles == "CC(=O)Oc1ccccc1C(=O)O"
    assert molecule.numbers.tolist() == [6, 6, 8, 8, 6, 6, 6, 6, 6, 6, 6, 8, 8]


def test_counts_of_aspirin():
    molecule = Molecule.from_smiles("CC(=O)Oc1ccccc1C(=O)O")
    assert (molecule.n_heavy, molecule.n_atoms, molecule.formula) == (13, 21, "C9H8O4")
    assert molecule.mass == pytest.approx(180.159, abs=5e-3)
    assert molecule.mass == pytest.approx(MASSES[molecule.numbers_h].sum(), abs=1e-9)
    assert molecule.hydrogen_counts.tolist() == [3, 0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 1]


def test_heavy_atoms_come_first_with_hydrogens():
    molecule = Molecule.from_smiles("CC(=O)Nc1ccc(O)cc1")
    n = molecule.n_heavy
    assert (molecule.numbers_h[:n] == molecule.numbers).all()
    assert (molecule.numbers_h[n:] == 1).all()
    assert (molecule.bonds_h[: len(molecule.bonds)] == molecule.bonds).all()
    hydrogens = molecule.bonds_h[len(molecule.bonds) :]
    assert np.bincount(hydrogens.min(axis=1), minlength=n).tolist() == (
        molecule.hydrogen_counts.tolist()
    )


def test_graph_distance_counts_bonds():
    molecule = Molecule.from_smiles("CCCO")
    assert molecule.graph_distance.tolist() == [
        [0, 1, 2, 3],
        [1, 0, 1, 2],
        [2, 1, 0, 1],
        [3, 2, 1, 0],
    ]


@pytest.mark.parametrize(
    ("smiles", "words"),
    [
        ("", "empty"),
        ("C1CC", "not a valid SMILES"),
        ("c1ccccc1(", "not a valid SMILES"),
        ("CCO.O", "2 components"),
        ("[Na+].[Cl-]", "components"),
        ("CC(=O)[O-]", "total charge of -1"),
        ("C[CH2]", "radical"),
        ("O=C1O[Bi]1", "contains Bi"),
        ("[Fe]", "contains Fe"),
        ("CC*", "contains *"),
        ("[H][H]", "no heavy atom"),
    ],
)
def test_bad_smiles_is_one_sentence(smiles, words):
    with pytest.raises(UserInputError) as caught:
        Molecule.from_smiles(smiles)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unsupported_elements_are_named():
    with pytest.raises(UserInputError, match=r"my file contains Na, Zn"):
        check_supported(np.array([6, 30, 11, 11]), "my file")
    check_supported(np.array([1, 5, 6, 7, 8, 9, 14, 15, 16, 17, 33, 34, 35, 53]), "all of them")
