"""Recorded outputs of Genarris as crystals: order, hand, symmetry, and everything malformed."""

import json
import re

import numpy as np
import pytest
from genarris_folders import (
    ASPIRIN,
    RECORDED,
    UREA,
    edit_structures,
    killed_run,
    plain_run,
    press_run,
)

from packflow_core.baselines.genarris import genarris_row, read_structures
from packflow_core.chem.conformers import conformer_pool
from packflow_core.chem.molecule import Molecule
from packflow_core.crystal.contacts import bond_errors
from packflow_core.errors import UserInputError
from packflow_core.store.rows import crystal_of
from packflow_core.store.schema import Reason, Status, stage_schema


@pytest.fixture(scope="module")
def urea():
    return Molecule.from_smiles(UREA)


def printed_volumes(log):
    """Minimum, maximum and average that Genarris itself printed, one row for each task."""
    text = (RECORDED / log).read_text()
    rows = [
        re.findall(rf"{name} +\| ([0-9.]+)", text) for name in ("Minimum", "Maximum", "Average")
    ]
    return np.array(rows, dtype=float).T


def array(entry, name):
    shape, _, values = entry[name]["__ndarray__"]
    return np.array(values).reshape(shape)


def store(entry, name, values):
    entry[name]["__ndarray__"] = [list(values.shape), "float64", values.reshape(-1).tolist()]


def test_plain_run_is_read_as_genarris_made_it(tmp_path, urea):
    structures = read_structures(plain_run(tmp_path), urea)
    assert len(structures) == 27
    assert all(s.ok and s.method == "genarris-plain" and s.press is None for s in structures)
    volumes = np.array([s.crystal.volume for s in structures])
    expected = printed_volumes("plain/stdout.log")[0]
    assert (volumes.min(), volumes.max(), volumes.mean()) == pytest.approx(expected, abs=0.006)
    for s in structures:
        assert s.crystal.z == 2
        assert (s.crystal.numbers == np.tile(urea.numbers_h, 2)).all()
        assert np.linalg.det(s.crystal.cell) > 0
        assert np.abs(bond_errors(s.crystal, urea.bonds)).max() < 0.25
        # generated with exact symmetry: what was attempted is what spglib finds
        assert s.space_group == s.attempted_space_group
    assert sum(s.mirrored for s in structures) == 16
    assert max(s.misfit_A for s in structures) < 1e-4


def test_groups_are_detected_again_after_the_press(tmp_path, urea):
    structures = read_structures(press_run(tmp_path), urea)
    assert len(structures) == 27
    assert all(s.ok and s.method == "genarris-press" for s in structures)
    volumes = np.array([s.crystal.volume for s in structures])
    expected = printed_volumes("rigid_press/stdout.log")[1]
    assert (volumes.min(), volumes.max(), volumes.mean()) == pytest.approx(expected, abs=0.006)
    changed = {
        (s.attempted_space_group, s.space_group)
        for s in structures
        if s.space_group != s.attempted_space_group
    }
    assert changed == {(6, 40), (7, 13), (13, 2), (17, 4), (27, 7), (30, 7)}
    unconverged = [s for s in structures if s.press == "unconverged"]
    assert len(unconverged) == 6
    assert all("not converge" in s.detail for s in unconverged)


def test_killed_run_is_salvaged(tmp_path):
    aspirin = Molecule.from_smiles(ASPIRIN)
    *whole, torn = read_structures(killed_run(tmp_path), aspirin)
    assert [s.status for s in whole] == [Status.OK] * 3
    assert [s.attempted_space_group for s in whole] == [5, 5, 5]
    assert [s.space_group for s in whole] == [5, 5, 5]
    assert [s.crystal.volume for s in whole] == pytest.approx(
        [997.306519, 904.309875, 933.970886], abs=1e-3
    )
    # The press was asked for but never ran: these are what Genarris Plain makes.
    assert {s.method for s in whole} == {"genarris-plain"}
    assert torn.status == Status.FAILED
    assert torn.crystal is None
    assert "cut off" in torn.detail


