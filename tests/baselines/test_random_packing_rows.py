import numpy as np
import pytest
from packing_molecules import ASPIRIN, SMALL

from packflow_core.baselines.press_params import PressParams
from packflow_core.baselines.random_packing import PackParams
from packflow_core.baselines.random_params import RandomParams
from packflow_core.baselines.random_rows import random_rows
from packflow_core.chem.conformer_params import ConformerParams
from packflow_core.chem.conformer_pool import conformer_ensemble
from packflow_core.chem.molecule import Molecule
from packflow_core.crystal.contacts import min_contact_ratio
from packflow_core.errors import UserInputError
from packflow_core.store.journal import rows_to_batch
from packflow_core.store.rows import crystal_of, same_result
from packflow_core.store.schema import stage_schema

QUICK = RandomParams(press=PressParams(wanted_contact=0.95))


def rows(indices, smiles=SMALL, params=QUICK, z_values=(2, 4), seed=1, lowest=100, **kwargs):
    pool = conformer_ensemble(
        Molecule.from_smiles(smiles), ConformerParams(n_embed=10, max_conformers=lowest)
    )
    return random_rows(
        indices, conformers=pool, z_values=z_values, seed=seed, target="t", params=params, **kwargs
    )


def test_rows_are_those_of_the_stage_generate_with_hydrogens():
    found = rows(range(6))
    assert rows_to_batch(found, stage_schema("generate")).num_rows == 6
    molecule = Molecule.from_smiles(SMALL)
    for index, row in enumerate(found):
        z = (2, 4)[index % 2]
        assert row["candidate_id"] == f"t-z{z}-{index:06d}"
        assert (row["status"], row["method"], row["z"]) == ("ok", "random+press", z)
        crystal = crystal_of(row)
        assert crystal.numbers.tolist() == molecule.numbers_h.tolist() * z
        assert row["density_g_cm3"] == pytest.approx(crystal.density)
        assert row["bonds_ok"] == 1.0
        assert min_contact_ratio(crystal).ratio >= 0.85
        assert 1 <= row["space_group_drawn"] <= 230
        assert row["n_steps"] > 10


def test_rows_do_not_depend_on_what_is_asked_for_with_them():
    many = rows(range(8))
    for index in (5, 0, 6):
        assert same_result(rows([index])[0], many[index])
    some = rows([7, 3])
    assert [row["index"] for row in some] == [7, 3]
    assert same_result(some[1], many[3])
    assert not same_result(rows([3], seed=2)[0], many[3])


def test_random_packing_alone_is_loose():
    found = rows(range(4), method="random")
    assert {row["method"] for row in found} == {"random"}
    assert all(row["status"] == "ok" for row in found)
    pressed = rows(range(4))
    for before, after in zip(found, pressed, strict=True):
        assert before["space_group_drawn"] == after["space_group_drawn"]
        assert before["volume_A3"] > 1.2 * after["volume_A3"]


def test_conformers_take_turns_at_random():
    found = rows(range(24), smiles=ASPIRIN)
    assert {row["conformer"] for row in found} == {0, 1}
    assert {row["conformer"] for row in rows(range(6), smiles=ASPIRIN, lowest=1)} == {0}


def test_failures_are_rows():
    tight = PackParams(volume_factor=0.8, max_volume_factor=0.8, attempts=1)
    found = rows(range(4), params=QUICK.model_copy(update={"pack": tight}))
    assert {(row["status"], row["reason"]) for row in found} == {("failed", "overlap")}
    assert all("overlap" in row["detail"] and row.get("positions") is None for row in found)
    assert rows_to_batch(found, stage_schema("generate")).num_rows == 4
    strict = PressParams(wanted_contact=0.8, min_contact=0.95, max_growth=1.0)
    found = rows(range(2), params=QUICK.model_copy(update={"press": strict}))
    assert {(row["status"], row["reason"]) for row in found} == {("failed", "overlap")}


def test_a_z_without_a_space_group_is_a_user_error():
    with pytest.raises(UserInputError, match="puts 5 molecules"):
        rows([0], z_values=(5,))


def test_densities_are_near_the_one_expected():
    params = RandomParams()
    density = [row["density_g_cm3"] for row in rows(range(24), smiles=ASPIRIN, params=params)]
    # 1.40 g/cm3 in the crystal at room temperature, 1.43 at 100 K.
    assert np.median(density) == pytest.approx(1.42, rel=0.06)
