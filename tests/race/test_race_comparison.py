"""Whole races on folders whose candidates are known: every number, every file."""

import json
import math
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from race_runs import Candidate

from packflow_core.errors import UserInputError
from packflow_core.race import comparison
from packflow_core.race.comparison import compare_runs
from packflow_core.race.figures import NAMES, figure_bytes, race_figure
from packflow_core.race.known_form import KnownForm
from packflow_core.race.page import markdown
from packflow_core.race.report import document, write_comparison
from packflow_core.race.settings import CompareSettings

UREA = Path(__file__).parents[1] / "data" / "urea.cif"
LOST = Candidate(end=("relax", "failed", "exploded"), seconds={"relax": 7.0})
QUICK = CompareSettings(resamples=200)


def ranked(*energies, **more):
    return [Candidate(energy=float(e), start=e + 50.0, **more) for e in energies]


@pytest.fixture
def race(write, inline, tmp_path):
    """Six candidates of 4 s, of which two are lost, against four of 13 s."""
    a = write("a", [*ranked(6, 2, 12, 40), LOST, LOST])
    b = write("b", ranked(3, 1, 30, 8, seconds={"relax": 10.0}), generator="random+press")

    def run(**settings):
        chosen = CompareSettings(**{"resamples": 200, **settings})
        return compare_runs([a, b], chosen, tmp_path / "out")

    return run


def value(race, leg, name, other=""):
    return race.metric(leg, name, other).value


def test_numbers_of_an_equal_number_of_candidates(race):
    found = race()
    assert [len(leg) for leg in found.legs] == [4, 4]
    # The zero is the lowest of both: 1 kJ/mol on the scale of the folders.
    assert value(found, "random", "energy_lowest") == pytest.approx(1.0)
    assert value(found, "random+press", "energy_lowest") == pytest.approx(0.0)
    assert value(found, "random", "energy_after") == pytest.approx((6 + 12) / 2 - 1)
    assert value(found, "random", "energy_before") == pytest.approx((6 + 12) / 2 + 49)
    # Two of 2, 6, 12, 40: the lowest is 2 in 3 of 6 pairs, 6 in 2, 12 in 1.
    assert value(found, "random", "energy_lowest_of_half") == pytest.approx(5.0 - 1)
    assert value(found, "random", "low_energy") == 3
    assert value(found, "random", "low_energy_fraction") == 0.75
    assert value(found, "random", "cpu_hours") == pytest.approx(16 / 3600)
    assert value(found, "random+press", "seconds_per_candidate") == pytest.approx(13.0)
    # All four of random take 16 s, in which random+press has 16 / 13 candidates.
    assert value(found, "random", "energy_lowest_at_equal_compute") == pytest.approx(1.0)
    one, two = (3 + 1 + 30 + 8) / 4 - 1, (1 * 3 + 3 * 2 + 8 * 1) / 6 - 1
    expected = one + (two - one) * (16 / 13 - 1)
    assert value(found, "random+press", "energy_lowest_at_equal_compute") == pytest.approx(expected)
    assert found.metric("random", "hits") is None


def test_lost_candidates_cost_and_count(write, inline, tmp_path):
    legs = [write("a", [*ranked(6, 2), LOST, LOST]), write("b", ranked(1, 1, 1, 1), seed=1)]
    found = compare_runs(legs, QUICK, tmp_path / "out")
    assert value(found, "random seed 0", "candidates") == 4
    assert value(found, "random seed 0", "failed") == 2
    assert value(found, "random seed 0", "ranked_fraction") == 0.5
    assert value(found, "random seed 0", "cpu_hours") == pytest.approx((8 + 20) / 3600)
    low, high = (getattr(found.metric("random seed 0", "ranked_fraction"), x) for x in
                 ("low", "high"))  # fmt: skip
    assert (low, high) == (pytest.approx(0.0676, abs=1e-4), pytest.approx(0.9324, abs=1e-4))
    curve = found.statistics[0].by_samples
    assert curve.x.tolist() == [1, 2, 3, 4]
    np.testing.assert_allclose(curve.found, [0.5, 5 / 6, 1, 1])
    np.testing.assert_allclose(curve.value, [3.0, (1 * 3 + 5 * 2) / 5, 1 + 1, 1.0])


def test_an_equal_working_time(race):
    found = race(compute_s=26.0)
    assert [len(leg) for leg in found.legs] == [5, 2]
    assert value(found, "random", "failed") == 1
    assert found.budget.kind == "compute"