def test_run_killed_in_the_press_keeps_what_was_pressed(tmp_path, urea):
    folder = press_run(tmp_path)
    final = folder / "structures/symm_rigid_press/structures.json"
    pressed = json.loads(final.read_text())
    placed = json.loads((folder / "structures/generation/structures.json").read_text())
    final.unlink()
    names = list(pressed)
    # as the program writes it: all structures of the rank, each packed into a string
    held = {n: json.dumps(pressed[n] if i < 5 else placed[n]) for i, n in enumerate(names[:14])}
    ranks = folder / "tmp/symm_rigid_press"
    (ranks / "rank_0").mkdir(parents=True)
    (ranks / "rank_1").mkdir()
    (ranks / "rank_0/0.save").write_text(json.dumps(held))
    (ranks / "rank_1/1.save").write_text('{"torn')
    structures = read_structures(folder, urea)
    assert sorted(s.original_id for s in structures) == sorted(names)
    done = [s for s in structures if s.method == "genarris-press"]
    assert [s.original_id for s in done] == names[:5]
    assert all(s.ok for s in structures)
    by_id = {s.original_id: s for s in structures}
    expected = abs(np.linalg.det(array(pressed[names[0]], "cell")))
    assert by_id[names[0]].crystal.volume == pytest.approx(expected)
    expected = abs(np.linalg.det(array(placed[names[5]], "cell")))
    assert by_id[names[5]].crystal.volume == pytest.approx(expected)


def test_structure_that_the_press_gave_up_is_told(tmp_path, urea):
    folder = press_run(tmp_path)
    lost = []

    def remove(data):
        lost.append(list(data)[3])
        del data[lost[0]]

    edit_structures(folder, remove, "symm_rigid_press")
    structures = read_structures(folder, urea)
    assert len(structures) == 27
    (failure,) = [s for s in structures if not s.ok]
    assert failure.original_id == lost[0]
    assert (failure.status, failure.reason) == (Status.FAILED, Reason.ENGINE)
    assert "gave it up" in failure.detail


def test_group_of_the_attempt_comes_from_geometry_out(tmp_path, urea):
    folder = plain_run(tmp_path)
    data = json.loads((folder / "structures/generation/structures.json").read_text())
    name = list(data)[7]
    lines = ["####### BEGIN STRUCTURE #######", "#attempted_spacegroup = 13"]
    lines.append("#SPGLIB_detected_spacegroup = 4")
    for row in array(data[name], "cell"):
        lines.append("lattice_vector " + " ".join(f"{x:12.6f}" for x in row))
    for number, row in zip(
        array(data[name], "numbers"), array(data[name], "positions"), strict=True
    ):
        element = {1: "H", 6: "C", 7: "N", 8: "O"}[int(number)]
        lines.append("atom " + " ".join(f"{x:12.6f}" for x in row) + f"  {element}  ")
    lines.append("#######  END  STRUCTURE #######")
    path = folder / "tmp/generation/geometry.out"
    path.parent.mkdir(parents=True)
    path.write_text("\n".join(lines))
    by_id = {s.original_id: s for s in read_structures(folder, urea)}
    assert by_id[name].attempted_space_group == 13
    assert by_id[name].space_group == 4


def nan(entry):
    positions = array(entry, "positions")
    positions[3, 1] = np.nan
    store(entry, "positions", positions)


def flat(entry):
    store(entry, "cell", np.diag([9.0, 9.0, 0.3]))


def atom_short(entry):
    for name in ("positions", "numbers"):
        values = array(entry, name)[:-1]
        entry[name]["__ndarray__"][0] = list(values.shape)
        entry[name]["__ndarray__"][2] = values.reshape(-1).tolist()


def swapped(entry):
    numbers = entry["numbers"]["__ndarray__"][2]
    numbers[0], numbers[1] = numbers[1], numbers[0]


def bent(entry):
    positions = array(entry, "positions")
    positions[0] += [0.9, 0.4, -0.6]
    store(entry, "positions", positions)


def foreign(entry):
    entry.clear()
    entry["comment"] = "no structure"


def unknown_type(entry):
    entry["__ase_objtype__"] = "spaceship"


