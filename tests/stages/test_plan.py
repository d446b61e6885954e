import shutil
from pathlib import Path

import pytest

from packflow_core.errors import UserInputError
from packflow_core.spec import make_spec
from packflow_core.stages import plan as module
from packflow_core.stages.generate import z_of_index
from packflow_core.stages.plan import RunPlan, differences, make_plan, z_of
from packflow_core.store.schema import STAGES

DATA = Path(__file__).parents[1] / "data"
UREA = {"smiles": "NC(N)=O", "name": "urea", "z": [2], "n": 8}


def plan(**values):
    return make_plan(make_spec({**UREA, **values}))


def changed(**values):
    """Stages whose key differs from that of the plain run."""
    one, two = plan(), plan(**values)
    return [stage for stage in STAGES if one.key(stage) != two.key(stage)]


pytestmark = pytest.mark.usefixtures("stub_generator")


@pytest.mark.parametrize(
    ("values", "first"),
    [
        ({"seed": 1}, "generate"),
        ({"z": [4]}, "generate"),
        ({"smiles": "CC"}, "generate"),
        ({"generator": "other"}, "generate"),
        ({"generate": {"steps": 7}}, "generate"),
        ({"hydrogenate": {"repair": False}}, "hydrogenate"),
        ({"relax_h": {"max_steps": 7}}, "relax_h"),
        ({"relax": {"fmax": 0.01}}, "relax"),
        ({"relax": {"protocol": "paper"}}, "relax"),
        ({"rank": {"symprec_A": 0.2}}, "rank"),
        ({"reference": str(DATA / "urea.cif")}, "rank"),
    ],
)
def test_a_parameter_changes_the_keys_from_its_stage_on(values, first):
    assert changed(**values) == list(STAGES[STAGES.index(first) :])


@pytest.mark.parametrize("values", [{"n": 999}, {"max_failed": 0.1}, {"smiles": "C(=O)(N)N"}])
def test_what_changes_no_row_changes_no_key(values):
    assert changed(**values) == []


def test_the_version_of_an_engine_is_part_of_the_keys(monkeypatch):
    from packflow_core.engines import registry

    before = plan()
    monkeypatch.setattr(registry, "engine_identity", lambda name: f"{name}, another version")
    after = plan()
    assert before.key("hydrogenate") == after.key("hydrogenate")
    assert before.key("relax_h") != after.key("relax_h")
    monkeypatch.setattr(module, "SCHEMA_VERSION", 999)
    assert plan().key("generate") != before.key("generate")


def test_a_reference_counts_by_content_not_by_path(tmp_path):
    copy = tmp_path / "copy.cif"
    shutil.copy(DATA / "urea.cif", copy)
    one, two = plan(reference=str(DATA / "urea.cif")), plan(reference=str(copy))
    assert one.key("rank") == two.key("rank")
    assert differences(one, two) == []
    copy.write_text(copy.read_text() + "\n# changed\n")
    assert one.key("rank") != plan(reference=str(copy)).key("rank")


def test_a_plan_comes_back_from_json():
    one = plan(reference=str(DATA / "urea.cif"))
    assert RunPlan.from_json(one.to_json()) == one


def test_differences_name_field_and_both_values():
    assert differences(plan(), plan()) == []
    assert differences(plan(), plan(n=9, max_failed=0.9)) == []
    assert differences(plan(n=9), plan()) == ["n is 9 there and 8 here (it may only grow)"]
    (phrase,) = differences(plan(), plan(relax={"fmax": 0.01}))
    assert phrase == "relax.fmax is 0.05 there and 0.01 here"
    phrases = differences(plan(), plan(reference=str(DATA / "urea.cif"), seed=4))
    assert phrases[0] == "seed is 0 there and 4 here"
    assert phrases[1].startswith("reference is not given there and a file with sha256 ")


def test_a_candidate_keeps_its_z_when_n_grows():
    assert [z_of(i, (2, 4, 8)) for i in range(7)] == [2, 4, 8, 2, 4, 8, 2]
    # The sampler follows the same rule.
    assert all(z_of(i, (1, 3)) == z_of_index(i, (1, 3))[0] for i in range(9))


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"engine": "nope"}, "nope"),
        ({"reference": "/no/such.cif"}, "/no/such.cif cannot be read"),
        ({"reference": __file__}, Path(__file__).name),
        ({"reference": str(DATA / "benzene.cif")}, "holds molecules of C6"),
    ],
)
def test_a_wrong_input_is_found_before_anything_starts(values, says):
    with pytest.raises(UserInputError) as caught:
        plan(**values)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_loader_that_breaks_means_a_corrupt_checkpoint(monkeypatch):
    from packflow_core.stages import generate

    def broken(name):
        raise IndexError("list index out of range")

    monkeypatch.setattr(generate, "generator_identity", broken)
    with pytest.raises(UserInputError, match=r"packflow-open cannot be loaded \(IndexError"):
        plan()