def test_hits_are_counted_against_the_time_of_all(write, inline, tmp_path, monkeypatch):
    same = {"smiles": "NC(N)=O", "reference": str(UREA)}
    hit = [*ranked(5, match=False), *ranked(2, match=True), LOST, *ranked(9, match=True)]
    miss = ranked(0, 1, 2, 3, match=False)
    legs = [write("a", hit, **same), write("b", miss, generator="random+press", **same)]
    known = KnownForm(energy_eV=-10.0 - 3.0 / 96.48533212, density=1.4, matches=True,
                      match_rmsd=0.2)  # fmt: skip
    monkeypatch.setattr(comparison, "known_form", lambda *_: known)
    found = compare_runs(legs, QUICK, tmp_path / "out")
    assert value(found, "random", "hits") == 2
    hours = (4 * 3 + 10) / 3600
    rate = found.metric("random", "hits_per_cpu_hour")
    assert (rate.value, rate.interval) == (pytest.approx(2 / hours), "Poisson")
    assert value(found, "random", "candidates_until_hit") == pytest.approx(5 / 3)
    assert value(found, "random", "energy_lowest_hit") == pytest.approx(2.0)
    none = found.metric("random+press", "hits_per_cpu_hour")
    assert (none.value, none.low, none.interval) == (0.0, 0.0, "Poisson upper bound")
    assert none.high == pytest.approx(-math.log(0.05) / (16 / 3600))
    # The known form lies 3 kJ/mol below the lowest structure.
    assert found.scale.known_energy == pytest.approx(-3.0)
    assert value(found, "random+press", "energy_lowest_above_known_form") == pytest.approx(3.0)
    assert found.scale.known_density == pytest.approx(1.33, abs=0.06)
    error = value(found, "random", "density_error_after")
    assert error == pytest.approx(100 * (1.4 - 1.2) / 1.4)
    told = document(found)
    assert told["known_form"]["energy_kJ_mol"] == pytest.approx(-3.0)
    page = markdown(told, {})
    assert "3.00 kJ/mol below the lowest structure of the race" in page
    assert f"| random+press | 0 | below {none.high:.0f} |" in page


def test_hours_on_gpus_have_rates_of_their_own(write, inline, tmp_path):
    on_gpu = {("relax", "device"): "cuda:0 (H200)"}
    legs = [
        write("a", ranked(1, 2, more=on_gpu, seconds={"relax": 90.0})),
        write("b", ranked(1, 2), generator="random+press"),
    ]
    found = compare_runs(legs, QUICK, tmp_path / "out")
    assert value(found, "random", "gpu_hours") == pytest.approx(180 / 3600)
    assert value(found, "random", "low_energy_per_gpu_hour") == pytest.approx(2 / (180 / 3600))
    assert value(found, "random", "low_energy_per_cpu_hour") == pytest.approx(2 / (6 / 3600))
    assert math.isnan(value(found, "random+press", "low_energy_per_gpu_hour"))
    page = markdown(document(found), {})
    assert "| GPU h |" in page
    assert "those per GPU h" in page
    assert any("different devices" in remark for remark in found.remarks)


def test_a_known_form_that_relaxes_away_is_told(write, inline, tmp_path, monkeypatch):
    same = {"smiles": "NC(N)=O", "reference": str(UREA)}
    legs = [write("a", ranked(1), **same), write("b", ranked(2), seed=1, **same)]
    for known, says in (
        (KnownForm(-10.0, 1.4, matches=False), "no longer matches the reference"),
        (KnownForm(problem="relax ended failed (nan: )"), "has no energy: relax ended failed"),
    ):
        monkeypatch.setattr(comparison, "known_form", lambda *_, known=known: known)
        found = compare_runs(legs, QUICK, tmp_path / "out")
        assert any(says in remark for remark in found.remarks)
    found = compare_runs(legs, CompareSettings(known_form=False, resamples=100), tmp_path / "out")
    assert found.scale.known_energy is None
    assert found.scale.known_density is not None


def test_differences_are_later_minus_earlier(race):
    found = race()
    differences = {m.metric: m for m in found.metrics if m.kind == "difference"}
    each = differences["seconds_per_candidate"]
    assert (each.leg, each.other) == ("random+press", "random")
    assert (each.value, each.low, each.high) == pytest.approx((9.0, 9.0, 9.0))
    half = differences["energy_lowest_of_half"]
    own = [value(found, leg, "energy_lowest_of_half") for leg in ("random+press", "random")]
    assert half.value == pytest.approx(own[0] - own[1])
    assert half.low < half.value < half.high


