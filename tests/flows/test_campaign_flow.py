"""A campaign: its targets as flows, the table of all, and what survives a failure or a stop."""

import csv
import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from flows import campaign as module
from flows.campaign_runs import CampaignEndedError, Search, open_campaign
from flows.how import How
from packflow_core.campaign_report import CSV, FORMS, MARKDOWN, REPORT, TABLE
from packflow_core.campaign_table import FORM_SCHEMA, TARGET_SCHEMA
from packflow_core.errors import RunFailedError, UserInputError
from packflow_core.stages.finish import RANKED
from packflow_core.stages.finish import REPORT as RUN_REPORT
from packflow_core.stages.pipeline import run_stages as run_all_stages
from packflow_core.stages.run_store import OpenRun, plan_for
from packflow_core.store.schema import stage_schema


@pytest.fixture
def campaign_file(tmp_path):
    path = tmp_path / "three.yaml"
    targets = [
        {"name": "one", "label": "I", "smiles": "C=O", "blind_test": 1, "known": [
            {"refcode": "ONEONE", "space_group": "P 1 21/c 1", "z": 2, "density": 1.2,
             "cell": [9, 10, 11, 90, 90, 90]}]},
        {"name": "two", "label": "II", "smiles": "C=O"},
        {"name": "wide", "smiles": "C=O", "run": {"density": "9:10"}},
    ]  # fmt: skip
    targets[0]["known"][0]["density"] = round(2 * 30.026 / 990 * 1.66053906660, 3)
    content = {
        "name": "three", "defaults": {"z": [2], "n": 10}, "targets": targets,
        "citations": {1: "Someone, <Journal> 1900"}, "left_out": {"III": "salt"},
    }  # fmt: skip
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture
def runs(campaign_file, tmp_path):
    return open_campaign(str(campaign_file), [], Search(), tmp_path / "out")


@pytest.fixture
def run_stages(stub_generator, workers, monkeypatch):
    """Targets are run by the plain functions, in this process, without Prefect."""
    workers()
    done = []

    def stand_in(spec, out, **how):
        done.append(spec.name)
        folder = Path(out)
        with OpenRun(folder, plan_for(spec, folder), command=["csp"]) as run:
            run_all_stages(run, 1)
            rows = sorted(run.stage("rank").rows(), key=lambda row: row["energy_eV"])
            ranked = [
                {**row, "rank": number, "representative": True, "space_group": "P1",
                 "lattice_energy_rel_kJ_mol": float(number - 1)}
                for number, row in enumerate(rows, start=1)
            ]  # fmt: skip
            table = pa.Table.from_pylist(ranked, schema=stage_schema("rank"))
            pq.write_table(table, folder / RANKED)
            (folder / RUN_REPORT).write_text("report")
            run.end_session("finished")

    monkeypatch.setattr(module, "csp", stand_in)
    return done


def test_a_refused_target_costs_itself_alone(runs, run_stages, tmp_path):
    assert [item.spec is None for item in runs.items] == [False, False, True]
    counts = []
    module.run_here(runs, How(1), lambda *count: counts.append(count))
    assert run_stages == ["one", "two"]
    assert counts == [(1, 3), (2, 3), (3, 3)]
    document = module._write(runs)
    rows = document["targets"]
    assert [row["status"] for row in rows] == ["finished", "finished", "failed"]
    assert "density" in rows[2]["reason"]
    error = runs.verdict()
    assert isinstance(error, CampaignEndedError)
    assert error.exit_code == 1
    assert "1 of 3 targets of the campaign three did not finish (wide)" in str(error)
    one = rows[0]
    assert (one["n"], one["n_generated"], one["n_ranked"], one["label"]) == (10, 8, 8, "I")
    assert one["known_density_g_cm3"] == pytest.approx(0.101, abs=1e-3)
    # The boxes of the stand-in are 9 x 10 x 11 Å with two molecules, as published.
    assert (one["n_known"], one["n_cells_found"]) == (1, 1)
    assert (rows[1]["n_known"], rows[1]["n_cells_found"]) == (0, None)


