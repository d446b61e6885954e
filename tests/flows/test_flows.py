"""The flows in this process, with workers that are no processes: how a flow run ends."""

import json
import logging
import sys
from pathlib import Path

import pytest
import yaml
from fake_pool import SPEC
from prefect.client.orchestration import get_client
from prefect.flows import load_flow_from_entrypoint
from prefect.settings import PREFECT_LOGGING_TO_API_ENABLED, temporary_settings
from prefect.testing.utilities import prefect_test_harness

from flows import cli, local_api
from flows.baseline import baseline
from flows.csp import csp
from flows.resume import resume
from packflow_core.baselines.names import BASELINES
from packflow_core.errors import TooManyFailuresError, UserInputError
from packflow_core.spec import RunSpec
from packflow_core.stages.finish import Summary
from packflow_core.stages.pipeline import NothingRankedError
from packflow_core.stages.run_store import RunStore

DEPLOYMENTS = Path(__file__).parents[2] / "deployments" / "prefect.yaml"
ENGINE = {"status": "failed", "reason": "engine_error", "detail": "no convergence"}
LJ = "ase:ase.calculators.lj:LennardJones"

pytestmark = pytest.mark.usefixtures("stub_generator")


@pytest.fixture(scope="module", autouse=True)
def harness():
    """A server and a database of this module's own."""
    with (
        temporary_settings({PREFECT_LOGGING_TO_API_ENABLED: False}),
        prefect_test_harness(server_startup_timeout=120),
    ):
        yield


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "run"


def run_csp(folder, **values):
    spec = RunSpec(**{**SPEC, "n": 20, **values})
    return csp(spec, out=str(folder), workers=1, return_state=True)


def recorded(state):
    """A flow run as the server knows it."""
    with get_client(sync_client=True) as client:
        return client.read_flow_run(state.state_details.flow_run_id)


def test_a_run_with_refinements_completes_with_a_task_for_each_stage(folder, workers):
    fake = workers()
    state = run_csp(folder, refine=["springs:8"])
    assert state.is_completed(), state.message
    summary = state.result()
    assert isinstance(summary, Summary)
    assert [s["stage"] for s in summary.stages][-2:] == ["relax_2", "rank"]
    assert summary.stages[-2]["identity"].startswith("springs")
    assert fake.engines["relax_2"] == "springs"
    assert summary.n_ranked == summary.stages[-2]["ok"] > 0
    with get_client(sync_client=True) as client:
        names = {task.name.split()[0] for task in client.read_task_runs()}
    assert {"relax", "relax_2"} <= names
    session = RunStore(folder).content["sessions"][-1]
    assert (session["status"], "verdict" in session) == ("finished", False)


def test_too_many_failures_end_the_flow_run_as_failed_with_the_results_written(folder, workers):
    workers(faults={("relax", i): ENGINE for i in range(13)})
    state = run_csp(folder)
    assert state.is_failed()
    flow_run = recorded(state)
    assert flow_run.state_type.value == "FAILED"
    assert "55% of the candidates failed, more than the 50% allowed" in flow_run.state.message
    assert (folder / "report.html").is_file()
    assert RunStore(folder).status == "finished"
    assert "55%" in RunStore(folder).content["sessions"][-1]["verdict"]
    # Whoever calls the flow, as the command line does, gets the error and its exit code.
    workers()
    with pytest.raises(TooManyFailuresError) as caught:
        csp(RunSpec(**{**SPEC, "n": 20}), out=str(folder), workers=1)
    assert caught.value.exit_code == 3


def test_the_command_says_so_at_once_and_ends_with_code_3(folder, workers, monkeypatch, capfd):
    for name in ("prepare", "start_server"):  # this module has a server already
        monkeypatch.setattr(local_api, name, lambda: None)
    root, shown = logging.getLogger(), logging.getLogger("csp.progress")
    monkeypatch.setattr(root, "handlers", list(root.handlers))
    monkeypatch.setattr(shown, "handlers", [])
    monkeypatch.setattr(cli, "terminal", cli.Terminal())
    command = ["csp", "run", "C=O", "--name", "x", "--z", "1,2", "--seed", "3", "--n", "20"]
    monkeypatch.setattr(sys, "argv", [*command, "--workers", "1", "--out", str(folder)])
    workers(faults={("relax", i): ENGINE for i in range(13)})
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 3
    out, err = capfd.readouterr()
    assert "report " in out
    lines = err.splitlines()
    (warning,) = [k for k, line in enumerate(lines) if "11 of 16 candidates failed in" in line]
    assert "stage relax (engine_error: 11), more than the 50% allowed" in lines[warning]
    assert any("rank: " in line for line in lines[warning:])  # it was said before the ranking
    assert lines[-1].startswith("csp: 55% of the candidates failed")


