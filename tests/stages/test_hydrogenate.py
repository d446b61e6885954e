"""The stage `hydrogenate`: what it mends, what it refuses, what it records."""

import numpy as np
import pytest
from pydantic import ValidationError
from scipy.spatial.transform import Rotation

from packflow_core.chem import conformers
from packflow_core.chem.conformers import conformer_pool
from packflow_core.chem.molecule import Molecule
from packflow_core.chem.stereo import stereo_of
from packflow_core.crystal.contacts import min_contact_ratio
from packflow_core.crystal.crystal import Crystal
from packflow_core.crystal.lattice import parameters_to_cell
from packflow_core.stages import hydrogenate as module
from packflow_core.stages.hydrogenate import HydrogenateParams, hydrogenate
from packflow_core.store.rows import crystal_columns, crystal_of, same_result
from packflow_core.store.schema import STAGE_COLUMNS, stage_schema

ASPIRIN = Molecule.from_smiles("CC(=O)Oc1ccccc1C(=O)O")
ALANINE = Molecule.from_smiles("C[C@H](N)C(=O)O")
DEFAULT = HydrogenateParams()
COLUMNS = {f.name for f in STAGE_COLUMNS["hydrogenate"]}


def row_of(crystal, molecule=ASPIRIN):
    missing = crystal.z * int(molecule.hydrogen_counts.sum())
    return {
        "candidate_id": "x-0", "index": 0, "campaign": "c", "target": "t", "method": "m",
        "seed": 3, "status": "ok", "reason": "", **crystal_columns(crystal, missing),
    }  # fmt: skip


def loose_crystal(molecule=ASPIRIN, z=2, hands=(1, 1), seed=0, spacing=9.5):
    """Turned copies of a conformer's heavy atoms on a loose grid, far from overlap."""
    heavy = conformer_pool(molecule).heavy[0]
    cell = parameters_to_cell((spacing, spacing, spacing * z, 85.0, 95.0, 100.0))
    turns = Rotation.random(z, random_state=seed).as_matrix()
    molecules = [
        hand * heavy @ turn + np.array([0.5, 0.5, (k + 0.5) / z]) @ cell
        for k, (turn, hand) in enumerate(zip(turns, hands, strict=True))
    ]
    return Crystal(np.tile(molecule.numbers, z), np.concatenate(molecules), cell, z)


def shaken(crystal, noise, seed=0):
    rng = np.random.default_rng(seed)
    return crystal.with_positions(
        crystal.positions + rng.normal(size=crystal.positions.shape) * noise
    )


def test_a_good_crystal_gets_its_hydrogens_and_nothing_else():
    crystal = loose_crystal()
    before = row_of(crystal)
    row = hydrogenate(before, ASPIRIN, DEFAULT)
    assert (row["status"], row["reason"], row["detail"]) == ("ok", "", "")
    out = crystal_of(row)
    assert out.numbers.reshape(2, -1).tolist() == [ASPIRIN.numbers_h.tolist()] * 2
    heavy = out.heavy_only()
    assert heavy.positions == pytest.approx(crystal.positions, abs=1e-12)
    assert (out.cell == crystal.cell).all()
    assert (row["n_repaired"], row["repair_rmsd_A"], row["cell_growth"]) == (0, 0.0, 1.0)
    assert (row["bonds_ok"], row["stereo_flipped"]) == (1.0, 0)
    assert row["max_bond_error_A"] == pytest.approx(0.2, abs=0.03)  # C=O against 1.42 Å
    assert row["min_contact"] == pytest.approx(min_contact_ratio(out).ratio)
    # The density of the generator counted the hydrogens already.
    assert row["density_g_cm3"] == pytest.approx(before["density_g_cm3"], rel=1e-9)
    assert row["density_g_cm3"] == pytest.approx(out.density, rel=1e-9)
    assert set(row) >= COLUMNS
    assert set(row) <= set(stage_schema("hydrogenate").names)
    assert [row[k] for k in ("candidate_id", "index", "target", "seed")] == ["x-0", 0, "t", 3]


def test_crooked_molecules_are_replaced_where_they_are():
    crystal = loose_crystal(z=2)
    positions = crystal.positions.copy()
    n = ASPIRIN.n_heavy
    positions[n:] += np.random.default_rng(1).normal(size=(n, 3)) * 0.5
    drawn = crystal.with_positions(positions)
    row = hydrogenate(row_of(drawn), ASPIRIN, DEFAULT)
    assert row["status"] == "ok"
    assert row["n_repaired"] == 1
    out = crystal_of(row).heavy_only().positions.reshape(2, n, 3)
    assert out[0] == pytest.approx(positions[:n])
    assert out[1].mean(axis=0) == pytest.approx(positions[n:].mean(axis=0), abs=1e-9)
    rmsd = np.sqrt(((out[1] - positions[n:]) ** 2).sum(axis=1).mean())
    assert row["repair_rmsd_A"] == pytest.approx(rmsd)
    assert 0.4 < rmsd < 1.2
    assert row["bonds_ok"] == 1.0


