"""What must be equal, and what is said where it is not."""

import dataclasses

import pytest
from race_runs import Candidate

from packflow_core.errors import UserInputError
from packflow_core.race.fairness import check_comparable, remarks
from packflow_core.race.legs import read_legs

ONE = [Candidate()]


def pair(write, **values):
    a = write("a", ONE)
    return read_legs([a, write("b", ONE, generator="random+press", **values)])


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"smiles": "CO"}, r"smiles is C=O in \S+a and CO in \S+b"),
        ({"z": [2, 4]}, r"z is 2 in \S+a and 2,4 in \S+b"),
        ({"engine": "gfnff"}, r"engine is springs in \S+a and gfnff in \S+b"),
        ({"hydrogenate": {"repair": False}}, r"hydrogenate.repair is True in \S+a and False in"),
        ({"relax_h": {"max_steps": 9}}, r"relax_h.max_steps is 25 in \S+a and 9 in"),
        ({"relax": {"fmax": 0.1}}, r"relax.fmax is 0.05 in \S+a and 0.1 in"),
        ({"relax": {"protocol": "paper"}}, "relax.protocol is converged"),
        ({"refine": ["springs:5"]}, r"refine.relax_2.engine is not given in \S+a and springs in"),
        ({"rank": {"shell_size": 20}}, r"rank.shell_size is 15 .*; make them equal with 'csp rank"),
    ],
)
def test_unfair_comparisons_are_refused_with_field_and_values(write, values, says):
    with pytest.raises(UserInputError, match=says):
        check_comparable(pair(write, **values))


def test_another_version_of_the_engine_is_refused(write):
    a, b = pair(write)
    stages = {
        name: dataclasses.replace(stage, identity="springs/demo0") if name == "relax" else stage
        for name, stage in b.plan.stages.items()
    }
    newer = dataclasses.replace(b, plan=dataclasses.replace(b.plan, stages=stages))
    with pytest.raises(UserInputError, match=r"engine of relax is springs/\S+ .* springs/demo0"):
        check_comparable([a, newer])


def test_what_belongs_to_the_generator_may_differ(write):
    legs = pair(write, seed=3, generate={"steps": 5}, max_failed=0.9, name="other")
    check_comparable(legs)
    assert remarks(legs) == ["The runs have no reference crystal, so there are no hits to count."]


def test_machines_devices_versions_and_unfinished_runs_are_told(write):
    a = write("a", [Candidate() for _ in range(4)], unfinished=[(2, "relax")])
    elsewhere = {("relax", "host"): "there", ("relax", "device"): "cuda:0"}
    legs = read_legs([a, write("b", [Candidate(more=elsewhere)], generator="random+press")])
    legs[1].content["versions"]["spglib"] = "1.0"
    told = "\n".join(remarks(legs))
    assert "random: the run is not finished; of its 4 candidates the first 2 have" in told
    assert "different machines (random: here; random+press: here, there)" in told
    assert "different devices (random: cpu; random+press: cpu, cuda:0)" in told
    assert "different versions of spglib" in told