@pytest.mark.parametrize(
    ("damage", "status", "reason", "words"),
    [
        (nan, Status.FAILED, Reason.NAN, "NaN"),
        (flat, Status.REJECTED, Reason.BAD_CELL, "flat"),
        (atom_short, Status.FAILED, Reason.BROKEN_MOLECULE, "15 atoms"),
        (swapped, Status.FAILED, Reason.BROKEN_MOLECULE, "not 2 molecules of 8"),
        (bent, Status.REJECTED, Reason.BROKEN_MOLECULE, "RMSD"),
        (foreign, Status.FAILED, Reason.ENGINE, "no structure"),
        (unknown_type, Status.FAILED, Reason.ENGINE, "decoded"),
    ],
)
def test_malformed_structure_is_a_failure_of_its_own(tmp_path, urea, damage, status, reason, words):
    folder = plain_run(tmp_path)
    good = read_structures(folder, urea)
    edit_structures(folder, lambda data: damage(data[list(data)[2]]))
    structures = read_structures(folder, urea)
    assert len(structures) == 27
    assert (structures[2].status, structures[2].reason) == (status, reason)
    assert words in structures[2].detail
    others = [s for i, s in enumerate(structures) if i != 2]
    assert all(s.ok for s in others)
    assert [s.original_id for s in structures] == [s.original_id for s in good]


def test_torn_file_loses_its_torn_line_alone(tmp_path, urea):
    folder = plain_run(tmp_path)
    path = folder / "structures/generation/structures.json"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:10], lines[10][:200]]))
    structures = read_structures(folder, urea)
    assert [s.ok for s in structures] == [True] * 9 + [False]
    assert "torn" in structures[-1].detail


def test_left_handed_cell_is_turned_without_moving_atoms(tmp_path, urea):
    folder = plain_run(tmp_path)
    before = read_structures(folder, urea)[4].crystal

    def turn(data):
        entry = data[list(data)[4]]
        store(entry, "cell", -array(entry, "cell"))

    edit_structures(folder, turn)
    after = read_structures(folder, urea)[4].crystal
    assert after.cell == pytest.approx(before.cell)
    assert after.positions == pytest.approx(before.positions)


def test_folded_molecules_are_made_whole(tmp_path, urea):
    folder = plain_run(tmp_path)
    before = read_structures(folder, urea)

    def fold(data):
        for entry in data.values():
            cell = array(entry, "cell")
            frac = array(entry, "positions") @ np.linalg.inv(cell)
            store(entry, "positions", (frac - np.floor(frac)) @ cell)

    edit_structures(folder, fold)
    cut = 0
    for a, b in zip(before, read_structures(folder, urea), strict=True):
        assert b.ok
        assert b.misfit_A < 1e-4
        x = a.crystal.positions.reshape(2, 8, 3)
        y = b.crystal.positions.reshape(2, 8, 3)
        shift = (y - x) @ np.linalg.inv(a.crystal.cell)
        # each molecule as a whole moved by a lattice vector
        assert shift == pytest.approx(np.rint(shift[:, :1]) + np.zeros_like(shift), abs=1e-6)
        frac = x @ np.linalg.inv(a.crystal.cell)
        cut += int((np.ptp(np.floor(frac), axis=1) > 0).any())
    assert cut > 10  # else this test would show nothing


def test_atoms_of_a_foreign_order_are_put_into_ours(tmp_path, urea):
    folder = plain_run(tmp_path)
    expected = read_structures(folder, urea)
    shuffle = np.random.default_rng(1).permutation(8)
    lines = (folder / "mol.xyz").read_text().splitlines()
    (folder / "mol.xyz").write_text("\n".join([*lines[:2], *(lines[2 + i] for i in shuffle)]))

    def permute(data):
        for entry in data.values():
            positions = array(entry, "positions").reshape(2, 8, 3)[:, shuffle]
            store(entry, "positions", positions.reshape(16, 3))
            entry["numbers"]["__ndarray__"][2] = array(entry, "numbers")[:8][shuffle].tolist() * 2

    edit_structures(folder, permute)
    found = read_structures(folder, urea)
    for a, b in zip(expected, found, strict=True):
        assert b.ok
        assert (b.crystal.numbers == a.crystal.numbers).all()
        # our order up to the symmetry of the molecule: the same bonds, the same set of atoms
        assert np.abs(bond_errors(b.crystal, urea.bonds_h)).max() < 0.3
        distance = np.linalg.norm(b.crystal.positions[:, None] - a.crystal.positions, axis=-1)
        assert distance.min(axis=1).max() < 1e-9
        assert b.space_group == a.space_group


