"""Baselines in the stage `generate`: real workers, fixed results, every failure a row."""

import os

import pytest

from packflow_core.errors import UserInputError
from packflow_core.spec import make_spec
from packflow_core.stages import generators
from packflow_core.stages.chunk import run_chunk
from packflow_core.stages.generation import check_ranks, run_make_rows
from packflow_core.stages.pipeline import run_stage, run_stages
from packflow_core.stages.plan import make_plan
from packflow_core.stages.pools import close_pools
from packflow_core.stages.run_store import OpenRun, plan_for
from packflow_core.store.rows import crystal_of, same_result

SPEC = {
    "smiles": "NC(N)=O", "name": "urea", "z": [2, 4], "n": 40, "seed": 3, "generator": "random",
    "conformers": {"n_embed": 2},
}  # fmt: skip


def opened(folder, **fields):
    spec = make_spec({**SPEC, **fields})
    return OpenRun(folder, plan_for(spec, folder))


@pytest.fixture
def workers():
    yield 2
    close_pools()


def test_random_candidates_are_those_of_the_function_whoever_makes_them(tmp_path, workers):
    with opened(tmp_path / "run") as run:
        result = run_chunk(run.folder, "generate", run.pending("generate"), workers)
        assert result.counts == {"ok": 40}
        assert run.pending("generate") == []
        rows = run.stage("generate").rows()
        alone = generators.make_rows(run, [(i, 1) for i in (33, 2)])
    assert [row["index"] for row in rows] == list(range(40))
    assert same_result(rows[33], alone[0])
    assert same_result(rows[2], alone[1])
    row = rows[5]
    assert (row["candidate_id"], row["method"], row["campaign"]) == (
        "urea-z4-000005", "random", "single",
    )  # fmt: skip
    assert row["stage_key"] == run.plan.key("generate")
    assert row["engine"] == "random 1"
    assert crystal_of(row).numbers.tolist() == [7, 6, 7, 8, 1, 1, 1, 1] * 4


def test_a_larger_n_adds_candidates_to_those_there(tmp_path, workers):
    with opened(tmp_path / "run", n=5) as run:
        run_chunk(run.folder, "generate", run.pending("generate"), workers)
        few = run.stage("generate").rows()
    with opened(tmp_path / "run", n=12) as run:
        assert run.pending("generate") == [(i, 1) for i in range(5, 12)]
        run_chunk(run.folder, "generate", run.pending("generate"), workers)
        rows = run.stage("generate").rows()
    assert len(rows) == 12
    assert all(same_result(a, b) for a, b in zip(few, rows, strict=False))


def test_a_baseline_goes_through_all_stages(tmp_path, workers):
    fields = {"n": 4, "z": [2], "engine": "springs", "relax": {"max_steps": 40}}
    with opened(tmp_path / "run", **fields, rank={"include_unconverged": True}) as run:
        run_stages(run, workers)
        relaxed_h = run.stage("relax_h").rows()
        assert {row["status"] for row in relaxed_h} == {"ok"}
        assert all("passed through" in row["detail"] for row in relaxed_h)
        for stage in run.plan.stage_names[1:-1]:
            conformers = [row["conformer"] for row in run.stage(stage).rows()]
            assert all(isinstance(number, int) for number in conformers)
        assert len(run.stage("relax").rows()) == 4


def test_a_lost_worker_costs_its_block_an_attempt_and_no_candidate(tmp_path, monkeypatch, workers):
    """A marker file makes the first worker that draws candidate 34 die."""
    marker = tmp_path / "marker"
    marker.touch()
    with opened(tmp_path / "run") as run:
        dying = run_make_rows_that_dies_once
        monkeypatch.setenv("DIE_ONCE", str(marker))
        monkeypatch.setattr("packflow_core.stages.generation.run_make_rows", dying)

        def in_chunks(stage, cut):
            return [run_chunk(run.folder, stage, work, workers) for work in cut]

        run_stage(run, "generate", in_chunks)
        rows = run.stage("generate").rows()
    assert not marker.exists()
    assert [row["index"] for row in rows] == list(range(40))
    assert {row["status"] for row in rows} == {"ok"}


def run_make_rows_that_dies_once(members, run_folder):
    from pathlib import Path

    marker = Path(os.environ["DIE_ONCE"])
    for row in run_make_rows(members, run_folder):
        if row is not None and row[0] == 34 and marker.exists():
            marker.unlink()
            os._exit(1)
        yield row


def test_settings_of_other_generators_do_not_count():
    spec = make_spec(SPEC)
    other = make_spec({**SPEC, "generate": {"steps": 7}, "genarris": {"sr": 0.9}})
    plan = make_plan(spec)
    assert make_plan(other).identity() == plan.identity()
    assert make_plan(other).key("generate") == plan.key("generate")
    looser = make_plan(make_spec({**SPEC, "random": {"pack": {"volume_factor": 2.0}}}))
    assert looser.key("generate") != plan.key("generate")
    pressed = make_plan(make_spec({**SPEC, "generator": "random+press"}))
    assert pressed.key("generate") != plan.key("generate")
    assert pressed.stages["generate"].identity == "random+press (random 1)"


@pytest.mark.parametrize(
    ("generator", "says"),
    [("packflow-open", "needs no MPI"), ("genarris-press", "genarris.mpi_ranks=N")],
)
def test_ranks_are_refused_where_they_mean_nothing(generator, says):
    spec = make_spec({**SPEC, "generator": generator})
    check_ranks(spec, None)
    with pytest.raises(UserInputError, match=says):
        check_ranks(spec, 2)


def test_a_missing_genarris_is_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("GENARRIS_PYTHON", raising=False)
    with pytest.raises(UserInputError, match="Genarris is not installed: install it from"):
        make_plan(make_spec({**SPEC, "generator": "genarris-plain"}))
