import json
import shutil
from pathlib import Path

import pytest

from packflow_core import devices
from packflow_core.errors import UserInputError
from packflow_core.spec import make_spec
from packflow_core.stages import plan as module
from packflow_core.stages.generate import z_of_index
from packflow_core.stages.plan import (
    RunPlan,
    check_device,
    device_of,
    differences,
    make_plan,
    z_of,
)
from packflow_core.store.schema import STAGES

DATA = Path(__file__).parents[1] / "data"
UREA = {"smiles": "NC(N)=O", "name": "urea", "z": [2], "n": 8}


def plan(**values):
    return make_plan(make_spec({**UREA, **values}))


def changed(**values):
    """Stages whose key differs from that of the plain run."""
    return differing(plan(), plan(**values))


def differing(one, two):
    """Stages of the second that the first has not, or with another key."""
    keys = {name: stage.key for name, stage in one.stages.items()}
    return [name for name in two.stage_names if keys.get(name) != two.key(name)]


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


def test_refinements_are_stages_of_their_own_before_the_ranking():
    assert plan().stage_names == STAGES
    two = plan(refine=["springs:10", "gfnff"])
    assert two.stage_names == (
        "generate", "hydrogenate", "relax_h", "relax", "relax_2", "relax_3", "rank",
    )  # fmt: skip
    before = {name: two.upstream_of(name) for name in two.stage_names}
    assert (before["generate"], before["relax_2"], before["rank"]) == (None, "relax", "relax_3")
    assert two.stages["relax_2"].identity.startswith("springs")
    assert two.engine == two.stages["relax_3"].identity == two.stages["relax"].identity
    # Relaxations that are shared keep their keys, and each refinement has its own.
    assert changed(refine=["springs:10"]) == ["relax_2", "rank"]
    assert len({stage.key for stage in two.stages.values()}) == 7


REFINE = [{"engine": "springs", "window_kJ_mol": 10.0}, {"engine": "springs"}]


@pytest.mark.parametrize(
    ("step", "change", "first"),
    [
        (0, {"window_kJ_mol": 11.0}, "relax_2"),
        (0, {"engine": "gfnff"}, "relax_2"),
        (0, {"relax": {"fmax": 0.01}}, "relax_2"),
        (1, {"window_kJ_mol": 11.0}, "relax_3"),
        (1, {"engine": "gfnff"}, "relax_3"),
        (1, {"relax": {"protocol": "paper"}}, "relax_3"),
    ],
)
def test_a_refinement_changes_the_keys_from_its_stage_on(step, change, first):
    other = [dict(refinement) for refinement in REFINE]
    other[step].update(change)
    one, two = plan(refine=REFINE), plan(refine=other)
    assert differing(one, two) == list(two.stage_names[two.stage_names.index(first) :])
    assert differences(one, two)[0].startswith(f"refine.{first}.")


def test_foreign_code_needs_permission(monkeypatch):
    name = "ase:ase.calculators.lj:LennardJones"
    monkeypatch.delenv("PACKFLOW_ALLOW_ENGINES", raising=False)
    for values in ({"engine": name}, {"refine": [f"{name}:10"]}):
        with pytest.raises(UserInputError, match="PACKFLOW_ALLOW_ENGINES"):
            plan(**values)
    monkeypatch.setenv("PACKFLOW_ALLOW_ENGINES", "ase.calculators.lj:*")
    assert plan(refine=[f"{name}:10"]).stages["relax_2"].identity.startswith(name)


def test_what_is_recorded_needs_no_engine(monkeypatch):
    """A ranking can be renewed where an engine is missing, or not allowed."""
    from packflow_core.engines import registry

    one = plan(refine=["springs"])
    kept = {name: stage.identity for name, stage in one.stages.items() if name != "rank"}

    def missing(name):
        raise UserInputError(f"{name} is not installed")

    monkeypatch.setattr(registry, "engine_identity", missing)
    assert make_plan(one.spec, one.generator, kept) == one
    with pytest.raises(UserInputError, match="not installed"):
        make_plan(one.spec, one.generator)


def test_only_engines_that_can_use_a_gpu_get_one(monkeypatch):
    from packflow_core.engines import registry

    traits = {"gfnff": False, "springs": True}
    monkeypatch.setattr(
        registry, "engine_traits", lambda name: registry.EngineTraits(False, traits[name])
    )
    spec = plan(refine=["springs"]).spec
    assert {s: device_of(spec, s, "cuda") for s in ("hydrogenate", "relax", "relax_2", "rank")} == {
        "hydrogenate": "cpu", "relax": "cpu", "relax_2": "cuda", "rank": "cpu",
    }  # fmt: skip
    seen = []
    monkeypatch.setattr(devices, "make_seats", lambda *args, gpu: seen.append((*args, gpu)))
    check_device(spec, 3, "cuda")
    check_device(plan().spec, None, "auto")
    assert seen == [(3, "cuda", True), (None, "auto", False)]


def test_a_device_that_no_engine_can_use_is_refused():
    check_device(plan().spec, None, "cpu")
    for device in ("cuda", "toaster"):
        with pytest.raises(UserInputError, match=device):
            check_device(plan().spec, None, device)


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
    one = plan(reference=str(DATA / "urea.cif"), refine=["springs:7.5", "gfnff"])
    assert RunPlan.from_json(json.loads(json.dumps(one.to_json()))) == one


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


def test_limits_of_a_result_count_where_they_are_not_the_usual_ones():
    """Relaxations of before there were limits keep their keys."""
    assert changed(relax={"max_density_ratio": 1.7}) == []
    assert changed(relax={"max_density_ratio": 1.6}) == ["relax", "rank"]
    assert changed(rank={"max_density_ratio": 1.6}) == ["rank"]
    content = json.loads(json.dumps(plan().to_json()))
    for name in ("min_density_ratio", "max_density_ratio", "bond_tolerance_A"):
        del content["spec"]["relax"][name]
    assert differences(RunPlan.from_json(content), plan()) == []
    assert differences(plan(relax={"max_density_ratio": 1.6}), plan()) == [
        "relax.max_density_ratio is 1.6 there and 1.7 here"
    ]