def test_repair_can_be_switched_off():
    drawn = shaken(loose_crystal(), 0.03)
    params = HydrogenateParams(repair=False, push_apart=False)
    row = hydrogenate(row_of(drawn), ASPIRIN, params)
    assert (row["status"], row["n_repaired"]) == ("ok", 0)
    assert crystal_of(row).heavy_only().positions == pytest.approx(drawn.positions)
    broken = hydrogenate(row_of(shaken(loose_crystal(), 0.8)), ASPIRIN, params)
    assert (broken["status"], broken["reason"]) == ("failed", "hydrogens")
    assert broken["bonds_ok"] < 0.7
    mended = hydrogenate(row_of(shaken(loose_crystal(), 0.8)), ASPIRIN, DEFAULT)
    assert (mended["status"], mended["n_repaired"]) == ("ok", 2)


def test_a_bad_fit_can_be_refused():
    params = HydrogenateParams(max_repair_rmsd_A=0.3)
    row = hydrogenate(row_of(shaken(loose_crystal(), 0.5)), ASPIRIN, params)
    assert (row["status"], row["reason"]) == ("rejected", "broken_molecule")
    assert "limit 0.3" in row["detail"]
    assert row["repair_rmsd_A"] > 0.3


def test_overlaps_are_pushed_apart_by_growth():
    crystal = loose_crystal(spacing=9.5)
    tight = Crystal(
        crystal.numbers,
        (
            crystal.positions.reshape(2, -1, 3)
            - 0.4 * crystal.positions.reshape(2, -1, 3).mean(axis=1, keepdims=True)
        ).reshape(-1, 3),
        crystal.cell * 0.6,
        2,
    )
    alone = {"relieve": False}
    row = hydrogenate(row_of(tight), ASPIRIN, HydrogenateParams(max_cell_growth=2.0, **alone))
    assert row["status"] == "ok"
    assert 1.0 < row["cell_growth"] < 1.7
    out = crystal_of(row)
    assert out.cell == pytest.approx(tight.cell * row["cell_growth"])
    assert min_contact_ratio(out, heavy_only=True).ratio >= 0.7 - 1e-6
    assert row["min_contact"] >= 0.5 - 1e-6
    assert row["density_g_cm3"] == pytest.approx(out.density)
    limit = 1 + (row["cell_growth"] - 1) / 2
    refused = hydrogenate(row_of(tight), ASPIRIN, HydrogenateParams(max_cell_growth=limit, **alone))
    assert (refused["status"], refused["reason"]) == ("rejected", "overlap")
    assert refused["min_contact"] < 0.7
    assert crystal_of(refused).positions == pytest.approx(tight.positions)
    kept = hydrogenate(row_of(tight), ASPIRIN, HydrogenateParams(push_apart=False, **alone))
    assert (kept["status"], kept["cell_growth"]) == ("ok", 1.0)


def squeezed(factor, z=4, seed=0):
    """Whole molecules in a cell shrunk by `factor`: they overlap."""
    crystal = loose_crystal(z=z, hands=(1,) * z, spacing=9.0, seed=seed)
    molecules = crystal.positions.reshape(z, -1, 3)
    centroids = molecules.mean(axis=1, keepdims=True)
    return Crystal(
        crystal.numbers,
        (molecules + (factor - 1) * centroids).reshape(-1, 3),
        crystal.cell * factor,
        z,
    )


def test_overlaps_are_relieved_before_any_growth():
    tight = squeezed(0.67)  # 220 Å3 per molecule
    row = hydrogenate(row_of(tight), ASPIRIN, DEFAULT)
    old = hydrogenate(row_of(tight), ASPIRIN, HydrogenateParams(relieve=False))
    assert old["status"] == "rejected" or old["cell_growth"] > 1.05
    assert old.get("relief_shift_A") is None
    assert (row["status"], row["cell_growth"]) == ("ok", 1.0)
    assert row["relief_volume_ratio"] == pytest.approx(row["volume_A3"] / tight.volume)
    assert 0.98 < row["relief_volume_ratio"] < 1.05
    assert 0.05 < row["relief_shift_A"] < 4.0
    assert 1.0 < row["relief_rotation_deg"] <= 180.0
    out = crystal_of(row)
    assert out.numbers.reshape(4, -1).tolist() == [ASPIRIN.numbers_h.tolist()] * 4
    assert min_contact_ratio(out, heavy_only=True).ratio >= 0.7 - 1e-6
    assert row["min_contact"] >= 0.5 - 1e-6
    # Hydrogens went along: all distances inside the molecules are those before the relief.
    off = HydrogenateParams(relieve=False, push_apart=False)
    before = crystal_of(hydrogenate(row_of(tight), ASPIRIN, off))
    x, y = (c.positions.reshape(4, -1, 3) for c in (before, out))
    for a, b in zip(x, y, strict=True):
        assert np.linalg.norm(b[:, None] - b, axis=-1) == pytest.approx(
            np.linalg.norm(a[:, None] - a, axis=-1), abs=1e-9
        )


