"""Campaign files: the shipped blind tests agree with themselves, and faults are one sentence."""

from pathlib import Path

import gemmi
import pytest
import yaml
from rdkit.Chem.rdMolDescriptors import CalcNumRotatableBonds

from packflow_core.campaign import Campaign, find_campaign, read_campaign, shipped_campaigns
from packflow_core.chem.elements import SUPPORTED_SYMBOLS
from packflow_core.chem.molecule import Molecule
from packflow_core.errors import UserInputError

BLIND_TEST = read_campaign(find_campaign("blind-test"))
FORMS = [(t, form) for t in BLIND_TEST.targets for form in t.known]
#: Operations of the space groups that the known forms have, centring included.
OPERATIONS = {2: 2, 14: 4, 15: 8, 19: 4, 61: 8}


def test_the_shipped_campaign_is_found_by_name_and_by_path(tmp_path):
    assert shipped_campaigns() == ["blind_test"]
    assert find_campaign("blind_test") == find_campaign("blind-test")
    assert find_campaign(str(find_campaign("blind_test"))).is_file()
    with pytest.raises(UserInputError, match=r"no campaign file nowhere; .*blind_test\."):
        find_campaign("nowhere")
    with pytest.raises(UserInputError, match="no campaign file"):
        find_campaign(str(tmp_path / "blind_test"))  # a path, not a name


@pytest.mark.parametrize("target", BLIND_TEST.targets, ids=lambda t: t.name)
def test_a_target_is_what_it_says(target):
    molecule = Molecule.from_smiles(target.smiles)
    assert molecule.formula == target.formula
    assert {atom.GetSymbol() for atom in molecule.rdmol.GetAtoms()} <= set(SUPPORTED_SYMBOLS)
    bonds = CalcNumRotatableBonds(molecule.rdmol)
    tier = "rigid" if bonds <= 1 else "moderate" if bonds <= 3 else "flexible"
    assert target.tier == tier
    assert target.blind_test in BLIND_TEST.citations
    assert target.label
    # A run that is asked for nothing samples cells that the known forms have, as primitive cells.
    spec = BLIND_TEST.spec_of(target)
    for form in target.known:
        centred = 2 if form.space_group.startswith("C") else 1
        assert form.z // centred in spec.z


@pytest.mark.parametrize(("target", "form"), FORMS, ids=[form.refcode for _, form in FORMS])
def test_a_known_form_agrees_with_its_molecule(target, form):
    assert form.refcode.startswith(target.name)
    # Every form fills its cell with whole asymmetric units.
    assert form.z % OPERATIONS[form.space_group_number] == 0
    if form.cell is None:
        return
    molecule = Molecule.from_smiles(target.smiles)
    volume = gemmi.UnitCell(*form.cell).volume
    density = form.z * molecule.mass / volume * 1.66053906660
    assert density == pytest.approx(form.density, abs=0.0015)
    # 14 to 31 Å3 a heavy atom: from hydantoin, dense with hydrogen bonds, to solid propane.
    assert 14 < volume / form.z / molecule.n_heavy < 31


def test_the_numbers_of_the_blind_tests_are_complete():
    """Targets and those left out are I to XXXIII, each once."""
    roman = {1: "I", 4: "IV", 5: "V", 9: "IX", 10: "X"}

    def numeral(n):
        text = ""
        for value in sorted(roman, reverse=True):
            while n >= value:
                text, n = text + roman[value], n - value
        return text

    labels = [t.label for t in BLIND_TEST.targets] + list(BLIND_TEST.left_out)
    assert sorted(labels) == sorted(numeral(n) for n in range(1, 34))


def test_a_target_that_was_left_out_is_refused_with_the_reason():
    with pytest.raises(UserInputError, match=r"The target xv is not part of .*: co-crystal"):
        BLIND_TEST.select(["xv"])


def write(tmp_path, **changes):
    content = {"name": "mine", "targets": [{"name": "urea", "smiles": "NC(N)=O"}], **changes}
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_a_spec_takes_defaults_then_the_target_then_the_wish(tmp_path):
    path = write(
        tmp_path,
        defaults={"n": 7, "engine": "gfn1-xtb", "z": [2]},
        targets=[
            {"name": "a", "smiles": "C", "z": [4], "run": {"n": 9}, "reference": "known.cif"},
            {"name": "b", "smiles": "CC", "label": "II"},
        ],
    )
    campaign = read_campaign(path)
    a, b = campaign.targets
    ours = campaign.spec_of(b)
    assert (ours.n, ours.z, ours.engine, ours.campaign, ours.name) == (
        7, (2,), "gfn1-xtb", "mine", "b"
    )  # fmt: skip
    theirs = campaign.spec_of(a, {"engine": "gfnff", "seed": 3})
    assert (theirs.n, theirs.z, theirs.engine, theirs.seed) == (9, (4,), "gfnff", 3)
    assert theirs.reference == str(tmp_path / "known.cif")
    assert [t.name for t in campaign.select(["ii", "A"])] == ["a", "b"]
    with pytest.raises(UserInputError, match="has no target 'c'; its targets are a, b"):
        campaign.select(["c"])
    with pytest.raises(UserInputError, match="n = 0 in target b is not allowed"):
        campaign.spec_of(b, {"n": 0})


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"targets": []}, "at targets"),
        ({"targets": [{"name": "x", "smiles": "C", "colour": 1}]}, r"at target x\.colour"),
        ({"targets": [{"name": "x", "smiles": "C", "formula": "C2H6"}]}, "x is CH4 by its SMILES"),
        ({"targets": [{"name": "x", "smiles": "[Cu]"}]}, "contains Cu"),
        ({"targets": [{"name": "x", "smiles": "C"}, {"name": "X", "smiles": "CC"}]}, "called x"),
        ({"defaults": {"campaign": "other"}}, "the field campaign is set by the campaign itself"),
        (
            {"targets": [{"name": "x", "smiles": "C", "known": [
                {"refcode": "XXXXXX", "z": 4, "density": 1.0, "cell": [5, 5, 5, 90, 90, 90]}]}]},
            "XXXXXX has 0.852 g/cm3 by its cell, z and formula, not 1.000",
        ),
        (
            {"targets": [{"name": "x", "smiles": "C", "known": [
                {"refcode": "XXXXXX", "space_group": "P 1 21/q 1"}]}]},
            "'P 1 21/q 1' is not a space group",
        ),
    ],
)  # fmt: skip
def test_a_fault_is_one_sentence_with_its_place(tmp_path, changes, sentence):
    path = write(tmp_path, **changes)
    with pytest.raises(UserInputError, match=sentence) as caught:
        read_campaign(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["[1, 2]", "a: [", "\x00"])
def test_what_is_no_campaign_is_refused(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(UserInputError, match="campaign file"):
        read_campaign(path)
    with pytest.raises(UserInputError, match="cannot be read"):
        read_campaign(Path(tmp_path / "gone.yaml"))


def test_a_campaign_needs_a_target():
    with pytest.raises(ValueError, match="targets"):
        Campaign(name="x", targets=())
