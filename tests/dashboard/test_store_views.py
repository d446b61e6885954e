"""The views of runs against the ledger of the core, and what damage costs."""

import datetime
import json
import os

import numpy as np
import pyarrow.parquet as pq
import pytest
from synthetic_campaign import write_campaign

from dashboard.discovery import find, identity
from dashboard.runs import BrokenRun, read_run
from dashboard.tables import TableCache, candidate_rows
from packflow_core.stages.requeue import requeue
from packflow_core.stages.run_store import RunStore
from packflow_core.store.lock import RunLock


def same_as_ledger(view):
    """Every count of a view is that of the core's own ledger."""
    names = ("eligible", "ok", "unconverged", "rejected", "failed", "attempted", "again", "pending")
    for mine, core in zip(view.stages, RunStore(view.folder).ledger(), strict=True):
        assert mine.name == core.stage
        assert {n: getattr(mine, n) for n in names} == {n: getattr(core, n) for n in names}
        reasons = {f"{r.status}: {r.reason}": r.count for r in mine.reasons}
        assert reasons == core.reasons


def test_counts_of_a_finished_run_are_those_of_the_core(small, open_store):
    (view,) = open_store(small.parents[2]).runs()
    same_as_ledger(view)
    assert (view.campaign, view.target, view.method, view.n) == (
        "synthetic", "urea", "random", 400,
    )  # fmt: skip
    assert (view.status, view.problems, view.at_work) == ("finished", (), None)
    spent = sum(row["wall_s"] for s in view.stages for row in view.store.stage(s.name).rows())
    assert view.cpu_s == pytest.approx(spent)
    assert view.gpu_s == 0


def test_an_unfinished_run_with_a_journal_and_wishes_counts_like_the_core(tmp_path, open_store):
    folder = write_campaign(tmp_path / "run", 300, stop=("relax", 0.5), part=50)
    run = RunStore(folder)
    failed = [a for a in run.attempts("relax").values() if a.status == "failed"]
    assert failed, "the seed gives failures"
    requeue(run, failed[0].reason)
    # The rest of a chunk still at work: rows in a journal, one of them a second attempt.
    rows = run.stage("relax").rows()
    again = next(row for row in rows if row["status"] == "failed")
    journal = run.stage("relax").open_journal("chunk")
    journal.append({**again, "attempt": 2, "status": "ok", "reason": "", "device": "cuda:0"})
    (view,) = open_store(tmp_path).runs()
    same_as_ledger(view)
    assert view.status == "interrupted"
    assert view.at_work.name == "relax"
    assert view.gpu_s == pytest.approx(again["wall_s"])
    last = view.tables["relax"].frame.set_index("index").loc[again["index"]]
    assert (last["status"], last["attempt"]) == ("ok", 2)
    attempts, _ = candidate_rows(run.stage("relax").folder, "relax", again["index"])
    assert [(row["attempt"], row["status"]) for row in attempts] == [(1, "failed"), (2, "ok")]


def test_rate_and_time_left_of_a_run_at_work(tmp_path):
    folder = write_campaign(tmp_path / "run", 400, stop=("relax", 0.25), part=20)
    content = json.loads((folder / "run.json").read_text())
    content["status"] = "running"
    content["sessions"][-1].update(started="2026-01-01T00:00:00+00:00")
    content["sessions"][-1].pop("ended")
    (folder / "run.json").write_text(json.dumps(content))
    began = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC).timestamp()
    for path in folder.rglob("part-*.parquet"):
        # The stages before ended 10 s after the beginning, this one has been at work since then.
        moment = began + (60 if path.parent.name.startswith("relax-") else 10)
        os.utime(path, (moment, moment))
    with RunLock(folder):
        view = read_run("x", folder, TableCache(), now=began + 110.0)
    relax = view.at_work
    assert (view.status, relax.name, view.elapsed_s) == ("running", "relax", 110.0)
    assert relax.rate == pytest.approx(relax.attempted / 100.0)
    assert relax.left_s == pytest.approx(relax.pending / relax.rate)
    view = read_run("x", folder, TableCache(), now=began + 110.0)
    # Killed: its session ended with the last file that it wrote.
    assert (view.status, view.at_work.rate, view.elapsed_s) == ("interrupted", None, 60.0)


def test_a_damaged_part_costs_its_candidates_and_a_sentence(copy, open_store):
    run = RunStore(copy)
    parts = sorted(run.stage("relax").folder.glob("part-*.parquet"))
    lost = len(pq.read_table(parts[1]))
    parts[1].write_bytes(parts[1].read_bytes()[:-100])
    (view,) = open_store(copy).runs()
    assert len(view.problems) == 1
    assert parts[1].name in view.problems[0]
    assert "damaged" in view.problems[0]
    whole = sum(len(pq.read_table(p)) for p in [parts[0], *parts[2:]])
    assert next(s for s in view.stages if s.name == "relax").attempted == whole
    assert lost > 0


@pytest.mark.parametrize(
    "content", ["", "{", '{"format": 99}', '{"format": 1, "spec": {"n": "<b>"}}']
)
def test_a_damaged_run_is_a_sentence_beside_the_others(content, copy, small, open_store):
    (copy / "run.json").write_text(content)
    broken, whole = sorted(
        open_store(copy, small).views(), key=lambda v: not isinstance(v, BrokenRun)
    )
    assert isinstance(broken, BrokenRun)
    assert broken.sentence
    assert "\n" not in broken.sentence
    assert whole.id == identity(small)


def test_only_what_is_new_is_read_again(copy, open_store, monkeypatch):
    from dashboard import tables

    read = []
    original = tables._read
    monkeypatch.setattr(
        tables, "_read", lambda path, schema: read.append(path) or original(path, schema)
    )
    store = open_store(copy)
    first = store.runs()[0]
    files = len(list(copy.rglob("part-*.parquet")))
    assert len(read) == files
    version = store.refresh()
    assert store.runs()[0] is first
    assert store.refresh() == version
    stage = RunStore(copy).stage("rank")
    old = next(iter(stage.folder.glob("part-*.parquet")))
    table = pq.read_table(old)
    pq.write_table(table, stage.folder / "part-00000900-00000999-new.parquet")
    assert store.refresh() > version
    assert store.runs()[0] is not first
    assert len(read) == files + 1


def test_runs_are_found_by_identity_and_links_are_not_followed(small, tmp_path):
    (tmp_path / "link").symlink_to(small)
    (tmp_path / "race").mkdir()
    (tmp_path / "race" / "comparison.json").write_text("{}")
    found = find([tmp_path])
    assert found.runs == {}
    assert list(found.comparisons.values()) == [tmp_path / "race"]
    assert find([small]).runs == {identity(small): small}
    assert find([tmp_path / "nothing"]).runs == {}


def test_light_columns_of_a_stage_that_has_never_run_are_there(tmp_path):
    table = TableCache().stage(tmp_path / "relax-00000000", "relax")
    assert len(table.frame) == 0
    assert {"status", "energy_eV", "density_g_cm3"} <= set(table.frame.columns)
    assert np.isclose(sum(table.attempts_wall_s.values()), 0.0)
