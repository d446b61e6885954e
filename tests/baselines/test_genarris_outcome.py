"""Success and failure as the program really shows them."""

import json

import pytest
from genarris_folders import (
    UREA,
    edit_structures,
    failed_run,
    killed_run,
    plain_run,
    press_run,
    put,
    record,
)

from packflow_core.baselines.genarris import outcome, read_structures
from packflow_core.chem.molecule import Molecule


def keep_first(n):
    def change(data):
        for name in list(data)[n:]:
            del data[name]

    return change


@pytest.mark.parametrize("make", [plain_run, press_run])
def test_success(tmp_path, make):
    found = outcome(make(tmp_path))
    assert (found.state, found.structures) == ("success", 27)
    assert found.sentence == "Genarris made 27 structures in 26 s."


@pytest.mark.parametrize(
    ("case", "returncode", "words"),
    [
        ("mol_missing", 1, "No such file or directory: 'nope.xyz'"),
        ("z_missing", 1, "KeyError: 'z'"),
        ("zero_structs", 1, "no structure in any space group"),
        ("unknown_task", 0, "task 'nope'"),
        ("elem_Se", 0, "element Se"),
        ("volatt_0", 8, "SIGFPE"),
    ],
)
def test_every_recorded_failure_is_told(tmp_path, case, returncode, words):
    found = outcome(failed_run(tmp_path, case, returncode))
    assert (found.state, found.structures) == ("failed", 0)
    assert words in found.sentence
    assert found.sentence.endswith("; it left no structure.")
    assert "\n" not in found.sentence


def test_error_after_generation_leaves_its_structures(tmp_path):
    """`exp_empty` failed with exit code 1 after four structures had been written."""
    plain_run(tmp_path)
    edit_structures(tmp_path, keep_first(4))
    failed_run(tmp_path, "exp_empty", 1)
    found = outcome(tmp_path)
    assert (found.state, found.structures) == ("partial", 4)
    assert "Experimental structure file not found" in found.sentence
    assert len(read_structures(tmp_path, Molecule.from_smiles(UREA))) == 4


def test_killed_run(tmp_path):
    found = outcome(killed_run(tmp_path))
    assert (found.state, found.structures) == ("partial", 3)
    assert "SIGTERM" in found.sentence
    assert "3 structures could be salvaged, 0 of them pressed" in found.sentence


@pytest.mark.parametrize(
    ("ended", "words"),
    [
        ("timeout", "raise timeout_s"),
        ("cancelled", "was cancelled"),
        ("abandoned", "the process that had started it died"),
        ("ranks", "GENARRIS_MPIRUN"),
    ],
)
def test_runs_that_we_ended(tmp_path, ended, words):
    killed_run(tmp_path)
    record(tmp_path, 15, ended)
    found = outcome(tmp_path)
    assert found.state == "partial"
    assert words in found.sentence


def test_none_of_the_three_signs_is_enough_without_the_others(tmp_path):
    good = plain_run(tmp_path / "good")
    assert outcome(good).state == "success"
    # exit code
    for code in (1, 8, 15, 143):
        record(good, code)
        assert outcome(good).state == "partial"
    (good / "packflow_run.json").unlink()
    assert outcome(good).state == "partial"
    assert "not known how" in outcome(good).sentence
    record(good, 0)
    # final line
    text = (good / "stdout.log").read_text()
    (good / "stdout.log").write_text(text.replace("All tasks completed", "Some tasks completed"))
    found = outcome(good)
    assert found.state == "partial"
    assert "without its final line" in found.sentence
    (good / "stdout.log").write_text(text)
    assert outcome(good).state == "success"
    # structures
    path = good / "structures/generation/structures.json"
    whole = path.read_text()
    path.write_text(whole[: len(whole) // 2])
    assert outcome(good).state == "partial"
    path.write_text("{\n\n}")
    found = outcome(good)
    assert (found.state, found.structures) == ("failed", 0)
    assert "cannot be read" in found.sentence


def test_press_that_left_nothing_is_no_success_of_the_generation(tmp_path):
    folder = press_run(tmp_path)
    (folder / "structures/symm_rigid_press/structures.json").unlink()
    found = outcome(folder)
    assert (found.state, found.structures) == ("partial", 27)
    assert "27 structures could be salvaged, 0 of them pressed" in found.sentence


def test_final_line_of_the_next_version_is_known(tmp_path):
    """After 3.1.4 the greeting stands on a line of its own."""
    folder = plain_run(tmp_path)
    text = (folder / "stdout.log").read_text()
    assert "successfully. Have a nice day" in text
    (folder / "stdout.log").write_text(text.replace("successfully. Have", "successfully.\nHave"))
    assert outcome(folder).state == "success"


def test_empty_and_missing_folders_have_an_outcome(tmp_path):
    assert outcome(tmp_path).state == "failed"
    assert outcome(tmp_path / "none").state == "failed"
    put(plain_run(tmp_path / "a") / "ui.conf", tmp_path / "b" / "ui.conf")
    (tmp_path / "b" / "packflow_run.json").write_text(json.dumps([1, 2]))
    assert outcome(tmp_path / "b").state == "failed"
