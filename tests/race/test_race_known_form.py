"""The known form goes through the relaxations of a run, however its CIF is written."""

from pathlib import Path

import numpy as np
import pytest

from packflow_core.crystal.cif import read_cif, write_cif
from packflow_core.crystal.crystal import Crystal
from packflow_core.race.known_form import JSON, known_form, relax_known_form
from packflow_core.spec import make_spec
from packflow_core.stages.plan import make_plan

UREA = Path(__file__).parents[1] / "data" / "urea.cif"
VALUES = {"smiles": "NC(N)=O", "name": "urea", "z": [2], "engine": "springs"}


def spec(**values):
    return make_spec({**VALUES, **values})


@pytest.fixture(scope="module")
def relaxed():
    return relax_known_form(spec(), str(UREA))


def test_the_known_form_is_relaxed_and_still_itself(relaxed):
    assert relaxed["matches_reference"] is True
    assert relaxed["status"] == "ok"
    assert relaxed["z"] == 2
    assert relaxed["fmax_eV_A"] < 0.05
    assert 1.3 < relaxed["density_g_cm3"] < 1.6


def test_the_order_of_atoms_in_the_cif_does_not_matter(relaxed, tmp_path):
    crystal = read_cif(UREA)
    size = len(crystal) // crystal.z
    order = np.random.default_rng(0).permutation(size)
    places = np.concatenate([order + size * k for k in range(crystal.z)])
    shuffled = Crystal(crystal.numbers[places], crystal.positions[places], crystal.cell, crystal.z)
    write_cif(shuffled, tmp_path / "other.cif")
    again = relax_known_form(spec(), str(tmp_path / "other.cif"))
    assert again["energy_eV"] == pytest.approx(relaxed["energy_eV"], abs=2e-4)
    assert again["numbers"] == relaxed["numbers"]


def test_hydrogens_that_the_cif_lacks_are_added(relaxed, tmp_path):
    write_cif(read_cif(UREA).heavy_only(), tmp_path / "heavy.cif")
    again = relax_known_form(spec(), str(tmp_path / "heavy.cif"))
    assert again["matches_reference"] is True
    assert len(again["numbers"]) == len(relaxed["numbers"])
    assert again["density_g_cm3"] == pytest.approx(relaxed["density_g_cm3"], rel=0.05)


def plan_of(**values):
    return make_plan(
        spec(generator="random", reference=str(UREA), **values),
        {"name": "random", "sha256": "0" * 64},
    )


def test_it_is_relaxed_once(inline, tmp_path, monkeypatch):
    first = known_form(plan_of(), UREA, tmp_path)
    assert first.problem == ""
    assert first.matches
    assert first.energy_eV is not None
    from packflow_core.race import known_form as module

    def again(*_):
        raise AssertionError("relaxed twice")

    monkeypatch.setattr(module, "_in_worker", again)
    assert known_form(plan_of(), UREA, tmp_path) == first
    with pytest.raises(AssertionError):  # other parameters, other relaxation
        known_form(plan_of(relax={"fmax": 0.02}), UREA, tmp_path)


def test_what_goes_wrong_is_said_and_not_kept(inline, tmp_path):
    found = known_form(plan_of(relax={"max_steps": 1}), UREA, tmp_path)
    assert found.energy_eV is None
    assert found.problem.startswith("relax ended unconverged (max_steps")
    assert not (tmp_path / JSON).exists()


def test_an_engine_that_is_not_trusted_is_not_run(inline, tmp_path, monkeypatch):
    monkeypatch.setenv("PACKFLOW_ALLOW_ENGINES", "ase.calculators.lj:LennardJones")
    plan = plan_of(engine="ase:ase.calculators.lj:LennardJones")
    monkeypatch.delenv("PACKFLOW_ALLOW_ENGINES")
    assert "PACKFLOW_ALLOW_ENGINES" in known_form(plan, UREA, tmp_path).problem


def test_another_isomer_is_no_known_form(tmp_path):
    with pytest.raises(ValueError, match="its bonds are not those of the molecule"):
        relax_known_form(spec(smiles="N/C(O)=N/[H]"), str(UREA))
