"""Racemates: asked for by a flag or a mark, both hands right, and nothing else."""

import numpy as np
import pytest
from rdkit import Chem

from packflow_core.chem.conformers import conformer_pool
from packflow_core.chem.molecule import Molecule
from packflow_core.chem.repair import fit_conformer, flipped_molecules, mirror_is_better
from packflow_core.chem.stereo import stereo_of
from packflow_core.errors import UserInputError

ALANINE = "C[C@H](N)C(=O)O"
PSEUDOEPHEDRINE = "CN[C@@H](C)[C@@H](O)c1ccccc1"
MESO = "OC(=O)[C@H](O)[C@H](O)C(=O)O"


def test_both_spellings_of_a_racemate_are_one_molecule():
    texts = [
        "C[C@H](N)C(=O)O |&1:1|",
        "C[C@@H](N)C(=O)O |&1:1|",
        "OC(=O)[C@H](C)N |&7:3| alanine",
    ]
    found = {Molecule.from_smiles(text).smiles for text in texts}
    found.add(Molecule.from_smiles(ALANINE).as_racemate().smiles)
    assert len(found) == 1
    molecule = Molecule.from_smiles(found.pop())
    assert molecule.racemic
    assert molecule.smiles == molecule.one_hand + " |&1:1|"
    assert Molecule.from_smiles(molecule.one_hand).smiles == molecule.one_hand
    assert molecule.as_racemate() is molecule


@pytest.mark.parametrize("smiles", [ALANINE, PSEUDOEPHEDRINE, "C/C=C/[C@H](F)O"])
def test_the_mark_is_that_of_rdkit(smiles):
    molecule = Molecule.from_smiles(smiles).as_racemate()
    (group,) = Chem.MolFromSmiles(molecule.smiles).GetStereoGroups()
    assert group.GetGroupType() == Chem.StereoGroupType.STEREO_AND
    centres = [a.GetIdx() for a in group.GetAtoms()]
    assert centres == list(stereo_of(molecule).centres)
    again = Molecule.from_smiles(molecule.smiles)
    assert (again.smiles, again.racemic) == (molecule.smiles, True)
    assert (again.numbers == molecule.numbers).all()


def test_without_a_mark_one_hand_is_meant():
    assert not Molecule.from_smiles(ALANINE).racemic
    # one of the two, unknown which: the crystals of either are mirror images
    for mark in ("|o1:1|", "|a:1|"):
        molecule = Molecule.from_smiles(f"{ALANINE} {mark}")
        assert (molecule.smiles, molecule.racemic) == (ALANINE, False)


@pytest.mark.parametrize("smiles", ["CC(N)C(=O)O", "c1ccccc1", "C/C=C/C", MESO])
def test_what_has_no_two_hands_makes_no_racemate(smiles):
    with pytest.raises(UserInputError, match=r"no two hands .* leave racemic out"):
        Molecule.from_smiles(smiles).as_racemate()


@pytest.mark.parametrize("mark", ["|&1:1|", "|&1:1,&2:3|", "|o1:1,o2:3|", "|&1:1,o2:3|"])
def test_mixtures_of_diastereomers_are_refused(mark):
    with pytest.raises(UserInputError, match="marks a mixture of diastereomers"):
        Molecule.from_smiles(f"C[C@H](N)[C@@H](F)O {mark}")


@pytest.fixture(scope="module")
def pools():
    """Conformers of the enantiomer that the mark writes, and of the racemate."""
    racemate = Molecule.from_smiles(PSEUDOEPHEDRINE).as_racemate()
    pure = Molecule.from_smiles(racemate.one_hand)
    return conformer_pool(pure), conformer_pool(racemate)


def test_a_racemate_takes_both_hands_and_an_enantiomer_one(pools):
    pure, racemate = pools
    assert (pure.positions == racemate.positions).all()
    right = pure.heavy[:2]
    for pool, wrong in ((pure, True), (racemate, False)):
        assert flipped_molecules(right, pool).tolist() == [False, False]
        assert flipped_molecules(-right, pool).tolist() == [wrong, wrong]
        assert mirror_is_better(-right, pool) is wrong
        assert pool.stereo.mirror_allowed is not wrong
        assert bool(pool.stereo.count_flipped(-pool.positions[0])) is wrong
    assert fit_conformer(-right[0], racemate).rmsd == pytest.approx(0.0, abs=1e-6)
    assert fit_conformer(-right[0], racemate).mirrored
    assert fit_conformer(-right[0], pure).rmsd > 0.1


def test_a_racemate_does_not_take_the_diastereomer(pools):
    _, racemate = pools
    stereo = racemate.stereo
    for inverted, accepted in (
        ([False, False], True), ([True, True], True), ([True, False], False),
    ):  # fmt: skip
        assert stereo.accepts(np.array(inverted)) is accepted
        assert stereo.as_written(np.array(inverted)) is not any(inverted)


def test_hands_are_counted(pools):
    _, racemate = pools
    x = racemate.positions[0]
    found = racemate.stereo.left_handed(np.stack([x, -x, x]))
    assert found.tolist() == [False, True, False]
