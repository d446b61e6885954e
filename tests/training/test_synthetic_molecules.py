"""New molecules from pieces of known ones."""

import pytest

from packflow_core.chem.molecule import Molecule
from packflow_core.errors import UserInputError
from packflow_core.training.synthetic_molecules import (
    brics_pieces,
    recombine,
    skeleton_key,
    skeleton_keys,
)

KNOWN = ["CCOC(C)=O", "COc1ccccc1", "CNC(=O)c1ccncc1", "O=C(NC1CCCC1)c1ccco1"]


def key(smiles):
    return skeleton_key(Molecule.from_smiles(smiles))


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Oc1ccccn1", "O=c1cccc[nH]1", True),  # tautomers
        ("NCC(=O)O", "[NH3+]CC(=O)[O-]", True),  # zwitterion
        ("C[C@H](N)C(=O)O", "C[C@@H](N)C(=O)O", True),  # enantiomers
        ("c1ccccc1", "C1CCCCC1", True),  # nothing but elements and connections counts
        ("Oc1ccccn1", "Oc1cccnc1", False),
        ("CCO", "COC", False),
    ],
)
def test_skeletons(one, other, same):
    assert (key(one) == key(other)) is same


def test_pieces_of_ethyl_acetate():
    """Both bonds of the ester oxygen are cut, and each molecule counts once."""
    pieces = brics_pieces(["CCOC(C)=O", "CCOCC", "C"])
    assert pieces["[4*]CC"] == 2
    assert pieces["[3*]O[3*]"] == 2
    assert pieces["[1*]C(C)=O"] == 1
    assert sum(pieces.values()) == 5
    assert list(pieces) == sorted(pieces)


@pytest.fixture(scope="module")
def pieces():
    return brics_pieces(KNOWN)


@pytest.fixture(scope="module")
def found(pieces):
    return recombine(pieces, 12, 3, known=KNOWN, min_heavy=5, max_heavy=14)


def test_new_molecules_are_new_different_and_of_the_right_size(found):
    assert len(found.smiles) == len(set(found.smiles)) == 12
    assert not set(found.smiles) & set(KNOWN)
    for text in found.smiles:
        molecule = Molecule.from_smiles(text)
        assert molecule.smiles == text
        assert 5 <= molecule.n_heavy <= 14
        # No piece has anything but these.
        assert set(molecule.numbers.tolist()) <= {6, 7, 8}


def test_a_shorter_list_is_the_beginning_of_a_longer_one(pieces, found):
    again = recombine(pieces, 5, 3, known=KNOWN, min_heavy=5, max_heavy=14)
    assert again.smiles == found.smiles[:5]
    other = recombine(pieces, 5, 4, known=KNOWN, min_heavy=5, max_heavy=14)
    assert other.smiles != again.smiles


def test_forbidden_skeletons_are_not_made(pieces, found):
    forbidden = skeleton_keys(found.smiles[:3])
    kept = recombine(pieces, 12, 3, known=KNOWN, forbidden=forbidden, min_heavy=5, max_heavy=14)
    assert not {key(text) for text in kept.smiles} & forbidden
    assert kept.refused["forbidden"] >= 3


def test_exhausted_pieces_end_the_search():
    """Methyl and an ether oxygen close to dimethyl ether alone, of three heavy atoms."""
    result = recombine(brics_pieces(["CCOCC"]), 3, 0, min_heavy=4, max_heavy=6)
    assert result.smiles == ["CCOCC"]
    assert result.refused["repeated"] > 10


def test_molecules_without_bonds_to_cut_are_refused():
    with pytest.raises(UserInputError, match="training_share=1"):
        recombine(brics_pieces(["c1ccccc1"]), 3, 0)
