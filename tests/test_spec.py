import pytest

from packflow_core.errors import UserInputError
from packflow_core.spec import RunSpec, make_spec, read_target

UREA = {"smiles": "O=C(N)N"}


def test_two_spellings_of_a_molecule_are_one_run():
    one, two = make_spec(UREA), make_spec({"smiles": " NC(N)=O "})
    assert one == two
    assert one.smiles == "NC(N)=O"
    assert one.name.startswith("CH4N2O-")
    assert make_spec({"smiles": "CC"}).name != one.name


def test_z_is_sorted_and_without_repetition():
    assert make_spec({**UREA, "z": [4, 2, 4]}).z == (2, 4)
    assert make_spec({**UREA, "z": 3}).z == (3,)


def test_plain_types_and_back():
    spec = make_spec(
        {
            **UREA, "z": [1], "n": 7, "seed": 5, "generate": {"steps": 3},
            "relax_h": {"max_steps": 4}, "relax": {"protocol": "paper"},
        }
    )  # fmt: skip
    assert (spec.relax_h.protocol, spec.relax_h.max_steps) == ("h_only", 4)
    assert RunSpec.model_validate(spec.model_dump(mode="json")) == spec
    assert RunSpec.model_validate_json(spec.model_dump_json()) == spec


def test_a_spec_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        make_spec(UREA).n = 3


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"z": [0]}, ["z = 0", "from 1 to 16"]),
        ({"z": [2, 17]}, ["z = 2,17", "from 1 to 16"]),
        ({"z": []}, ["z = (nothing)", "from 1 to 16"]),
        ({"z": ["two"]}, ["z = 'two'", "integer"]),
        ({"n": 0}, ["n = 0", "from 1 to 1000000"]),
        ({"n": 2.5}, ["n = 2.5", "integer"]),
        ({"seed": -1}, ["seed = -1", "0 to 2^63 - 1"]),
        ({"name": "a/b"}, ["name = 'a/b'", "letters, digits"]),
        ({"name": ".."}, ["name = '..'", "letters, digits"]),
        ({"campaign": ""}, ["campaign = ''", "letters, digits"]),
        ({"max_failed": 2}, ["max_failed = 2", "from 0 to 1"]),
        ({"generator": "random"}, ["generator = 'random'", "not part of this version"]),
        ({"colour": "red"}, ["'colour' is not a field", "smiles, name, campaign"]),
        ({"relax": {"fmax": "low"}}, ["relax.fmax = 'low'", "number", "eV/Å"]),
        ({"relax": {"fmx": 1}}, ["'relax.fmx' is not a field", "fmax, max_steps"]),
        ({"relax": {"protocol": "h_only"}}, ["converged and paper"]),
        ({"relax_h": {"protocol": "paper"}}, ["h_only alone"]),
        ({"relax": 3}, ["relax = 3"]),
        ({"smiles": 7}, ["smiles = 7", "string"]),
    ],
)
def test_a_wrong_value_is_one_sentence_with_field_value_and_remedy(values, says):
    with pytest.raises(UserInputError) as caught:
        make_spec({**UREA, **values})
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")
    for text in says:
        assert text in message


def test_the_molecule_is_checked_by_the_spec():
    with pytest.raises(UserInputError, match="has 2 components"):
        make_spec({"smiles": "O.O"})
    with pytest.raises(UserInputError, match="'smiles' is missing"):
        make_spec({"n": 3})


def test_the_method_of_a_checkpoint_file_is_its_name():
    assert make_spec({**UREA, "generator": "some/folder/my model.v2.pt"}).method == "my_model.v2"
    assert make_spec(UREA).default_folder().parts[:2] == ("runs", "single")
    assert make_spec({**UREA, "name": "urea"}).default_folder("r").parts == (
        "r", "single", "urea", "packflow-open",
    )  # fmt: skip


def test_a_target_file_gives_the_fields_and_paths_beside_it(tmp_path):
    (tmp_path / "weights.pt").write_bytes(b"")
    path = tmp_path / "urea.yaml"
    path.write_text(
        "name: urea\nsmiles: O=C(N)N\nz: [2]\nreference: ref.cif\ngenerator: weights.pt\n"
        "relax:\n  protocol: paper\n"
    )
    spec = make_spec(read_target(path))
    assert (spec.name, spec.z, spec.relax.protocol) == ("urea", (2,), "paper")
    assert spec.reference == str(tmp_path / "ref.cif")
    assert spec.generator == str(tmp_path / "weights.pt")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "cannot be read"),
        (b"smiles: [", "not valid YAML at line"),
        (b"- a\n- b\n", "'field: value' lines"),
        (b"name: x\n", "at least 'smiles'"),
        (b"\xff\xfe\x00", "cannot be read"),
    ],
)
def test_a_bad_target_file_is_one_sentence(tmp_path, content, says):
    path = tmp_path / "t.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserInputError, match=says) as caught:
        read_target(path)
    assert str(path) in str(caught.value)
