"""Landscapes: energies against their definition, groups, points that find their candidates."""

import json

import numpy as np
import pandas as pd
import pytest
from synthetic_campaign import EV_TO_KJ_MOL, write_campaign

from dashboard.figures import landscape_figure, point_code, point_of
from dashboard.landscape import make_landscape
from dashboard.legs import comparison_options, legs_of_comparison, legs_of_runs
from dashboard.race_figures import best_figure, distribution_figure
from dashboard.theme import LIGHT
from packflow_core.stages.run_store import RunStore


def test_energies_are_those_of_the_relaxation_above_the_lowest(small, open_store):
    (view,) = open_store(small).runs()
    found = make_landscape([view])
    rows = {row["index"]: row for row in RunStore(small).stage("relax").rows()}
    rank = {row["index"]: row for row in RunStore(small).stage("rank").rows()}
    good = [i for i, r in rank.items() if r["status"] == "ok"]
    zero = min(rows[i]["energy_eV"] / 2 for i in good)
    expected = {i: (rows[i]["energy_eV"] / 2 - zero) * EV_TO_KJ_MOL for i in good}
    shown = dict(zip(found.frame["index"], found.frame["energy"], strict=True))
    assert shown.keys() == expected.keys()
    assert [shown[i] for i in good] == pytest.approx([expected[i] for i in good])
    assert (np.diff(found.frame["energy"]) >= 0).all()
    assert found.frame["rank"].iloc[0] == 1
    assert found.frame["match"].isin([True]).sum() == 5
    assert found.notes == ()


def test_two_runs_share_their_zero(small, tmp_path, open_store):
    other = write_campaign(tmp_path / "o" / "urea" / "other", 100, seed=3, shift=7.0)
    views = open_store(small, other).runs()
    frame = make_landscape(views).frame
    lowest = frame.groupby("run")["energy"].min().to_dict()
    ids = {view.n: view.id for view in views}
    assert lowest[ids[400]] == pytest.approx(0.0)
    assert lowest[ids[100]] == pytest.approx(7.0, abs=0.5)


def test_a_run_without_ranking_shows_its_relaxed_candidates_and_says_so(tmp_path, open_store):
    write_campaign(tmp_path / "run", 200, stop=("relax", 0.5))
    (view,) = open_store(tmp_path).runs()
    found = make_landscape([view])
    ok = sum(row["status"] == "ok" for row in view.store.stage("relax").rows())
    assert len(found) == ok
    assert "not ranked yet" in found.notes[0]
    assert set(found.frame["space_group"].fillna("none")) == {"none"}


def test_a_run_that_relaxed_nothing_is_a_note(tmp_path, open_store):
    write_campaign(tmp_path / "run", 50, stop=("hydrogenate", 0.5))
    found = make_landscape(open_store(tmp_path).runs())
    assert len(found) == 0
    assert "no relaxed candidate" in found.notes[0]
    assert landscape_figure(found, [], LIGHT)["data"] == []


def test_the_points_of_a_figure_are_the_candidates_of_the_window(small, open_store):
    (view,) = open_store(small).runs()
    found = make_landscape([view])
    figure = landscape_figure(found, ["x", view.id], LIGHT, window=20.0)
    by_index = found.frame.set_index("index")
    seen = {}
    for trace in figure["data"]:
        for x, y, code in zip(trace["x"], trace["y"], trace.get("customdata", []), strict=False):
            run, index = point_of(code)
            assert run == 1
            assert (x, y) == (by_index.loc[index, "density"], by_index.loc[index, "energy"])
            seen[index] = y
    assert sorted(seen) == sorted(by_index.index[by_index["energy"] <= 20.0])
    assert figure["data"][0]["x"] == []


@pytest.mark.parametrize("by", ["method", "generator", "space group", "cluster", "Z"])
def test_every_way_to_colour_keeps_every_point(by, small, open_store):
    (view,) = open_store(small).runs()
    found = make_landscape([view])
    figure = landscape_figure(found, [view.id], LIGHT, colour_by=by, window=1e9)
    stars = 5
    assert sum(len(trace["x"]) for trace in figure["data"]) == len(found) + stars


