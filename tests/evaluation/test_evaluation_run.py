"""Whole evaluations with real workers: rows for everything, continued, never broken by one."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from packflow_core import progress
from packflow_core.analysis.metrics import amd_distance
from packflow_core.crystal.cif import read_cif
from packflow_core.errors import RunFailedError, UserInputError
from packflow_core.evaluation import drawing, measuring
from packflow_core.evaluation.evaluation import evaluate
from packflow_core.evaluation.figures import metrics_figure
from packflow_core.evaluation.report import write_report
from packflow_core.evaluation.schema import METRICS, PROPOSALS
from packflow_core.evaluation.settings import make_settings
from packflow_core.evaluation.style import figure_bytes, make_series
from packflow_core.evaluation.units import make_generator
from packflow_core.stages import pools
from packflow_core.stages.run_store import RunStore
from packflow_core.store.rows import crystal_of
from packflow_core.workers import WorkerPool

#: A generator without a network: quick, and its crystals are real packings.
RANDOM = {"conformers": {"n_embed": 1}}


@pytest.fixture(scope="module")
def worker():
    with WorkerPool(1) as pool:
        yield pool


@pytest.fixture(autouse=True)
def _one_worker_for_all(worker, monkeypatch):
    """Starting one takes seconds; evaluations have one each, for its log."""
    monkeypatch.setattr(pools, "pool", lambda seats, log: worker)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A tiny open model with random weights: it draws nonsense, but all of the way."""
    import torch

    from packflow_core.model.checkpoint import save_open
    from packflow_core.model.open_model import OpenConfig, OpenPackFlow

    torch.manual_seed(0)
    net = OpenPackFlow(
        OpenConfig(d_model=16, nhead=2, num_layers=1, dim_feedforward=16, time_embed_dim=8)
    )
    path = tmp_path_factory.mktemp("model") / "tiny.pt"
    save_open(path, net, net.state_dict(), {})
    return path


def settings_of(folder, **values):
    values = {"generators": ("random",), "n": 6, "spec": RANDOM, "resamples": 100, **values}
    return make_settings({"targets": (folder,), **values})


def count_drawn(monkeypatch):
    """Blocks that workers were given to draw."""
    drawn = []
    original = drawing._draw

    def draw(runs, work, label, pool):
        drawn.extend((u.molecule_name, sorted(i for i, _ in w)) for u, w in work.items())
        original(runs, work, label, pool)

    monkeypatch.setattr(drawing, "_draw", draw)
    return drawn


def test_every_proposal_is_a_row_and_a_larger_n_adds_to_them(folder, tmp_path, monkeypatch):
    drawn = count_drawn(monkeypatch)
    out = tmp_path / "out"
    found = evaluate(settings_of(folder), out, 1)
    table = found.proposals
    assert len(table) == 2 * 6
    assert set(table["variant"]) == {"raw"}
    assert table.groupby("target")["index"].apply(list).tolist() == [list(range(6))] * 2
    ok = table[table["status"] == "ok"]
    assert len(ok) >= 8
    assert ok[list(METRICS)].notna().to_numpy().all()
    assert (ok["bonds_ok"] == 1.0).all()
    assert (table["wall_s"] > 0).all()
    # The numbers are those of the crystals in the run folders.
    row = ok[ok["target"] == "UREA"].iloc[0]
    run = RunStore(out / "runs/random/raw/UREA-z2-s0")
    crystal = crystal_of(run.stage("generate").rows([int(row["index"])])[0])
    known = read_cif(folder / "urea.cif")
    assert row["amd_linf_A"] == pytest.approx(
        amd_distance(crystal.heavy_only(), known.heavy_only()), abs=1e-9
    )
    assert row["candidate_id"].startswith("UREA-z2-")
    assert len(drawn) == 2

    again = evaluate(settings_of(folder), out, 1).proposals
    assert len(drawn) == 2
    pd.testing.assert_frame_equal(again, table)
    more = evaluate(settings_of(folder, n=8), out, 1).proposals
    assert drawn[2:] == [("BENZENE", [6, 7]), ("UREA", [6, 7])]
    fewer = evaluate(settings_of(folder, n=3), out, 1).proposals
    assert len(drawn) == 4
    for part, n in ((more, 8), (fewer, 3)):
        assert part.groupby("target").size().tolist() == [n, n]
        both = part.merge(table, on=["target", "index"])
        assert len(both) == 2 * min(n, 6)
        assert both["amd_linf_A_x"].equals(both["amd_linf_A_y"])


