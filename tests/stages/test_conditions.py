"""Conditions of a run: shares of Z, windows, racemates, from the spec to the rows."""

from collections import Counter

import numpy as np
import pytest

from packflow_core.baselines.random_params import RandomParams
from packflow_core.baselines.random_rows import random_rows
from packflow_core.chem.conformer_params import ConformerParams
from packflow_core.chem.conformer_pool import conformer_ensemble
from packflow_core.chem.conformers import conformer_pool
from packflow_core.chem.molecule import Molecule
from packflow_core.chem.stereo import stereo_of
from packflow_core.crystal.crystal import Crystal
from packflow_core.errors import UserInputError
from packflow_core.model.checkpoint import load_model
from packflow_core.model.sampler import Sampler, Schedule
from packflow_core.spec import make_spec, read_target
from packflow_core.stages import generate as stage
from packflow_core.stages.generators import block_size, make_rows
from packflow_core.stages.hydrogenate import HydrogenateParams, hydrogenate
from packflow_core.stages.plan import differences, make_plan
from packflow_core.stages.run_store import OpenRun, plan_for
from packflow_core.store.rows import crystal_columns, crystal_of

ALANINE = "C[C@H](N)C(=O)O"
UREA = "NC(N)=O"


def spec(**fields):
    return make_spec({"smiles": UREA, "n": 24, **fields})


@pytest.fixture
def quick(monkeypatch):
    """A sampler that is done soon."""
    wanted = stage.schedule_of
    monkeypatch.setattr(
        stage, "schedule_of", lambda p, preset: Schedule(2, wanted(p, preset).solver)
    )


def rows_of(tmp_path, made, indices=None):
    with OpenRun(tmp_path / "run", plan_for(made, tmp_path / "run"), []) as run:
        return make_rows(run, [(i, 1) for i in indices or range(made.n)])


# -- shares -------------------------------------------------------------------------------
@pytest.mark.parametrize("written", [{2: 100, 4: 300}, {"4": 3, "2": 1}, "2:1,4:3"])
def test_shares_in_a_spec(written):
    made = spec(z=written)
    assert (made.z, made.z_shares, made.z_cycle) == ((2, 4), (1, 3), (4, 2, 4, 4))
    assert make_spec(made.model_dump(mode="json")) == made


def test_even_shares_are_the_plain_list():
    plain, even = spec(z=[4, 2]), spec(z={2: 50, 4: 50})
    assert even == plain
    assert plain.z_cycle == (2, 4)
    assert make_plan(even).key("generate") == make_plan(plain).key("generate")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"z": {2: 0, 4: 1}}, "a share is a whole number from 1 to 1000"),
        ({"z": {2: 1, 17: 1}}, "whole numbers from 1 to 16"),
        ({"z": {"x": 1}}, "z = 'x' is not allowed"),
        ({"z": {2: 1.5}}, "valid integer"),
        ({"z": [2, 4], "z_shares": [1]}, "one share for each of the 2 Z values"),
        ({"z": {}}, "one or more whole numbers"),
        ({"density": "1.6:1.2"}, "lower end of a window comes first"),
        ({"density": 1.3}, "a window is LOW:HIGH"),
        ({"density": "1300:1400"}, "out of reach: about 1.4"),
        ({"volume": ["a", 3]}, "valid number"),
        ({"racemic": True}, "no two hands"),
    ],
)
def test_mistakes_are_one_sentence(fields, words):
    with pytest.raises(UserInputError) as caught:
        spec(**fields)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_conditions_are_part_of_the_run_and_absent_ones_are_not():
    plain = make_plan(spec())
    keys = {plain.key("generate")}
    for fields, says in (
        ({"z": {2: 1, 4: 3}}, "z_shares is not given there and 1,3 here"),
        ({"density": "1.2:1.5"}, "density is not given there and 1.2,1.5 here"),
        ({"volume": "60:80"}, "volume is not given there and 60.0,80.0 here"),
    ):
        other = make_plan(spec(**fields))
        keys.add(other.key("generate"))
        assert differences(plain, other) == [says]
    assert len(keys) == 4