def test_growth_starts_from_the_relieved_crystal(monkeypatch):
    tight = squeezed(0.67)
    seen = []
    real = module.separate_molecules

    def spy(crystal, *arguments):
        seen.append(crystal)
        return real(crystal, *arguments)

    monkeypatch.setattr(module, "separate_molecules", spy)
    # The cell may not grow in the relief, one start only, in a third of the room: growth refuses.
    params = HydrogenateParams(max_cell_growth=1.0, relief_attempts=1, min_volume_per_atom_A3=0.1)
    crushed = squeezed(0.45)
    row = hydrogenate(row_of(crushed), ASPIRIN, params)
    assert (row["status"], row["reason"]) == ("rejected", "overlap")
    assert row["relief_shift_A"] > 0
    assert row["min_contact"] == pytest.approx(min_contact_ratio(seen[0]).ratio)
    assert crystal_of(row).positions == pytest.approx(crushed.positions)
    row = hydrogenate(row_of(tight), ASPIRIN, DEFAULT)
    assert (crystal_of(row).positions == seen[1].positions).all()


def test_a_crystal_without_overlaps_is_not_touched_by_the_relief():
    drawn = row_of(loose_crystal())
    row = hydrogenate(drawn, ASPIRIN, DEFAULT)
    plain = hydrogenate(drawn, ASPIRIN, HydrogenateParams(relieve=False))
    assert (row["positions"], row["cell"]) == (plain["positions"], plain["cell"])
    names = ("relief_shift_A", "relief_rotation_deg", "relief_volume_ratio")
    assert [row[k] for k in names] == [0.0, 0.0, 1.0]


def test_the_wrong_hand_is_mirrored_as_a_whole():
    crystal = loose_crystal(ALANINE, hands=(-1, -1), spacing=7.0)
    row = hydrogenate(row_of(crystal, ALANINE), ALANINE, DEFAULT)
    assert (row["status"], row["n_repaired"], row["stereo_flipped"]) == ("ok", 0, 0)
    assert row["detail"] == "mirror image taken"
    out = crystal_of(row)
    assert out.heavy_only().positions == pytest.approx(-crystal.positions)
    stereo = stereo_of(ALANINE)
    assert [stereo.count_flipped(x) for x in out.positions.reshape(2, -1, 3)] == [0, 0]


def test_mixed_hands_are_repaired_or_refused():
    crystal = loose_crystal(ALANINE, hands=(1, -1), spacing=7.0)
    row = hydrogenate(row_of(crystal, ALANINE), ALANINE, DEFAULT)
    assert (row["status"], row["n_repaired"], row["stereo_flipped"]) == ("ok", 1, 0)
    stereo = stereo_of(ALANINE)
    assert all(stereo.count_flipped(x) == 0 for x in crystal_of(row).positions.reshape(2, -1, 3))
    off = HydrogenateParams(repair=False)
    refused = hydrogenate(row_of(crystal, ALANINE), ALANINE, off)
    assert (refused["status"], refused["reason"]) == ("rejected", "stereo")
    assert refused["stereo_flipped"] == 1
    lenient = HydrogenateParams(repair=False, reject_stereo_flip=False)
    kept = hydrogenate(row_of(crystal, ALANINE), ALANINE, lenient)
    assert (kept["status"], kept["stereo_flipped"]) == ("ok", 1)


def test_hands_do_not_matter_where_the_smiles_says_nothing():
    free = Molecule.from_smiles("CC(N)C(=O)O")
    crystal = loose_crystal(free, hands=(1, -1), spacing=7.0)
    row = hydrogenate(row_of(crystal, free), free, DEFAULT)
    assert (row["status"], row["n_repaired"], row["stereo_flipped"]) == ("ok", 0, 0)


@pytest.mark.parametrize(
    ("change", "status", "reason"),
    [
        ({"positions": [float("nan")] * 78}, "failed", "nan"),
        ({"positions": None}, "failed", "nan"),
        ({"cell": [float("inf")] * 9}, "failed", "nan"),
        ({"cell": [0.0] * 9}, "rejected", "bad_cell"),
        ({"cell": [-9.0, 0, 0, 0, 9, 0, 0, 0, 9]}, "rejected", "bad_cell"),
        ({"cell": [60.0, 0, 0, 0, 60, 0, 0, 0, 1.0]}, "rejected", "bad_cell"),
        ({"cell": [4.0, 0, 0, 0, 4, 0, 0, 0, 4]}, "rejected", "density"),
        ({"cell": [90.0, 0, 0, 0, 90, 0, 0, 0, 90]}, "rejected", "density"),
        ({"numbers": [6] * 26}, "failed", "hydrogens"),
        ({"z": 4}, "failed", "hydrogens"),
    ],
)
def test_hopeless_candidates_are_rows(change, status, reason):
    row = hydrogenate({**row_of(loose_crystal()), **change}, ASPIRIN, DEFAULT)
    assert (row["status"], row["reason"]) == (status, reason)
    assert row["detail"]
    assert row["candidate_id"] == "x-0"


