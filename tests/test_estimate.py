"""The forecast of a run: the statistics, the arithmetic, and a pilot through the real stages."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fake_pool import SPEC, workers  # noqa: F401

from flows.console import Terminal
from flows.estimate_commands import _specs, estimate
from flows.how import How
from packflow_core.errors import UserInputError
from packflow_core.estimate import forecast, total
from packflow_core.estimate_pilot import Pilot, StagePilot, parquet_cost, python_bytes, run_pilot
from packflow_core.estimate_spread import cost_draws, interval, yield_draws
from packflow_core.process_memory import MemoryWatch, children
from packflow_core.spec import make_spec
from packflow_core.stages.pipeline import run_stages
from packflow_core.stages.run_store import OpenRun, RunStore, plan_for
from packflow_core.stages.window import reject_outside_window
from packflow_core.store.schema import STAGES


def draws_of(seconds, shares=None, limit=1e9, seed=0):
    rng = np.random.default_rng(seed)
    return cost_draws(seconds, shares or {2: 0.5, 4: 0.5}, limit, rng, 4000)


def test_many_measured_candidates_give_their_mean_by_z():
    rng = np.random.default_rng(1)
    seconds = {2: rng.lognormal(0, 0.3, 3000), 4: rng.lognormal(2, 0.3, 3000)}
    true = 0.75 * np.exp(0.3**2 / 2) + 0.25 * np.exp(2 + 0.3**2 / 2)
    low, middle, high = interval(draws_of(seconds, {2: 0.75, 4: 0.25}))
    assert middle == pytest.approx(true, rel=0.02)
    # What is left is the noise of the clock: 10 %, so 1.645 times that to either side.
    assert np.log(high / low) == pytest.approx(2 * 1.645 * 0.1, rel=0.08)


def test_the_interval_of_a_pilot_of_eight_holds_the_truth_nine_times_of_ten():
    rng = np.random.default_rng(2)
    true = 0.5 * (np.exp(0.6**2 / 2) + np.exp(1 + 0.6**2 / 2))
    held = 0
    for trial in range(300):
        seconds = {2: rng.lognormal(0, 0.6, 4), 4: rng.lognormal(1, 0.6, 4)}
        low, _, high = interval(draws_of(seconds, seed=trial))
        held += low <= true <= high
    assert 0.86 <= held / 300 <= 0.98


def test_fewer_candidates_say_less_and_a_missing_z_is_stood_in_for():
    many = draws_of({2: [1.0, 2.0, 1.5, 1.2] * 6, 4: [4.0, 5.0, 6.0, 4.5] * 6})
    few = draws_of({2: [1.0, 2.0], 4: [4.0, 6.0]})
    width = [np.subtract(*np.log(interval(d))[[2, 0]]) for d in (many, few)]
    assert width[1] > 2 * width[0]
    alone = draws_of({2: [3.0] * 8})
    assert interval(alone)[1] == pytest.approx(3.0, rel=0.02)
    with pytest.raises(ValueError, match="no times"):
        draws_of({2: []})


def test_no_mean_is_above_the_time_limit():
    assert interval(draws_of({2: [1.0, 900.0], 4: [1.0, 900.0]}, limit=100.0))[2] < 130.0


def test_a_yield_of_all_of_eight_may_be_nine_of_ten():
    rng = np.random.default_rng(0)
    low, middle, high = interval(yield_draws(8, 8, rng, 20_000))
    assert low == pytest.approx(0.798, abs=0.01)  # Beta(8.5, 0.5), scipy.stats.beta.ppf
    assert middle == pytest.approx(0.974, abs=0.005)
    assert high > 0.999
    assert interval(yield_draws(0, 8, rng, 20_000))[2] == pytest.approx(1 - low, abs=0.01)


def stage(name, seconds, passed=8, **values):
    given = {
        "tried": 8, "limit_s": 1e9, "seats": 1, "batched": False, "row_bytes": 0.0,
        "part_bytes": 0.0, "parent_mb": 100.0, "worker_mb": 50.0, **values,
    }  # fmt: skip
    return StagePilot(name, seconds, passed=passed, **given)


def pilot_of(*stages, **values):
    given = {
        "candidates": 8, "elapsed_s": 10.0, "fixed_bytes": 1e6, "cif_bytes": 2e3,
        "csv_bytes": 100.0, "ranked_row_bytes": 2e4, "results_s": 1.0,
        "results_memory_mb": 300.0, **values,
    }  # fmt: skip
    return Pilot(spec=make_spec(SPEC), stages=stages, **given)


def test_hours_disk_and_memory_add_up():
    times = {1: [2.0] * 400, 2: [6.0] * 400}
    sure = {"tried": 10**7, "passed": 5 * 10**6}
    found = forecast(
        pilot_of(
            stage("generate", times, **sure, row_bytes=1000.0, part_bytes=5000.0),
            stage("relax", times, **sure, seats=64),
        ),
        n=900_000,
    )
    generate, relax = found.stages
    assert generate.candidates == (900_000.0,) * 3
    assert generate.core_hours[1] == pytest.approx(900_000 * 4.0 / 3600, rel=0.02)
    assert generate.elapsed_hours == generate.core_hours
    assert relax.candidates[1] == pytest.approx(450_000, rel=0.001)
    assert relax.core_hours[1] == pytest.approx(450_000 * 4.0 / 3600, rel=0.02)
    assert relax.elapsed_hours[1] == pytest.approx(relax.core_hours[1] / 64)
    assert found.core_hours[1] == pytest.approx(1500, rel=0.02)
    # Two stages of a run share 900 tasks: 450 parts of 5,000 bytes; and 900 MB of rows.
    assert generate.disk_mb[1] == pytest.approx(900 + 450 * 0.005, rel=1e-6)
    # 225,000 ranked: 100 CIFs, 100 bytes of CSV each and no Parquet here.
    assert found.disk_mb[1] == pytest.approx(generate.disk_mb[1] + 1 + 0.2 + 22.5, rel=0.001)
    # Two chunks of 2,000 rows of 20 kB, 64 workers, and the ledger of all.
    assert relax.memory_mb == pytest.approx(100 + 64 * 50 + 2 * 2000 * 0.02 + 900_000 * 0.0009)
    # 225,000 rows of 20 kB, two and a half times.
    assert found.memory_mb == pytest.approx(300 + 2.5 * 225_000 * 0.02, rel=0.001)


def test_a_stage_that_no_candidate_reached_is_missing_and_said_so():
    found = forecast(
        pilot_of(stage("generate", {1: [1.0] * 8}, passed=0), stage("relax", {}, tried=0, passed=0))
    )
    assert [s.stage for s in found.stages] == ["generate"]
    assert any("relax" in note and "larger" in note for note in found.notes)


def test_ranges_of_a_campaign_add_in_squares():
    run = forecast(pilot_of(stage("generate", {1: [1.0] * 400, 2: [1.0] * 400})), n=3600)
    run = replace(run, core_hours=(7.0, 10.0, 14.0))
    summed = total([run] * 4)
    assert summed["n"] == 4 * 3600
    assert summed["core_hours"] == pytest.approx((40 - 6, 40, 40 + 8))


def test_a_row_more_costs_what_parquet_says(make_row):
    import pyarrow as pa

    rows = [make_row(i) for i in range(40)]
    table = pa.Table.from_pylist(rows)
    each, one = parquet_cost(table)
    assert 0 < each < one
    assert parquet_cost(table.slice(0, 0)) == (0.0, 0.0)
    # Three more floats: a list slot of 8 bytes and an object of 24 bytes each.
    small, large = ({"positions": [0.5 + i for i in range(n)]} for n in (3, 6))
    assert python_bytes(large) - python_bytes(small) == pytest.approx(96, abs=16)


def test_a_pilot_is_the_beginning_of_the_run(workers, stub_generator, tmp_path):  # noqa: F811
    fake = workers()
    spec = make_spec({**SPEC, "n": 400})
    folder = tmp_path / "pilot"
    pilot = run_pilot(spec, folder, 10, workers=2)
    assert pilot.candidates == 12  # each worker has a first one, whose time does not count
    assert [s.stage for s in pilot.stages] == list(STAGES)
    generate, hydrogenate = pilot.stages[:2]
    assert generate.tried == 12
    assert generate.passed == hydrogenate.tried == 10  # every fifth is rejected
    assert hydrogenate.measured == 8
    assert {z: len(v) for z, v in hydrogenate.seconds.items()} == {1: 4, 2: 4}
    assert hydrogenate.seats == 2
    assert generate.seats == 1
    found = forecast(pilot)
    assert found.n == 400
    assert len(found.stages) == len(STAGES)
    # 400 candidates, a fifth rejected, 0.1 s each.
    assert found.stages[1].core_hours[1] == pytest.approx(320 * 0.1 / 3600, rel=0.2)

    before = list(fake.done)
    whole = make_spec({**SPEC, "n": 40})
    with OpenRun(folder, plan_for(whole, folder)) as run:
        run_stages(run, 2)
    assert not {key for key in fake.done[len(before) :]} & set(before)
    assert len(RunStore(folder).attempts("rank")) == 32


def test_what_a_window_leaves_out_is_not_tried(workers, stub_generator, tmp_path):  # noqa: F811
    workers()
    spec = make_spec({**SPEC, "n": 50, "refine": ["gfnff:3"]})
    pilot = run_pilot(spec, tmp_path / "pilot", 10, workers=2)
    refined = next(s for s in pilot.stages if s.stage == "relax_2")
    run = RunStore(tmp_path / "pilot")
    assert reject_outside_window(run, "relax_2") == 0
    left_out = sum(a.reason == "window" for a in run.attempts("relax_2").values())
    assert left_out > 0
    assert refined.tried == 10 - left_out
    before = next(s for s in pilot.stages if s.stage == "relax")
    assert before.passed == refined.tried


def test_the_watch_sees_a_child_grow():
    import subprocess
    import sys

    code = "import time; x = b'1' * 80_000_000; print(flush=True); time.sleep(60)"
    with MemoryWatch() as watch:
        child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        try:
            import os

            assert child.pid in set(children(os.getpid()))
            child.stdout.readline()
            watch._look()
        finally:
            child.kill()
            child.wait()
    assert watch.own_mb > 20
    # Between fork and exec a child has what its parent has.
    assert 80 < watch.child_mb < max(300.0, 1.2 * watch.own_mb)


def test_several_targets_have_neither_a_name_nor_a_kept_folder():
    with pytest.raises(UserInputError, match="single target"):
        estimate(Terminal(), ["CC=O", "C=O"], {}, [], 8, How(), Path("kept"))


def test_a_campaign_is_as_many_runs_as_it_has_targets(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "name: mine\ndefaults: {n: 30}\ntargets:\n"
        "  - {name: UREA, smiles: NC(N)=O, z: [2]}\n  - {name: ICE, smiles: C=O}\n"
    )
    specs = _specs(str(path), {"generate.steps": 7, "engine": "springs"}, ["relax.max_steps=9"], [])
    assert [(s.name, s.n, s.engine, s.campaign) for s in specs] == [
        ("UREA", 30, "springs", "mine"),
        ("ICE", 30, "springs", "mine"),
    ]
    assert [s.generate.steps for s in specs] == [7, 7]
    assert specs[0].relax.max_steps == 9
    (one,) = _specs(str(path), {"n": 5}, [], ["ICE"])
    assert (one.name, one.n) == ("ICE", 5)
    assert len(_specs("blind_test", {}, [], [])) > 10
    (plain,) = _specs("C=O", {"n": 3}, [], [])
    assert plain.n == 3