@pytest.mark.parametrize("generator", ["packflow-open", "random"])
def test_candidates_with_shares_are_those_of_the_plain_run(tmp_path, generator, quick):
    """Number k of a Z is the same crystal, whatever its share."""
    plain = spec(generator=generator, n=16)
    shared = spec(generator=generator, n=16, z={2: 1, 4: 3})
    a = rows_of(tmp_path / "a", plain)
    b = rows_of(tmp_path / "b", shared)
    assert Counter(row["z"] for row in b) == {2: 4, 4: 12}
    assert [row["candidate_id"][-10:] for row in b[:3]] == [
        "-z4-000000",
        "-z2-000001",
        "-z4-000002",
    ]
    for z, count in ((2, 4), (4, 8)):
        mine = [row["positions"] for row in a if row["z"] == z][:count]
        assert [row["positions"] for row in b if row["z"] == z][:count] == mine


def test_more_candidates_keep_the_first(tmp_path, quick):
    few = rows_of(tmp_path / "a", spec(n=6, z={2: 1, 4: 3}))
    many = rows_of(tmp_path / "b", spec(n=30, z={2: 1, 4: 3}))
    for a, b in zip(few, many, strict=False):
        assert (a["candidate_id"], a["positions"]) == (b["candidate_id"], b["positions"])


def test_blocks_are_whole_turns():
    assert block_size(spec()) == 32
    assert block_size(spec(z={2: 1, 4: 3})) == 64
    assert block_size(spec(z={2: 1, 4: 999})) == 1024


# -- windows ------------------------------------------------------------------------------
@pytest.mark.parametrize("generator", ["packflow-open", "random"])
def test_candidates_outside_the_window_are_rejected_with_the_numbers(tmp_path, generator, quick):
    everything = rows_of(tmp_path / "a", spec(generator=generator))
    found = [row["density_g_cm3"] for row in everything if row["status"] == "ok"]
    middle = float(np.median(found))
    # 1.44 g/cm3 is expected of urea: a window that holds it only filters
    made = spec(generator=generator, density=[min(middle, 1.44), None])
    rows = rows_of(tmp_path / "b", made)
    inside = 0
    for before, after in zip(everything, rows, strict=True):
        assert after["positions"] == before["positions"]
        if before["status"] != "ok":
            assert after["status"] == before["status"]
            continue
        if made.density[0] <= before["density_g_cm3"]:
            assert after["status"] == "ok"
            inside += 1
        else:
            assert (after["status"], after["reason"]) == ("rejected", "density")
            assert f"density {before['density_g_cm3']:.4g} g/cm3 is " in after["detail"]
            assert "the window" in after["detail"]
    assert 0 < inside < len(found)


def test_open_models_aim_at_a_window_that_is_elsewhere(tmp_path, quick):
    molecule = Molecule.from_smiles(UREA)
    expected = 13.87 + 2 * 11.80 + 11.39 + 4 * 5.08
    low, high = 1.10 * expected, 1.30 * expected
    plain = rows_of(tmp_path / "a", spec())
    aimed = rows_of(tmp_path / "b", spec(volume=[low, high]))

    def inside(rows):
        return sum(low <= row["volume_A3"] / row["z"] <= high for row in rows if row["cell"])

    assert inside(aimed) > 2 * inside(plain) + 3
    assert inside(aimed) == sum(row["status"] == "ok" for row in aimed)
    model = load_model("packflow-open").model
    schedule = Schedule(2, "ab2")
    by_hand = Sampler(model, molecule, volume_scale=1.2).sample(2, [0], 0, schedule)[0]
    assert aimed[0]["positions"] == pytest.approx(by_hand.positions.reshape(-1), abs=1e-5)


def test_a_scale_given_by_hand_wins(tmp_path, quick):
    fixed = spec(volume=[80, 100], generate={"volume_scale": 1.0}, n=4)
    plain = rows_of(tmp_path / "a", spec(n=4))
    rows = rows_of(tmp_path / "b", fixed)
    assert [row["positions"] for row in rows] == [row["positions"] for row in plain]


def test_cells_scale_with_the_volume_that_is_asked_for():
    molecule = Molecule.from_smiles(UREA)
    model = load_model("packflow-open").model
    mean = {}
    for scale in (0.85, 1.0, 1.2):
        samples = Sampler(model, molecule, volume_scale=scale).sample(2, range(8), 0, Schedule(5))
        cells = [stage.parameters_to_cell(s.parameters) for s in samples]
        mean[scale] = np.mean([np.linalg.det(c) for c in cells])
    assert mean[0.85] / mean[1.0] == pytest.approx(0.85, rel=0.05)
    assert mean[1.2] / mean[1.0] == pytest.approx(1.2, rel=0.05)