def test_point_codes_go_both_ways():
    assert point_of(point_code(3, 99_999)) == (3, 99_999)
    assert point_of("<img>") is None
    assert point_of(None) is None
    assert point_of(-1) is None


def test_legs_have_a_common_zero_and_their_best_so_far_never_rises(small, tmp_path, open_store):
    other = write_campaign(tmp_path / "o" / "urea" / "other", 100, seed=3, shift=7.0)
    views = sorted(open_store(small, other).runs(), key=lambda view: -view.n)
    first, second = legs_of_runs(views).legs
    assert np.nanmin(first.after) == pytest.approx(0.0)
    assert np.nanmin(second.after) == pytest.approx(7.0, abs=0.5)
    for leg, view in zip((first, second), views, strict=True):
        best = leg.best_so_far()
        known = best[np.isfinite(best)]
        assert (np.diff(known) <= 0).all()
        assert known[-1] == np.nanmin(leg.after)
        assert leg.ranked == len(make_landscape([view]))
        assert leg.hours == pytest.approx((view.cpu_s - view.stages[-1].cpu_s) / 3600)
        assert (leg.before[np.isfinite(leg.after)] > leg.after[np.isfinite(leg.after)]).all()


def test_a_comparison_is_read_as_it_was_written_and_a_damaged_one_is_a_sentence(tmp_path):
    frame = pd.DataFrame(
        {
            "leg": ["b", "b", "a"], "index": [1, 0, 0], "cpu_s": [2.0, 1.0, 4.0],
            "gpu_s": [0.0, 0.0, 0.5], "energy_before_kJ_mol": [50.0, 40.0, 90.0],
            "energy_kJ_mol": [0.0, 5.0, None], "matches_reference": [True, False, False],
        }
    )  # fmt: skip
    frame.to_parquet(tmp_path / "candidates.parquet")
    words = {"target": "x", "budget": {"description": "Equal number of candidates."}}
    (tmp_path / "comparison.json").write_text(json.dumps(words))
    found = legs_of_comparison(tmp_path)
    assert found.notes == ("Equal number of candidates.",)
    first, second = found.legs
    assert (first.name, first.n, first.ranked, first.matches) == ("b", 2, 2, 1)
    assert first.after.tolist() == [5.0, 0.0]
    assert first.best_so_far().tolist() == [5.0, 0.0]
    assert second.seconds.tolist() == [4.5]
    assert (second.ranked, second.lowest, second.within(20.0)) == (0, "", 0)
    (option,) = comparison_options({"id": tmp_path})
    assert option["label"].startswith("comparison x")
    (tmp_path / "candidates.parquet").write_bytes(b"PAR1")
    assert "cannot be read" in legs_of_comparison(tmp_path).notes[0]
    (tmp_path / "comparison.json").write_text("[")
    assert comparison_options({"id": tmp_path})


def test_figures_of_legs_hold_what_the_legs_say(small, open_store):
    legs = legs_of_runs(open_store(small).runs()).legs
    boxes = distribution_figure(legs, LIGHT)["data"]
    before, after = boxes
    known = legs[0].after[np.isfinite(legs[0].after)]
    assert after["median"] == [pytest.approx(np.median(known))]
    assert before["q1"][0] > after["q3"][0] * 0.5
    (curve,) = best_figure(legs, LIGHT)["data"]
    assert curve["y"][-1] == pytest.approx(0.0)
    assert curve["x"][-1] == 400
    assert (np.diff(curve["y"][:-1]) < 0).all()
    (hours,) = best_figure(legs, LIGHT, seconds=True)["data"]
    assert hours["x"][-1] == pytest.approx(legs[0].hours)
    assert best_figure([], LIGHT)["data"] == []