def test_a_part_that_is_gone_is_computed_again_and_nothing_else(folder, tmp_path, monkeypatch):
    out = tmp_path / "out"
    table = evaluate(settings_of(folder, n=2), out, 1).proposals
    drawn = count_drawn(monkeypatch)
    measured = []
    original = measuring._load
    monkeypatch.setattr(
        measuring, "_load", lambda u, v, n: measured.append(u.molecule_name) or original(u, v, n)
    )
    next((out / "metrics/random").glob("UREA-*.parquet")).unlink()
    again = evaluate(settings_of(folder, n=2), out, 1).proposals
    assert (drawn, measured) == ([], ["UREA"])
    pd.testing.assert_frame_equal(again, table)
    # Known forms that change are compared with anew; proposals stay.
    (folder / "urea.cif").write_text(
        (folder / "urea.cif").read_text().replace("_cell_length_c 4.684", "_cell_length_c 4.7")
    )
    changed = evaluate(settings_of(folder, n=2), out, 1).proposals
    assert (drawn, measured) == ([], ["UREA", "UREA"])
    urea = changed["target"] == "UREA"
    assert (changed.loc[urea, "amd_linf_A"] != table.loc[urea, "amd_linf_A"]).all()
    part = next((out / "metrics/random").glob("BENZENE-*.parquet"))
    part.write_bytes(b"damaged")
    with pytest.raises(RunFailedError, match="remove it and give the same command again"):
        evaluate(settings_of(folder, n=2), out, 1)


def test_a_model_is_measured_raw_with_restarts_and_repaired(folder, tmp_path, model):
    spec = {"generate": {"steps": 2, "restart_steps": 1, "restarts": (0.5,)}}
    settings = settings_of(folder, generators=(str(model),), n=2, seeds=(0, 1), spec=spec)
    out = tmp_path / "out"
    found = evaluate(settings, out, 1)
    table = found.proposals
    assert dict(found.generators[0].sampling) == {
        "raw": "raw", "restarts": "restarts", "repaired": "restarts",
    }  # fmt: skip
    assert table.groupby(["variant", "target", "seed"]).size().tolist() == [2] * 12
    sound = table.groupby("variant")["molecules_sound"].mean()
    assert sound["raw"] < 0.5  # random weights draw no molecules
    assert sound["restarts"] == 1.0  # the sampler ends on conformers
    repaired = table[(table["variant"] == "repaired") & (table["status"] == "ok")]
    assert (repaired["clash_percent"] == 0).all()
    assert (repaired["repair_s"] > 0).all()
    assert table.loc[table["variant"] != "repaired", "repair_s"].isna().all()
    assert set(table["generator"]) == {"tiny"}
    restarted = table[table["variant"] == "restarts"].reset_index()
    raw = table[table["variant"] == "raw"].reset_index()
    assert (restarted["amd_linf_A"] != raw["amd_linf_A"]).all()
    # The same proposals stand behind the last two variants.
    assert (
        restarted["candidate_id"].tolist()
        == table.loc[table["variant"] == "repaired", "candidate_id"].tolist()
    )
    only = settings_of(folder, generators=(str(model),), n=2, variants=("raw",), spec=spec)
    assert set(evaluate(only, out, 1).proposals["variant"]) == {"raw"}
    changed = settings_of(
        folder, generators=(str(model),), n=2, spec={"generate": {"steps": 3, "restarts": (0.5,)}}
    )
    with pytest.raises(UserInputError, match=r"generate\.steps is 2 there and 3 here"):
        evaluate(changed, out, 1)


def test_on_a_gpu_the_model_samples_in_this_process(folder, tmp_path, model, monkeypatch):
    """What such a machine would do, on the CPU; the same bits either way."""
    spec = {"generate": {"steps": 2, "restarts": ()}}
    settings = settings_of(folder, generators=(str(model),), n=2, variants=("raw",), spec=spec)
    workers = evaluate(settings, tmp_path / "a", 1).proposals
    monkeypatch.setattr(drawing, "_on_gpu", lambda run: True)
    monkeypatch.setattr(drawing, "draw_members", None)
    here = evaluate(settings, tmp_path / "b", 1).proposals
    assert here["amd_linf_A"].tolist() == workers["amd_linf_A"].tolist()


def test_what_cannot_be_drawn_has_rows_that_say_why(folder, tmp_path):
    """No molecule fits P2_1/c with three in the cell; one CIF is not there at all."""
    spec = {"conformers": {"n_embed": 1}, "random": {"pack": {"space_groups": (14,)}}}
    rows = pd.read_csv(folder / "manifest.csv").to_dict("records")
    rows.append({"file": "gone.cif", "smiles": "CC", "csd_refcode": "GONE01"})
    pd.DataFrame(rows).to_csv(folder / "manifest.csv", index=False)
    settings = settings_of(folder, n=2, z=(3,), spec=spec)
    out = tmp_path / "out"
    found = evaluate(settings, out, 1)
    assert len(found.proposals) == 4
    assert set(found.proposals["status"]) == {"failed"}
    assert found.proposals["detail"].str.len().gt(10).all()
    assert found.proposals["wall_s"].isna().all()
    document = write_report(found, out)
    line = document["results"][0]
    assert (line["measured"], line["targets_measured"], line["targets_near"]) == (0, 0, 0)
    assert line["amd_linf_A"] == {"mean": None, "low": None, "high": None}
    assert sum(line["reasons"].values()) == 4
    assert [r["name"] for r in document["refused"]] == ["GONE01"]
    text = (out / "evaluation.md").read_text()
    assert "GONE01" in text
    targets = pq.read_table(out / "targets.parquet").to_pylist()
    assert {row["status"] for row in targets} == {"failed"}
    assert all(row["detail"] for row in targets)


