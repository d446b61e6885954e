"""Which launcher is found, and what is said where there is none."""

import importlib.util
import os
import sys

import pytest

from packflow_core.errors import UserInputError
from packflow_core.mpi import program
from packflow_core.mpi.program import Launcher, find_mpi, rank_environment, require_mpi


def script(path, text):
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def bare(tmp_path, monkeypatch):
    """A machine with mpi4py and without a launcher."""
    spec = importlib.util.find_spec("json")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "environment" / "python"))
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    return tmp_path


def test_a_named_launcher_wins_over_one_beside_python_and_that_over_path(bare, monkeypatch):
    on_path = script(bare / "path" / "mpirun", "echo mpirun")
    assert require_mpi() == Launcher((on_path,), on_path)
    beside = script(bare / "environment" / "mpiexec", "echo mpiexec")
    assert require_mpi() == Launcher((beside,), beside)
    named = script(bare / "path" / "srun", "echo slurm 25.05")
    monkeypatch.setenv("PACKFLOW_MPIEXEC", "srun --mpi=pmi2 --comment 'two words'")
    found = require_mpi()
    assert found.words == (named, "--mpi=pmi2", "--comment", "two words")
    assert found.found == "PACKFLOW_MPIEXEC"
    assert str(found) == f"{named} --mpi=pmi2 --comment 'two words'"


def test_hydra_is_told_to_leave_the_others_alone(bare):
    script(bare / "path" / "mpiexec", "echo HYDRA build details:")
    assert require_mpi().words[1:] == ("-disable-auto-cleanup", "-print-all-exitcodes")


def test_the_number_of_ranks_goes_where_it_is_wanted():
    assert Launcher(("srun", "-K0"), "").command(4, ["a", "b"]) == [
        "srun", "-K0", "-n", "4", "a", "b",
    ]  # fmt: skip
    assert Launcher(("run", "--tasks={n}"), "").command(4, ["a"]) == ["run", "--tasks=4", "a"]


@pytest.mark.parametrize("named", ["no-such-program --fast", "'unfinished"])
def test_a_name_that_is_no_launcher_is_refused(bare, monkeypatch, named):
    monkeypatch.setenv("PACKFLOW_MPIEXEC", named)
    for look in (require_mpi, find_mpi):
        with pytest.raises(UserInputError, match=r"^PACKFLOW_MPIEXEC is '.*\.$"):
            look()


def test_without_a_launcher_one_sentence_says_how_to_get_it(bare):
    with pytest.raises(UserInputError, match=r"no mpiexec.*pip install \"packflow-csp\[mpi\]\""):
        require_mpi()
    assert find_mpi().startswith("mpi4py is here, but no mpiexec; pip install")


def test_without_mpi4py_one_sentence_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserInputError, match=r"mpi4py.*pip install \"packflow-csp\[mpi\]\"\.$"):
        require_mpi()
    assert find_mpi() == 'optional, not installed; pip install "packflow-csp[mpi]"'


def test_ranks_do_not_take_this_process_for_one(monkeypatch):
    """`csp` itself may have been started by a launcher."""
    monkeypatch.setenv("PMI_RANK", "3")
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "4")
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    found = rank_environment()
    assert not {"PMI_RANK", "OMPI_COMM_WORLD_SIZE"} & set(found)
    assert found["SLURM_JOB_ID"] == "17"
    assert found["PATH"] == os.environ["PATH"]


def test_a_launcher_that_hangs_is_told_of(bare, monkeypatch):
    monkeypatch.setattr(program, "_TRIAL_TIMEOUT_S", 0.2)
    monkeypatch.setattr(program, "_VERSION_TIMEOUT_S", 0.2)
    script(bare / "path" / "mpiexec", "exec /bin/sleep 600")
    with pytest.raises(UserInputError, match=r"does not start: .* timed out after 0\.2 seconds"):
        find_mpi()