def test_hand_that_the_smiles_fixes(tmp_path):
    """L-alanine: a crystal of D alone is turned round, one of both hands is rejected."""
    molecule = Molecule.from_smiles("C[C@H](N)C(=O)O")
    conformer = conformer_pool(molecule).positions[0]
    rotation = np.array([[0, 1, 0], [0, 0, 1], [1, 0, 0]], dtype=float)
    left, right = conformer, -conformer
    pairs = {"l": (left, left), "d": (right, right), "dl": (left, right)}
    data = {}
    for name, (one, two) in pairs.items():
        positions = np.concatenate([one + 3, two @ rotation + 10])
        data[name] = {
            "numbers": {"__ndarray__": [[26], "int64", np.tile(molecule.numbers_h, 2).tolist()]},
            "positions": {"__ndarray__": [[26, 3], "float64", positions.reshape(-1).tolist()]},
            "cell": {"__ndarray__": [[3, 3], "float64", (np.eye(3) * 14).reshape(-1).tolist()]},
            "pbc": {"__ndarray__": [[3], "bool", [True] * 3]},
            "info": {"spg": 1},
            "__ase_objtype__": "atoms",
        }
    folder = plain_run(tmp_path)
    path = folder / "structures/generation/structures.json"
    path.write_text(json.dumps(data))
    symbols = {1: "H", 6: "C", 7: "N", 8: "O"}
    atoms = [
        f"{symbols[n]} {x} {y} {z}"
        for n, (x, y, z) in zip(molecule.numbers_h.tolist(), conformer, strict=True)
    ]
    (folder / "mol.xyz").write_text("\n".join(["13", "", *atoms]))
    l_form, d_form, racemate = read_structures(folder, molecule)
    assert l_form.ok
    assert l_form.mirrored == 0
    assert d_form.ok
    assert "mirror image taken" in d_form.detail
    assert d_form.mirrored == 0
    assert d_form.crystal.positions[:13] - d_form.crystal.positions[:13].mean(0) == pytest.approx(
        left - left.mean(0)
    )
    assert (racemate.status, racemate.reason) == (Status.REJECTED, Reason.STEREO)
    assert "1 of 2" in racemate.detail
    # without stereochemistry in the SMILES both hands are the molecule
    flat = Molecule.from_smiles("CC(N)C(=O)O")
    assert [s.ok for s in read_structures(folder, flat)] == [True] * 3
    assert [s.mirrored for s in read_structures(folder, flat)] == [0, 2, 1]


def test_another_molecule_is_refused(tmp_path):
    folder = plain_run(tmp_path)
    with pytest.raises(UserInputError, match="another molecule"):
        read_structures(folder, Molecule.from_smiles("CC(N)=O"))
    with pytest.raises(UserInputError, match="does not tell the molecule"):
        read_structures(folder)


def test_ids_can_be_told_apart(tmp_path, urea):
    first = read_structures(plain_run(tmp_path), urea)[0]
    assert first.namespaced("urea") == f"urea-z2-{first.original_id}"


def test_rows_are_those_of_the_stage_generate_with_hydrogens(tmp_path, urea):
    folder = plain_run(tmp_path)
    edit_structures(folder, lambda data: foreign(data[list(data)[1]]))
    structures = read_structures(folder, urea)
    rows = [
        genarris_row(s, urea, target="urea", index=i, seed=3, engine="genarris 3.1.4")
        for i, s in enumerate(structures)
    ]
    columns = set(stage_schema("generate").names)
    assert all(set(row) <= columns for row in rows)
    assert [row["candidate_id"] for row in rows[:2]] == ["urea-z2-000000", "urea-z2-000001"]
    good, bad = rows[0], rows[1]
    assert (good["status"], good["n_atoms"], good["n_heavy"]) == ("ok", 16, 8)
    assert crystal_of(good).positions == pytest.approx(structures[0].crystal.positions)
    # 2 x 60.055 g/mol in the volume of the cell
    expected = 2 * 60.055 / 0.602214 / structures[0].crystal.volume
    assert good["density_g_cm3"] == pytest.approx(expected, rel=1e-4)
    assert good["bonds_ok"] == 1.0
    assert (bad["status"], bad["reason"], bad.get("positions")) == ("failed", "engine_error", None)
