"""Running: programs found, progress followed, every process ended; fake programs stand in."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from genarris_folders import RECORDED, UREA, press_run
from genarris_programs import GNRS, MPIRUN, install, script

from packflow_core.baselines import genarris_program, genarris_run
from packflow_core.baselines.genarris import (
    GenarrisParams,
    GenarrisProgress,
    ProgressReader,
    find_genarris,
    outcome,
    read_structures,
    require_genarris,
    run_genarris,
    write_inputs,
)
from packflow_core.baselines.genarris_progress import parse_progress
from packflow_core.chem.conformers import conformer_pool
from packflow_core.chem.molecule import Molecule
from packflow_core.errors import UserInputError


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """A folder with the fake programs, and nothing else of Genarris' in sight."""
    return install(tmp_path / "bin", monkeypatch)


def prepared(tmp_path, **settings):
    molecule = Molecule.from_smiles(UREA)
    params = GenarrisParams(z_values=(2,), **settings)
    write_inputs(tmp_path / "run", molecule, conformer_pool(molecule).positions[0], params)
    return tmp_path / "run", params


def alive(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def wait_for(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False


# -- finding -------------------------------------------------------------------------------------
def test_programs_on_path(programs):
    found = find_genarris()
    assert (found.path, found.mpirun, found.version) == (
        programs / "gnrs", programs / "mpirun", "3.1.4",
    )  # fmt: skip
    assert found.identity == "genarris 3.1.4"


def test_nothing_installed_says_what_to_do(programs):
    (programs / "mpirun").unlink()
    assert find_genarris().mpirun is None
    with pytest.raises(UserInputError, match="needs `mpirun`: install the MPI"):
        require_genarris()
    (programs / "gnrs").unlink()
    assert find_genarris() is None
    with pytest.raises(UserInputError, match="Genarris is not installed: install it from"):
        require_genarris()


def test_environment_of_a_python_and_its_own_mpirun(programs, tmp_path, monkeypatch):
    for place in ("env/bin/python", "env"):
        monkeypatch.setenv("GENARRIS_PYTHON", str(tmp_path / place))
        with pytest.raises(UserInputError, match="no command `gnrs` beside it"):
            find_genarris()
    bin_ = tmp_path / "env/bin"
    bin_.mkdir(parents=True)
    script(bin_ / "gnrs", GNRS)
    (bin_ / "python").symlink_to(sys.executable)
    for place in ("env/bin/python", "env"):
        monkeypatch.setenv("GENARRIS_PYTHON", str(tmp_path / place))
        assert find_genarris().path == bin_ / "gnrs"
        assert find_genarris().mpirun == programs / "mpirun"
    script(bin_ / "mpiexec", MPIRUN)
    assert find_genarris().mpirun == bin_ / "mpiexec"
    monkeypatch.setenv("GENARRIS_MPIRUN", str(programs / "mpirun"))
    assert find_genarris().mpirun == programs / "mpirun"
    monkeypatch.setenv("GENARRIS_MPIRUN", str(tmp_path / "none"))
    with pytest.raises(UserInputError, match=r"GENARRIS_MPIRUN is .* which is no command"):
        find_genarris()


def test_version_is_asked_of_its_own_python(tmp_path):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 9.8.7\n")
    python.chmod(0o755)
    gnrs = tmp_path / "gnrs"
    gnrs.write_text(f"#!{python}\n")
    assert genarris_program._version(gnrs) == "9.8.7"
    python.write_text("#!/bin/sh\nexit 1\n")
    assert genarris_program._version(gnrs) == "unknown"


# -- progress ------------------------------------------------------------------------------------
def test_progress_of_recorded_runs():
    plain = parse_progress((RECORDED / "plain/stdout.log").read_text())
    assert plain == GenarrisProgress("finished", 2, 19, 19, 0, 27, 29, 0, 0)
    press = parse_progress((RECORDED / "rigid_press/stdout.log").read_text())
    assert (press.phase, press.generated, press.pressed, press.to_press) == ("finished", 27, 27, 27)
    killed = parse_progress((RECORDED / "killed_midgen/stdout.log").read_text())
    assert (killed.phase, killed.groups_total, killed.groups_tried) == ("generation", 26, 14)
    assert (killed.space_group, killed.wanted) == (27, 140)
    assert killed.fraction == pytest.approx(13 / 26)


def test_progress_read_piece_by_piece_is_that_of_the_whole(tmp_path):
    text = (RECORDED / "killed_midgen/stdout.log").read_bytes()
    geometry = (RECORDED / "killed_midgen/geometry.out").read_bytes()
    (tmp_path / "tmp/generation").mkdir(parents=True)
    reader = ProgressReader(tmp_path)
    assert reader.read() == GenarrisProgress()
    with (
        open(tmp_path / "stdout.log", "ab") as stdout,
        open(tmp_path / "tmp/generation/geometry.out", "ab") as out,
    ):
        for k in range(0, 16000, 37):
            stdout.write(text[k : k + 37])
            out.write(geometry[k : k + 37])
            stdout.flush()
            out.flush()
            now = reader.read()
    whole = parse_progress(text.decode())
    assert now.groups_tried == whole.groups_tried
    assert now.generated == 3


def test_pressed_structures_are_counted_in_the_checkpoints(tmp_path):
    import json

    folder = press_run(tmp_path)
    text = (folder / "stdout.log").read_text()
    (folder / "stdout.log").write_text(text[: text.index("Optimizing structures")])
    data = json.loads((folder / "structures/symm_rigid_press/structures.json").read_text())
    placed = json.loads((folder / "structures/generation/structures.json").read_text())
    reader = ProgressReader(folder)
    assert (reader.read().phase, reader.read().pressed) == ("press", 0)
    for rank, names in enumerate((list(data)[:14], list(data)[14:])):
        path = folder / f"tmp/symm_rigid_press/rank_{rank}/{rank}.save"
        path.parent.mkdir(parents=True)
        held = {n: json.dumps((data if i < 4 else placed)[n]) for i, n in enumerate(names)}
        path.write_text(json.dumps(held))
        assert reader.read().pressed == 4 * (rank + 1)
    assert reader.read().fraction == pytest.approx(8 / 27)
    path.write_text("")  # as it is while it is written anew
    assert reader.read().pressed == 8


# -- running -------------------------------------------------------------------------------------
def test_run_to_success(programs, tmp_path):
    folder, params = prepared(tmp_path)
    # the recorded structures belong to the recorded conformer
    (folder / "mol.xyz").write_text((RECORDED / "plain/mol.xyz").read_text())
    seen = []
    run = run_genarris(folder, params, seen.append)
    assert (run.returncode, run.ended) == (0, "by itself")
    found = outcome(folder)
    assert (found.state, found.structures) == ("success", 27)
    assert all(s.ok for s in read_structures(folder))
    tried = [p.groups_tried for p in seen]
    assert tried == sorted(tried)
    assert len(set(tried)) > 2  # it was live
    assert seen[-1].phase == "finished"
    with pytest.raises(UserInputError, match="used before"):
        run_genarris(folder, params)


def test_folder_without_input_is_refused(programs, tmp_path):
    with pytest.raises(UserInputError, match="no input"):
        run_genarris(tmp_path, GenarrisParams())


@pytest.mark.parametrize("mode", ["hang", "deaf"])
def test_time_limit_ends_every_process_and_keeps_what_was_made(
    programs, tmp_path, monkeypatch, mode
):
    monkeypatch.setenv("MODE", mode)
    monkeypatch.setattr(genarris_run, "_GRACE_S", 0.5)
    monkeypatch.setenv("RECORDED", str(RECORDED / "killed_midgen"))
    folder, params = prepared(tmp_path, timeout_s=2.0)
    run = run_genarris(folder, params)
    assert (run.ended, run.returncode) == ("timeout", 15 if mode == "hang" else 128 + 9)
    pids = [int(p) for p in (folder / "pids").read_text().split()]
    assert len(pids) == 2
    assert not any(alive(p) for p in pids)
    found = outcome(folder)
    assert (found.state, found.structures) == ("partial", 3)
    assert "raise timeout_s" in found.sentence


def test_exception_of_the_callers_ends_the_run(programs, tmp_path, monkeypatch):
    monkeypatch.setenv("MODE", "hang")
    monkeypatch.setenv("RECORDED", str(RECORDED / "killed_midgen"))
    folder, params = prepared(tmp_path)

    def stop(progress):
        if progress.space_group:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_genarris(folder, params, stop)
    assert not any(alive(int(p)) for p in (folder / "pids").read_text().split())
    assert "was cancelled" in outcome(folder).sentence


on_linux = pytest.mark.skipif(
    not Path("/proc/self").exists(), reason="orphans are adopted on Linux alone"
)


@on_linux
def test_rank_that_its_launcher_leaves_behind_is_ended(programs, tmp_path, monkeypatch):
    monkeypatch.setenv("MODE", "orphan")
    folder, params = prepared(tmp_path)
    assert run_genarris(folder, params).returncode == 0
    assert outcome(folder).state == "success"
    assert not any(alive(int(p)) for p in (folder / "pids").read_text().split())


@on_linux
def test_run_ends_when_its_parent_is_killed(programs, tmp_path, monkeypatch):
    monkeypatch.setenv("MODE", "hang")
    monkeypatch.setenv("RECORDED", str(RECORDED / "killed_midgen"))
    folder, _ = prepared(tmp_path)
    code = (
        "from packflow_core.baselines.genarris import GenarrisParams, run_genarris\n"
        f"run_genarris({str(folder)!r}, GenarrisParams(z_values=(2,)))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    parent = subprocess.Popen([sys.executable, "-c", code], env=environment)
    try:
        assert wait_for(lambda: (folder / "pids").exists() and (folder / "pids").read_text())
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    pids = [int(p) for p in (folder / "pids").read_text().split()]
    try:
        assert wait_for((folder / "packflow_run.json").exists)
        assert not any(alive(p) for p in pids)
    finally:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    found = outcome(folder)
    assert found.state == "partial"
    assert "the process that had started it died" in found.sentence


def test_mpirun_of_another_mpi_is_found_out(programs, tmp_path, monkeypatch):
    monkeypatch.setenv("MODE", "other mpi")
    folder, params = prepared(tmp_path, mpi_ranks=2)
    assert run_genarris(folder, params).ended == "ranks"
    found = outcome(folder)
    assert found.state == "failed"
    assert "did not join 2 ranks" in found.sentence
    assert "GENARRIS_MPIRUN" in found.sentence


def test_crash_is_no_exception(programs, tmp_path, monkeypatch):
    monkeypatch.setenv("MODE", "crash")
    folder, params = prepared(tmp_path)
    assert run_genarris(folder, params).returncode == 3
    assert outcome(folder).sentence == (
        "Genarris ended with exit code 3 (no such thing); it left no structure."
    )


def test_launcher_that_cannot_start(programs, tmp_path):
    folder, params = prepared(tmp_path)
    (programs / "mpirun").write_text("#!/does/not/exist\n")
    assert run_genarris(folder, params).returncode == 127
    assert "could not be started" in outcome(folder).sentence
