import pytest

from packflow_core.errors import UserInputError
from packflow_core.spec import (
    RunSpec,
    engine_of,
    make_spec,
    parse_refinement,
    read_target,
    relax_params_of,
)

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
            "refine": [{"engine": "gfn1-xtb", "relax": {"fmax": 0.01}}, "springs:3"],
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
        ({"generator": " "}, ["generator = ' '", "name of a generator"]),
        ({"colour": "red"}, ["'colour' is not a field", "smiles, name, campaign"]),
        ({"relax": {"fmax": "low"}}, ["relax.fmax = 'low'", "number", "eV/Å"]),
        ({"relax": {"fmx": 1}}, ["'relax.fmx' is not a field", "fmax, max_steps"]),
        ({"relax": {"protocol": "h_only"}}, ["converged and paper"]),
        ({"relax_h": {"protocol": "paper"}}, ["h_only alone"]),
        ({"relax": 3}, ["relax = 3"]),
        ({"smiles": 7}, ["smiles = 7", "string"]),
        ({"refine": [{"engine": "a", "window_kJ_mol": 0}]}, ["refine.relax_2.window_kJ_mol = 0"]),
        ({"refine": ["a", "b:-1"]}, ["refine.relax_3.window_kJ_mol = -1", "greater than 0"]),
        ({"refine": [{"window_kJ_mol": 3}]}, ["'refine.relax_2.engine' is missing"]),
        ({"refine": [{"engine": "a", "z": 1}]}, ["'refine.relax_2.z' is not", "engine, window_kJ"]),
        ({"refine": [{"engine": "a", "relax": {"fmx": 1}}]}, ["refine.relax_2.relax.fmx", "fmax,"]),
        ({"refine": [{"engine": "a", "relax": {"protocol": "h_only"}}]}, ["converged and paper"]),
        ({"refine": {"relax_3": {"engine": "a"}}}, ["the stages relax_2 as keys"]),
        ({"refine": [""]}, ["refine.relax_2.engine = ''", "name of an energy engine"]),
        ({"refine": ["a"] * 9}, ["at most 8"]),
        ({"refine": 3}, ["refine = 3", "ENGINE:WINDOW"]),
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


@pytest.mark.parametrize(
    ("text", "engine", "window"),
    [
        ("gfn1-xtb:10", "gfn1-xtb", 10.0),
        ("gfn1-xtb", "gfn1-xtb", 40.0),
        ("uma:/models/small.pt", "uma:/models/small.pt", 40.0),
        ("uma:/models/small.pt:7.5", "uma:/models/small.pt", 7.5),
        ("ase:mod:factory", "ase:mod:factory", 40.0),
        ("ase:mod:factory:1e1", "ase:mod:factory", 10.0),
        ("ase:mod:f10", "ase:mod:f10", 40.0),
        ("ase:mod:inf", "ase:mod:inf", 40.0),
    ],
)
def test_a_refinement_is_an_engine_and_perhaps_a_window(text, engine, window):
    (step,) = make_spec({**UREA, "refine": [text]}).refine
    assert (step.engine, step.window_kJ_mol) == (engine, window)
    assert parse_refinement(text)["engine"] == engine
    assert step.relax.protocol == "converged"


def test_each_relaxation_has_its_engine_and_its_parameters():
    spec = make_spec(
        {
            **UREA, "engine": "gfnff", "relax": {"fmax": 0.1},
            "refine": ["springs:5", {"engine": "gfnff", "relax": {"fmax": 0.02}}],
        }
    )  # fmt: skip
    stages = ("relax_h", "relax", "relax_2", "relax_3")
    assert [engine_of(spec, s) for s in stages] == ["gfnff", "gfnff", "springs", "gfnff"]
    assert [relax_params_of(spec, s).fmax for s in stages] == [0.05, 0.1, 0.05, 0.02]
    assert spec.engines == ("gfnff", "springs")
    by_stage = {**UREA, "refine": {"relax_3": {"engine": "b"}, "relax_2": {"engine": "a"}}}
    assert [step.engine for step in make_spec(by_stage).refine] == ["a", "b"]
    for stage in ("relax_4", "rank"):
        with pytest.raises(ValueError, match="no relaxation of this run"):
            engine_of(spec, stage)


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
        "refine:\n  - springs:10\n  - engine: gfnff\n    window_kJ_mol: 3\n"
    )
    spec = make_spec(read_target(path))
    assert (spec.name, spec.z, spec.relax.protocol) == ("urea", (2,), "paper")
    assert spec.reference == str(tmp_path / "ref.cif")
    assert [(r.engine, r.window_kJ_mol) for r in spec.refine] == [("springs", 10.0), ("gfnff", 3.0)]
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