def test_files_hold_the_same_numbers(runs, run_stages):
    module.run_here(runs, How(1), lambda *_: None)
    document = module._write(runs)
    folder = runs.folder
    table = pq.read_table(folder / TABLE)
    assert table.schema.equals(TARGET_SCHEMA)
    assert table.schema.field("work_s").metadata == {
        b"description": b"working time of all candidates, all stages", b"unit": b"s",
    }  # fmt: skip
    assert (
        table.to_pylist()
        == document["targets"]
        == json.loads((folder / module.STATE_JSON).read_text())["targets"]
    )
    forms = pq.read_table(folder / FORMS)
    assert forms.schema.equals(FORM_SCHEMA)
    (form,) = forms.to_pylist()
    assert (form["target"], form["refcode"], form["rank"]) == ("one", "ONEONE", 1)
    with (folder / CSV).open() as handle:
        lines = list(csv.DictReader(handle))
    assert [line["target"] for line in lines] == ["one", "two", "wide"]
    assert lines[2]["n_ranked"] == ""
    page = (folder / REPORT).read_text()
    assert "2 of 3" in page
    assert "Someone, &lt;Journal&gt; 1900" in page
    assert re.findall(r'(?:src|href)="([^"]+)"', page) == [
        f"{name}/packflow-open/report.html" for name in ("one", "two")
    ]
    markdown = (folder / MARKDOWN).read_text()
    assert "| one | I |" in markdown
    assert "- **wide**: " in markdown


def test_a_campaign_goes_on_where_it_was(campaign_file, run_stages, tmp_path, monkeypatch):
    def opened():
        return open_campaign(str(campaign_file), ["I", "two"], Search(), tmp_path / "out")

    whole = module.csp

    def breaks(spec, out, **how):
        if spec.name == "two":
            raise RunFailedError("The disk is gone.")
        whole(spec, out)

    monkeypatch.setattr(module, "csp", breaks)
    first = opened()
    module.run_here(first, How(1), lambda *_: None)
    assert [row["status"] for row in first.tables()[0]] == ["finished", "failed"]
    assert first.tables()[0][1]["reason"] == "The disk is gone."
    monkeypatch.setattr(module, "csp", whole)
    again = opened()
    assert [item.is_finished() for item in again.items] == [True, False]
    module.run_here(again, How(1), lambda *_: None)
    assert run_stages == ["one", "two"]  # the first was not run again
    assert again.verdict() is None
    # More candidates continue both.
    more = open_campaign(str(campaign_file), ["I", "two"], Search(n=12), tmp_path / "out")
    module.run_here(more, How(1), lambda *_: None)
    assert run_stages == ["one", "two", "one", "two"]
    assert [row["n"] for row in more.tables()[0]] == [12, 12]


def test_a_bug_in_one_target_is_told_and_the_others_are_run(runs, run_stages, monkeypatch):
    whole = module.csp

    def breaks(spec, out, **how):
        if spec.name == "one":
            raise ZeroDivisionError("by zero")
        whole(spec, out)

    monkeypatch.setattr(module, "csp", breaks)
    module.run_here(runs, How(1), lambda *_: None)
    rows = runs.tables()[0]
    assert [row["status"] for row in rows] == ["failed", "finished", "failed"]
    assert rows[0]["reason"] == "The run broke unexpectedly (ZeroDivisionError: by zero)."


def test_a_damaged_folder_is_a_row(runs, run_stages):
    module.run_here(runs, How(1), lambda *_: None)
    (runs.items[0].folder / "run.json").write_text("{")
    (runs.items[1].folder / "ranked.parquet").write_bytes(b"PAR1")
    rows = runs.tables()[0]
    assert [row["status"] for row in rows] == ["failed"] * 3
    assert "is damaged" in rows[0]["reason"]
    assert "is damaged" in rows[1]["reason"]


def test_a_fault_of_all_targets_is_one_of_the_input(campaign_file, tmp_path):
    with pytest.raises(UserInputError, match="generator"):
        open_campaign(str(campaign_file), [], Search(generator=" "), tmp_path)
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(UserInputError, match="holds a run"):
        open_campaign(str(campaign_file), [], Search(), tmp_path)


def test_a_dated_campaign_has_a_folder_of_its_own(runs):
    dated = runs.in_subfolder("2026-01-02")
    assert dated.folder == runs.folder / "2026-01-02"
    assert dated.items[0].folder == runs.folder / "2026-01-02" / "one" / "packflow-open"


def test_what_a_search_says_wins(campaign_file, tmp_path):
    search = Search(n=3, generator="random", protocol="paper", seed=5)
    items = open_campaign(str(campaign_file), ["two"], search, tmp_path / "out").items
    spec = items[0].spec
    assert (spec.n, spec.method, spec.relax.protocol, spec.seed) == (3, "random", "paper", 5)
    assert items[0].folder == tmp_path / "out" / "two" / "random"