def test_forms_one_by_one_share_their_proposals(tables, tmp_path, monkeypatch):
    drawn = count_drawn(monkeypatch)
    settings = settings_of(tables, n=3, split="test", each_form=True)
    found = evaluate(settings, tmp_path / "out", 1)
    assert [name for name, _ in drawn] == ["Urea"]
    by_form = found.proposals.set_index(["target", "index"])["amd_linf_A"].unstack(0)
    assert by_form.shape == (3, 2)
    nearest = evaluate(settings_of(tables, n=3, split="test"), tmp_path / "out", 1).proposals
    assert np.allclose(by_form.min(axis=1), nearest.sort_values("index")["amd_linf_A"])
    assert set(nearest["form"]) <= {"db/urea", "UREAXX02 (Form I)"}
    official = evaluate(
        settings_of(tables, n=3, split="test", official=True), tmp_path / "out", 1
    ).proposals
    assert np.allclose(official["amd_linf_A"], nearest["amd_linf_A"])
    assert len(drawn) == 1


def test_progress_counts_every_candidate(folder, tmp_path):
    seen = {}

    class Sink(progress.SilentProgress):
        def start(self, stage, total, done):
            seen[stage] = [total, sum(done.values())]

        def advance(self, stage, status, count=1):
            seen[stage][1] += count

    with progress.use(Sink()):
        evaluate(settings_of(folder, n=2), tmp_path / "out", 1)
    assert seen == {"draw random": [4, 4], "measure random": [4, 4]}


def test_the_report_holds_what_the_tables_hold(folder, tmp_path):
    out = tmp_path / "out"
    found = evaluate(settings_of(folder, n=5), out, 1)
    document = write_report(found, out)
    assert document == json.loads((out / "evaluation.json").read_text())
    for name in document["files"]:
        assert (out / document["files"][name]).exists(), name
    line = document["results"][0]
    table = pq.read_table(out / "proposals.parquet")
    assert table.schema.equals(PROPOSALS, check_metadata=False)
    assert table.schema.field("amd_linf_A").metadata[b"unit"] == "Å".encode()
    frame = table.to_pandas()
    ok = frame[frame["status"] == "ok"]
    per_target = ok.groupby("target")["density_error_percent"].mean()
    assert line["density_error_percent"]["mean"] == pytest.approx(per_target.mean())
    assert line["density_error_percent"]["low"] == pytest.approx(per_target.min())
    best = ok.groupby("target")["amd_linf_A"].min()
    assert line["best_amd_linf_A"]["mean"] == pytest.approx(best.mean())
    efficiency = pd.read_parquet(out / "efficiency.parquet")
    assert efficiency["samples"].tolist() == [1, 2, 3, 4, 5]
    assert efficiency["best_amd_linf_A"].iloc[-1] == pytest.approx(best.mean())
    near = (best <= 0.15).mean()
    assert efficiency["near"].iloc[-1] == pytest.approx(near)
    text = (out / "evaluation.md").read_text()
    assert f"{line['clash_percent']['mean']:.2f}" in text
    assert "PackFlow-Base-60M | 4.69 | 2.53 | 0.286 | 0.065 | 0.114" in text
    series = make_series([("random", "raw")])
    for kind in ("svg", "png"):
        figure = metrics_figure(found, series, document)
        assert (out / f"metrics.{kind}").read_bytes() == figure_bytes(figure, kind)


def test_variants_are_those_that_a_generator_has(folder, model):
    published = Path(__file__).parents[1] / "data/golden/small_best_model.pt"
    settings = settings_of(folder, spec={"generate": {"restarts": (0.5,)}})
    found = {
        str(name): dict(make_generator(str(name), settings, "NC(N)=O").sampling)
        for name in (published, model, "random+press")
    }
    assert list(found.values()) == [
        {"raw": "raw", "repaired": "raw"},
        {"raw": "raw", "restarts": "restarts", "repaired": "restarts"},
        {"raw": "raw"},
    ]
    without = settings_of(folder, spec={})
    assert dict(make_generator(str(model), without, "NC(N)=O").sampling) == {
        "raw": "raw", "repaired": "raw",
    }  # fmt: skip


def test_generators_that_cannot_be_used_get_one_sentence(folder, tmp_path, model):
    with pytest.raises(UserInputError, match="neither"):
        evaluate(settings_of(folder, generators=("nothing",), spec={}), tmp_path / "a", 1)
    with pytest.raises(UserInputError, match="has only the variant raw"):
        evaluate(settings_of(folder, variants=("repaired",)), tmp_path / "b", 1)
    other = tmp_path / "tiny.pt"
    other.write_bytes(model.read_bytes())
    twice = settings_of(folder, generators=(str(model), str(other)), spec={})
    with pytest.raises(UserInputError, match=r"Two generators are called tiny"):
        evaluate(twice, tmp_path / "c", 1)
    with pytest.raises(UserInputError, match=r"conformers\.n_embed"):
        evaluate(settings_of(folder, spec={"conformers": {"n_embed": -1}}), tmp_path / "d", 1)
