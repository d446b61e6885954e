"""Genarris as the generator of a run; recorded runs of 3.1.4 stand in for the program."""

import pytest
from genarris_programs import install

from packflow_core.baselines.genarris import GenarrisProgress
from packflow_core.chem.molecule import Molecule
from packflow_core.spec import make_spec
from packflow_core.stages.chunk import run_chunk
from packflow_core.stages.genarris_runs import describe
from packflow_core.stages.hydrogenate import HydrogenateParams, hydrogenate
from packflow_core.stages.pipeline import run_stage
from packflow_core.stages.pools import StoppedError
from packflow_core.stages.run_store import OpenRun, plan_for
from packflow_core.store.rows import crystal_of, same_result

UREA = {
    "smiles": "NC(N)=O", "name": "urea", "z": [2], "n": 20, "seed": 3,
    "generator": "genarris-plain",
}  # fmt: skip


@pytest.fixture
def programs(tmp_path, monkeypatch):
    return install(tmp_path / "bin", monkeypatch)


def opened(folder, **fields):
    return OpenRun(folder, plan_for(make_spec({**UREA, **fields}), folder))


def generate(run):
    def in_chunks(stage, cut):
        return [run_chunk(run.folder, stage, work, 1) for work in cut]

    run_stage(run, "generate", in_chunks)
    return run.stage("generate").rows()


def test_structures_become_candidates(programs, tmp_path):
    with opened(tmp_path / "run") as run:
        rows = generate(run)
    assert [row["index"] for row in rows] == list(range(20))
    assert {row["status"] for row in rows} == {"ok"}
    assert len({row["source_id"] for row in rows}) == 20
    first = rows[0]
    assert (first["candidate_id"], first["method"]) == ("urea-z2-000000", "genarris-plain")
    assert (first["conformer"], first["engine"]) == (0, "genarris-plain (genarris 3.1.4)")
    # The recorded run has few structures in each of many groups: equal shares show.
    assert len({row["space_group_drawn"] for row in rows}) >= 6
    molecule = Molecule.from_smiles("NC(N)=O")
    row = hydrogenate(first, molecule, HydrogenateParams())
    assert row["status"] == "ok"
    assert "genarris-plain" in row["detail"]
    assert crystal_of(row).positions.tolist() == crystal_of(first).positions.tolist()


def test_what_genarris_did_not_make_has_a_row_that_says_so(programs, tmp_path):
    with opened(tmp_path / "run", n=30) as run:
        rows = generate(run)
    made = [row for row in rows if row["status"] == "ok"]
    missing = [row for row in rows if row["status"] == "failed"]
    assert (len(made), len(missing)) == (27, 3)
    assert {row["reason"] for row in missing} == {"overlap"}
    assert missing[0]["detail"] == "Genarris made 27 sound structures of the 30 wanted"


def test_a_crash_is_told_and_costs_no_row(programs, tmp_path, monkeypatch):
    monkeypatch.setenv("MODE", "crash")
    with opened(tmp_path / "run", n=4) as run:
        rows = generate(run)
    assert {(row["status"], row["reason"]) for row in rows} == {("failed", "engine_error")}
    assert "exit code 3 (no such thing)" in rows[0]["detail"]


def test_a_time_limit_salvages_and_the_rest_is_tried_again_with_twice_the_time(
    programs, tmp_path, monkeypatch
):
    monkeypatch.setenv("MODE", "other mpi")
    limited = {"timeout_s": 0.5, "mpi_ranks": 1}
    with opened(tmp_path / "run", n=3, genarris=limited) as run:
        rows = generate(run)
        folders = sorted(p.name for p in (run.folder / "genarris").iterdir())
    assert {(row["status"], row["reason"], row["attempt"]) for row in rows} == {
        ("failed", "timeout", 2)
    }
    assert "time limit" in rows[0]["detail"]
    assert folders == ["z2-c0-000000-000002", "z2-c0-000000-000002-attempt2"]


def test_a_finished_run_of_genarris_is_not_repeated_and_an_unfinished_one_is_kept(
    programs, tmp_path, monkeypatch
):
    from packflow_core.stages import genarris_runs, generation

    whole = tmp_path / "whole"
    with opened(whole) as run:
        expected = generate(run)
    calls = []
    real = genarris_runs.run_genarris
    monkeypatch.setattr(
        genarris_runs, "run_genarris", lambda *a, **k: calls.append(a[0].name) or real(*a, **k)
    )

    def killed(*args):
        raise StoppedError("stop")

    # Cut off before anything was read: the folder of the run is there, whole.
    with monkeypatch.context() as patch, opened(tmp_path / "run") as run:
        patch.setattr(generation, "_write", killed)
        with pytest.raises(StoppedError):
            run_chunk(run.folder, "generate", run.pending("generate"), 1)
    with opened(tmp_path / "run") as run:
        rows = generate(run)
    assert calls == ["z2-c0-000000-000019"]
    assert all(same_result(a, b) for a, b in zip(rows, expected, strict=True))
    # Cut off while Genarris worked: what it left is put aside.
    with opened(tmp_path / "cut") as run:
        folder = run.folder / "genarris" / "z2-c0-000000-000019"
        folder.mkdir(parents=True)
        (folder / "stdout.log").write_text("half a line")
        rows = generate(run)
        assert (folder.parent / f"{folder.name}.unfinished1" / "stdout.log").exists()
    assert all(same_result(a, b) for a, b in zip(rows, expected, strict=True))


def test_conformers_have_runs_of_their_own(programs, tmp_path, monkeypatch):
    monkeypatch.setenv("MODE", "crash")
    aspirin = {
        "smiles": "CC(=O)Oc1ccccc1C(=O)O",
        "name": "x",
        "n": 7,
        "genarris": {"n_conformers": 2},
    }
    with opened(tmp_path / "run", **aspirin) as run:
        rows = generate(run)
        inputs = {p.parent.name: p.read_text() for p in run.folder.glob("genarris/*/mol.xyz")}
    assert sorted(inputs) == ["z2-c0-000000-000006", "z2-c1-000001-000005"]
    assert len(set(inputs.values())) == 2
    assert [row["conformer"] for row in rows] == [0, 1, 0, 1, 0, 1, 0]


def test_progress_in_words():
    now = GenarrisProgress(
        phase="generation", space_group=14, groups_tried=3, groups_total=9, generated=12
    )
    assert describe(now) == "space group 14 (3 of 9), 12 structures"
    now = GenarrisProgress(phase="press", pressed=2, to_press=5)
    assert describe(now) == "press, 2 of 5 structures"
