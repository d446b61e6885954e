"""The flow `compare` in this process, with workers that are no processes."""

import logging

import numpy as np
import pytest
from fake_pool import SPEC
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_LOGGING_TO_API_ENABLED, temporary_settings
from prefect.testing.utilities import prefect_test_harness
from race_runs import no_figures  # noqa: F401

from flows.compare import compare
from packflow_core.errors import UserInputError
from packflow_core.race.settings import CompareSettings
from packflow_core.spec import RunSpec
from packflow_core.stages import pools
from packflow_core.stages.run_store import RunStore

ENGINE = {"status": "failed", "reason": "engine_error", "detail": "no convergence"}
QUICK = CompareSettings(resamples=100)
NAMES = ["model-a", "model-b"]

pytestmark = pytest.mark.usefixtures("stub_generator", "no_figures")


@pytest.fixture(scope="module", autouse=True)
def harness():
    """A server and a database of this module's own."""
    with (
        temporary_settings({PREFECT_LOGGING_TO_API_ENABLED: False}),
        prefect_test_harness(server_startup_timeout=120),
    ):
        yield


@pytest.fixture
def race(tmp_path, workers, monkeypatch):
    """Runs a race of two stand-in generators; `seconds_each` is what a relaxation takes."""

    def run(faults=None, seconds_each=None, n=20, **parameters):
        fake = workers(faults=faults)
        if seconds_each is not None:
            attempt = fake._attempt

            def timed(stage, index, row):
                outcome = attempt(stage, index, row)
                if stage == "relax" and isinstance(outcome.value, dict):
                    outcome.value["wall_s"] = seconds_each(index)
                return outcome

            fake._attempt = timed
        monkeypatch.setattr(pools, "pool", lambda *args: fake)
        state = compare(
            RunSpec(**{**SPEC, "n": n}), NAMES, out=str(tmp_path / "race"), settings=QUICK,
            workers=1, return_state=True, **parameters,
        )  # fmt: skip
        return state, fake

    run.folder = tmp_path / "race"
    return run


def test_every_leg_is_a_run_of_its_own_and_then_they_are_compared(race):
    state, fake = race()
    assert state.is_completed(), state.message
    document = state.result()
    assert [leg["name"] for leg in document["legs"]] == NAMES
    assert {RunStore(race.folder / name).status for name in NAMES} == {"finished"}
    assert document["budget"]["description"] == (
        "Equal number of candidates: the first 20 of each leg."
    )
    assert (race.folder / "comparison.md").is_file()
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs()
        artifacts = client.read_artifacts()
    assert {run.name for run in runs} >= {"compare x", "csp x model-a", "csp x model-b"}
    (page,) = [a for a in artifacts if a.key == "race-x"]
    assert "model-a against model-b" in page.data
    # The same call computes nothing again.
    before = len(fake.done)
    state, fake = race()
    assert (state.is_completed(), fake.done) == (True, [])
    assert before > 0


def test_legs_grow_until_they_fill_the_working_time(race, caplog):
    with caplog.at_level(logging.INFO, logger="flows.compare"):
        state, _ = race(seconds_each=lambda index: 10.0 + index % 3, seconds=150.0)
    assert state.is_completed(), state.message
    document = state.result()
    assert document["budget"]["kind"] == "compute"
    for leg, name in zip(document["legs"], NAMES, strict=True):
        cost = np.array([
            row["wall_s"] or 0.0
            for row in RunStore(race.folder / name).stage("relax").table(["wall_s"]).to_pylist()
        ])  # fmt: skip
        # Four fifths of the candidates leave the generator and cost 11 s on average.
        assert 150.0 <= cost.sum() + 10 < 180.0
        assert leg["candidates"]["compared"] <= leg["candidates"]["run"]
        hours = next(
            m["value"]
            for m in document["metrics"]
            if (m["leg"], m["metric"]) == (name, "cpu_hours")
        )
        assert 135.0 < hours * 3600 <= 150.0
    assert "model-a: 8 candidates took" in caplog.text


def test_a_race_of_seconds_goes_on_where_it_was(race):
    def each(_index):
        return 10.0

    state, _ = race(seconds_each=each, seconds=60.0, pilot=10)
    sizes = [leg["candidates"]["run"] for leg in state.result()["legs"]]
    state, fake = race(seconds_each=each, seconds=110.0, pilot=10)
    grown = [leg["candidates"]["run"] for leg in state.result()["legs"]]
    assert all(more > size for more, size in zip(grown, sizes, strict=True))
    first = {index for stage, index in fake.done if stage == "relax"}
    assert min(first) >= min(sizes)  # what was there was not computed again


def test_a_leg_that_lost_too_many_is_compared_and_the_flow_run_fails(race):
    state, _ = race(faults={("relax", i): ENGINE for i in range(13)})
    assert state.is_failed()
    assert "of the candidates failed, more than the 50% allowed" in state.message
    page = (race.folder / "comparison.md").read_text()
    assert "| model-b | relax | failed | engine_error |" in page


def test_a_leg_without_a_ranked_candidate_is_shown(race):
    state, _ = race(faults={("relax", i): ENGINE for i in range(20)})
    assert state.is_failed()
    assert "none of its 20 candidates was ranked" in (race.folder / "comparison.md").read_text()


def test_generators_that_cannot_race_are_refused(tmp_path, workers):
    workers()
    spec = RunSpec(**SPEC)
    for names, says in ((["model-a"], "two or more"), (["a/m.pt", "b/m.pt"], "both be called m")):
        with pytest.raises(UserInputError, match=says):
            compare(spec, names, out=str(tmp_path / "race"))
    assert not (tmp_path / "race").exists()