# -- hands --------------------------------------------------------------------------------
def hands(row, smiles):
    """[z] whether each molecule of an all-atom row is the mirror image of the SMILES."""
    molecule = Molecule.from_smiles(smiles)
    crystal = crystal_of(row)
    return stereo_of(molecule).left_handed(crystal.positions.reshape(crystal.z, -1, 3)).tolist()


def drawn(smiles, signs):
    """Row of the stage generate: molecules far apart, the mirror image where the sign is -1."""
    molecule = Molecule.from_smiles(smiles)
    heavy = conformer_pool(molecule).heavy[0]
    places = 9.0 * np.array([[k % 2, k // 2, 0] for k in range(len(signs))])
    x = np.concatenate([s * heavy + p for s, p in zip(signs, places, strict=True)])
    cell = np.diag([18.0, 9.0 * ((len(signs) + 1) // 2), 9.0])
    crystal = Crystal(np.tile(molecule.numbers, len(signs)), x, cell, len(signs))
    return {"candidate_id": "c", "index": 0, "status": "ok", **crystal_columns(crystal)}


@pytest.mark.parametrize("signs", [(1, 1), (-1, -1), (1, -1), (1, -1, -1, -1)])
def test_an_enantiomer_keeps_its_hand_whatever_was_drawn(signs):
    molecule = Molecule.from_smiles(ALANINE)
    found = hydrogenate(drawn(ALANINE, signs), molecule, HydrogenateParams())
    assert found["status"] == "ok"
    assert not any(hands(found, ALANINE))


@pytest.mark.parametrize(
    ("signs", "status", "words"),
    [
        ((1, -1), "ok", "1 molecules of the hand written, 1 of the other"),
        ((1, 1), "ok", "2 molecules of the hand written, 0 of the other"),
        ((-1, 1, 1, -1), "ok", "2 molecules of the hand written, 2 of the other"),
        ((1, 1, 1, -1), "rejected", "3 molecules of one hand and 1 of the other"),
        ((-1, 1, -1), "rejected", "1 molecules of one hand and 2 of the other"),
    ],
)
def test_a_racemate_packs_equal_numbers_or_one_hand(signs, status, words):
    molecule = Molecule.from_smiles(ALANINE).as_racemate()
    found = hydrogenate(drawn(molecule.smiles, signs), molecule, HydrogenateParams())
    assert (found["status"], found["reason"]) == (status, "" if status == "ok" else "stereo")
    assert words in found["detail"]
    if status == "ok":
        assert hands(found, molecule.one_hand) == [sign < 0 for sign in signs]


def random_hands(smiles, n=24):
    pool = conformer_ensemble(Molecule.from_smiles(smiles), ConformerParams(n_embed=8))
    rows = random_rows(
        range(n), conformers=pool, z_values=(2,), seed=0, target="t", params=RandomParams(),
        method="random",
    )  # fmt: skip
    return [sum(hands(row, Molecule.from_smiles(smiles).one_hand)) for row in rows
            if row["status"] == "ok"]  # fmt: skip


def test_random_packing_of_an_enantiomer_has_one_hand():
    assert set(random_hands(ALANINE)) == {0}


def test_random_packing_of_a_racemate_has_both():
    found = Counter(random_hands(Molecule.from_smiles(ALANINE).as_racemate().smiles))
    assert set(found) == {0, 1}  # of two: none mirrored in a Sohncke group, one in the others
    assert found[1] > found[0]


def test_a_racemate_in_a_spec():
    flagged = spec(smiles=ALANINE, racemic=True)
    marked = spec(smiles="C[C@@H](N)C(=O)O |&1:1|")
    assert flagged == marked
    assert flagged.smiles.endswith(" |&1:1|")
    assert make_spec(flagged.model_dump(mode="json")) == flagged
    pure = spec(smiles=ALANINE)
    assert make_plan(pure).key("generate") != make_plan(flagged).key("generate")
    assert pure.name != flagged.name


# -- names of models ----------------------------------------------------------------------
def test_the_name_of_a_model_is_not_a_file_that_happens_to_be_called_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "packflow-open").write_bytes(b"something else")
    (tmp_path / "target.yaml").write_text("smiles: NC(N)=O\ngenerator: packflow-open\n")
    made = make_spec(read_target(tmp_path / "target.yaml"))
    assert make_plan(made).spec.generator == "packflow-open"


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors"])
def test_the_suffix_of_a_checkpoint_is_not_part_of_the_method(suffix):
    assert spec(generator=f"models/mine.v2{suffix}").method == "mine.v2"