def test_resume_continues_a_folder_and_attempts_what_was_queued_again(folder, workers):
    workers(faults={("relax", i): ENGINE for i in range(40)})
    state = run_csp(folder)
    assert isinstance(state.result(raise_on_failure=False), NothingRankedError)
    fake = workers()
    state = resume(str(folder), workers=1, return_state=True)
    assert state.is_failed()
    assert fake.done == []  # an engine error is final until somebody says otherwise
    state = resume(str(folder), requeue=["engine_error", "scf"], workers=1, return_state=True)
    assert state.is_completed(), state.message
    assert state.result().n_ranked == 16
    assert sum(stage == "relax" for stage, _ in fake.done) == 16
    assert {a.attempt for a in RunStore(folder).attempts("relax").values()} == {2}
    # A schedule may ask for the same again when nothing is left to do.
    state = resume(str(folder), requeue=["engine_error"], workers=1, return_state=True)
    assert state.is_completed()
    with pytest.raises(UserInputError, match="is not a run folder"):
        resume(str(folder / "nowhere"))


def test_an_engine_from_a_form_is_not_trusted(folder, workers, monkeypatch):
    monkeypatch.delenv("PACKFLOW_ALLOW_ENGINES", raising=False)
    workers()
    state = run_csp(folder, refine=[f"{LJ}:5"])
    assert state.is_failed()
    assert "PACKFLOW_ALLOW_ENGINES" in state.message
    assert not folder.exists()
    monkeypatch.setenv("PACKFLOW_ALLOW_ENGINES", "ase.calculators.lj:LennardJones")
    assert run_csp(folder, refine=[f"{LJ}:5"]).is_completed()
    # Whoever resumes the folder elsewhere needs the permission, too.
    monkeypatch.delenv("PACKFLOW_ALLOW_ENGINES")
    with pytest.raises(UserInputError, match="PACKFLOW_ALLOW_ENGINES"):
        resume(str(folder))


def test_a_device_that_is_not_there_is_refused_before_anything_is_written(folder, workers):
    workers()
    with pytest.raises(UserInputError, match="cannot use a GPU"):
        csp(RunSpec(**SPEC), out=str(folder), device="cuda")
    assert not folder.exists()


def test_every_deployment_names_a_flow_whose_parameters_draw_a_form():
    declared = yaml.safe_load(DEPLOYMENTS.read_text())["deployments"]
    found = {}
    for deployment in declared:
        flow = load_flow_from_entrypoint(deployment["entrypoint"])
        found[f"{flow.name}/{deployment['name']}"] = flow.parameters
        assert deployment["work_pool"]["name"] in ("cpu", "mpi")
    race = found["compare/race"]
    assert race.required == ["spec", "generators"]
    assert all(field["description"] for field in race.properties.values())
    assert race.definitions["CompareSettings"]["properties"]["window_kJ_mol"]["description"]
    generators = found["baseline/genarris"].properties["generator"]
    assert generators["default"] == "genarris-press"
    assert set(generators["enum"]) == set(BASELINES)
    fields = found["csp/single"].definitions["RunSpec"]["properties"]
    assert {"smiles", "engine", "refine", "max_failed"} <= set(fields)
    assert fields["refine"]["description"]
    parameters = found["resume/relaxations"]
    assert set(parameters.properties) == {
        "run_folder", "retry_failed", "requeue", "workers", "device", "timeout_s",
        "ranks",
    }  # fmt: skip
    assert parameters.required == ["run_folder"]
    assert all(field["description"] for field in parameters.properties.values())
    assert "out_of_memory" in json.dumps(parameters.definitions["Reason"])


def test_a_baseline_runs_through_the_stages_of_csp(folder, workers, monkeypatch, tmp_path):
    workers()
    spec = RunSpec(**{**SPEC, "z": [2], "n": 4, "conformers": {"n_embed": 1}})
    state = baseline(spec, generator="random", out=str(folder), workers=1, return_state=True)
    assert state.is_completed(), state.message
    assert state.result().n_ranked == 4
    rows = RunStore(folder).stage("rank").rows()
    assert {(row["method"], row["conformer"]) for row in rows} == {("random", 0)}
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("GENARRIS_PYTHON", raising=False)
    with pytest.raises(UserInputError, match="Genarris is not installed"):
        baseline(spec, out=str(tmp_path / "other"))


def test_a_wrong_parameter_is_named():
    with pytest.raises(Exception, match="requeue"):
        resume("somewhere", requeue=["bad luck"])