def test_the_same_seed_gives_the_same_numbers(race):
    first, again, other = race(), race(), race(seed=1)
    assert [m.as_dict() for m in first.metrics] == [m.as_dict() for m in again.metrics]
    assert [m.value for m in first.metrics if m.kind == "value"] == pytest.approx(
        [m.value for m in other.metrics if m.kind == "value"], nan_ok=True
    )
    assert [m.low for m in first.metrics] != [m.low for m in other.metrics]


def test_files_hold_the_comparison(race, tmp_path):
    found = race()
    content = write_comparison(found, tmp_path / "out")
    out = tmp_path / "out"
    assert json.loads((out / "comparison.json").read_text()) == content
    for name in NAMES:
        assert (out / f"{name}.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
        assert b"<svg" in (out / f"{name}.svg").read_bytes()[:2000]
    numbers = pq.read_table(out / "comparison.parquet").to_pylist()
    assert len(numbers) == len(found.metrics)
    lowest = [n for n in numbers if n["metric"] == "energy_lowest" and n["leg"] == "random"]
    assert (lowest[0]["value"], lowest[0]["unit"]) == (pytest.approx(1.0), "kJ/mol")
    candidates = pq.read_table(out / "candidates.parquet")
    assert candidates.schema.field("energy_kJ_mol").metadata[b"unit"] == b"kJ/mol"
    rows = candidates.to_pylist()
    assert [row["energy_kJ_mol"] for row in rows[:4]] == pytest.approx([5.0, 1.0, 11.0, 39.0])
    assert {row["matches_reference"] for row in rows} == {None}
    curves = pq.read_table(out / "curves.parquet").to_pandas()
    assert set(curves["against"]) == {"candidates", "seconds"}
    ends = curves[curves["against"] == "seconds"].groupby("leg")["x"].max()
    assert ends.to_dict() == pytest.approx({"random": 16.0, "random+press": 52.0})
    page = (out / "comparison.md").read_text()
    assert "![All panels in one figure](race.png)" in page
    assert "the first 4, all that a leg has (random 4 of 6)" in page
    assert str(found.legs[0].folder.resolve()) in page
    assert found.legs[0].content["spec_hash"][:12] in page
    names = [leg["name"] for leg in content["legs"]]
    assert (names, content["legs"][0]["candidates"]) == (
        ["random", "random+press"], {"run": 6, "complete": 6, "compared": 4}
    )  # fmt: skip


EXTREMES = {
    "one candidate each": ([Candidate()], [Candidate()]),
    "one leg without a ranked candidate": ([LOST, LOST], ranked(1, 2)),
    "nothing ranked at all": ([LOST], [Candidate(end=("generate", "rejected", "bad_cell"))]),
    "equal energies": (ranked(*[1] * 9), ranked(*[1] * 9)),
    "a far outlier": (ranked(*range(1, 20), 1e6), ranked(*range(20))),
}


@pytest.mark.parametrize("case", EXTREMES)
def test_extreme_races_are_drawn_and_told(write, inline, tmp_path, case):
    a, b = EXTREMES[case]
    legs = [write("a", a), write("b", b, generator="random+press")]
    found = compare_runs(legs, CompareSettings(resamples=100, window_kJ_mol=0.5), tmp_path / "out")
    content = document(found)
    assert "NaN" not in json.dumps(content)
    assert len(figure_bytes(race_figure(found), "png")) > 20_000
    page = markdown(content, {})
    assert "nan" not in page
    assert "| random+press |" in page
    told = " ".join(found.remarks)
    assert ("none of its" in told) == any(not any(c.end is None for c in leg) for leg in (a, b))


def test_a_budget_before_the_first_candidate_still_shows_the_leg(race):
    found = race(compute_s=10.0)
    assert [len(leg) for leg in found.legs] == [2, 0]
    assert any("spent before its first candidate" in remark for remark in found.remarks)
    assert len(figure_bytes(race_figure(found), "png")) > 20_000
    assert value(found, "random+press", "candidates") == 0
    assert math.isnan(value(found, "random+press", "energy_lowest"))


def test_runs_that_cannot_be_compared_write_nothing(write, inline, tmp_path):
    legs = [write("a", ranked(1)), write("b", ranked(1), relax={"fmax": 0.2})]
    with pytest.raises(UserInputError, match=r"relax\.fmax"):
        compare_runs(legs, QUICK, tmp_path / "out")
    assert not (tmp_path / "out").exists()