@pytest.mark.parametrize("kind", ["one point", "a line", "same place"])
def test_degenerate_drawings_survive_or_are_refused(kind):
    crystal = loose_crystal(z=2)
    positions = crystal.positions.reshape(2, -1, 3).copy()
    if kind == "one point":
        positions[:] = positions.mean(axis=1, keepdims=True)
    elif kind == "a line":
        positions[:, :, :2] = positions[:, :1, :2]
    else:
        positions[1] = positions[0]
    drawn = row_of(crystal.with_positions(positions.reshape(-1, 3)))
    row = hydrogenate(drawn, ASPIRIN, DEFAULT)
    assert row["status"] == "ok"
    assert row["n_repaired"] == (0 if kind == "same place" else 2)
    assert row["bonds_ok"] == 1.0
    assert row["min_contact"] >= 0.5 - 1e-6
    assert min_contact_ratio(crystal_of(row), heavy_only=True).ratio >= 0.7 - 1e-6
    if kind == "same place":  # no growth can part them, only the relief
        refused = hydrogenate(drawn, ASPIRIN, HydrogenateParams(relieve=False))
        assert (refused["status"], refused["reason"]) == ("rejected", "overlap")
        assert refused["min_contact"] == 0.0


def test_hydrogens_of_a_generator_are_placed_anew():
    crystal = loose_crystal()
    once = hydrogenate(row_of(crystal), ASPIRIN, DEFAULT)
    twice = hydrogenate(once, ASPIRIN, DEFAULT)
    assert same_result(once, twice)


@pytest.mark.parametrize("method", ["random+press", "genarris-plain"])
def test_crystals_of_baselines_pass_through_with_their_hydrogens(method):
    crystal = crystal_of(hydrogenate(row_of(shaken(loose_crystal(), 0.1)), ASPIRIN, DEFAULT))
    given = {**row_of(crystal), "method": method, "conformer": 3}
    row = hydrogenate(given, ASPIRIN, DEFAULT)
    assert (row["status"], row["conformer"]) == ("ok", 3)
    assert "passed through" in row["detail"]
    assert method in row["detail"]
    assert crystal_of(row).positions.tolist() == crystal.positions.tolist()
    assert row["min_contact"] == pytest.approx(min_contact_ratio(crystal).ratio)
    bald = hydrogenate({**row_of(crystal.heavy_only()), "method": method}, ASPIRIN, DEFAULT)
    assert (bald["status"], bald["reason"]) == ("failed", "hydrogens")


def test_same_input_same_row():
    drawn = row_of(shaken(loose_crystal(), 0.6))
    first = hydrogenate(drawn, ASPIRIN, DEFAULT)
    conformers._pool_or_error.cache_clear()
    hydrogenate(row_of(shaken(loose_crystal(), 0.6, seed=9)), ASPIRIN, DEFAULT)
    assert same_result(first, hydrogenate(drawn, ASPIRIN, DEFAULT))


def test_without_conformers_good_molecules_pass_and_bad_ones_do_not(monkeypatch):
    crystal = loose_crystal()

    def fail(*_):
        raise conformers.ConformerError("No 3D conformer.")

    monkeypatch.setattr(conformers, "conformer_pool", fail)
    assert hydrogenate(row_of(crystal), ASPIRIN, DEFAULT)["status"] == "ok"
    row = hydrogenate(row_of(shaken(crystal, 0.8)), ASPIRIN, DEFAULT)
    assert (row["status"], row["reason"]) == ("rejected", "broken_molecule")


def test_a_fault_of_ours_costs_one_row(monkeypatch):
    def fail(*_):
        raise RuntimeError("boom")

    monkeypatch.setattr(module, "separate_molecules", fail)
    row = hydrogenate(row_of(loose_crystal()), ASPIRIN, DEFAULT)
    assert (row["status"], row["reason"]) == ("failed", "internal_error")
    assert "boom" in row["detail"]


def test_parameters_are_checked():
    with pytest.raises(ValidationError):
        HydrogenateParams(bond_tolerance=0.3)
    with pytest.raises(ValidationError):
        HydrogenateParams(max_cell_growth=0.9)
    assert all(f.description for f in HydrogenateParams.model_fields.values())
