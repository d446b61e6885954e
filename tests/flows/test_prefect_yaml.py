"""The declared deployments fit their flows; what the blind-test flow runs. Without a server."""

import importlib
from pathlib import Path

import pytest
import yaml
from prefect.client.schemas.schedules import CronSchedule
from prefect.events.schemas.automations import AutomationCore
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools.validation import validate

from flows import blind_test as module
from packflow_core.campaign import find_campaign, read_campaign
from packflow_core.errors import UserInputError

FOLDER = Path(__file__).parents[2] / "deployments"
CONTENT = yaml.safe_load((FOLDER / "prefect.yaml").read_text())
DEPLOYMENTS = CONTENT["deployments"]


def flow_of(deployment):
    place, _, name = deployment["entrypoint"].rpartition(".")
    return getattr(importlib.import_module(place), name)


def test_deployments_are_called_as_the_documentation_says():
    assert {f"{flow_of(d).name}/{d['name']}" for d in DEPLOYMENTS} == {
        "csp/blind-test", "csp/single", "campaign/blind-test-weekly", "baseline/genarris",
        "compare/race", "resume/relaxations", "train/packflow", "train/align", "verify/best",
    }  # fmt: skip


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda d: d["name"])
def test_a_deployment_draws_a_form_and_does_not_pile_up(deployment):
    schema = parameter_schema(flow_of(deployment)).model_dump_for_openapi()
    for name, field in schema["properties"].items():
        assert field.get("description"), name
    parameters = deployment.get("parameters", {})
    validate(parameters, schema, raise_on_error=True, ignore_required=True)
    assert set(parameters) <= set(schema["properties"])
    assert deployment["concurrency_limit"]["limit"] == 1
    assert deployment["work_pool"]["job_variables"]["env"] == {
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
        "PYTHONSAFEPATH": "1",
        "PREFECT_LOGGING_EXTRA_LOGGERS": "packflow_core,flows",
    }


def test_the_weekly_campaign_keeps_to_the_clock():
    (weekly,) = [d for d in DEPLOYMENTS if "schedules" in d]
    assert weekly["name"] == "blind-test-weekly"
    assert weekly["concurrency_limit"]["collision_strategy"] == "CANCEL_NEW"
    (schedule,) = weekly["schedules"]
    cron = CronSchedule(**schedule)
    assert (cron.cron, cron.timezone) == ("0 20 * * 5", "Europe/London")
    assert weekly["parameters"]["dated"]  # without a folder of its own it would find all done


@pytest.mark.parametrize("file", sorted(FOLDER.glob("automations/*.yaml")), ids=lambda p: p.stem)
def test_an_automation_is_one_that_prefect_takes(file):
    text = file.read_text().replace("BLOCK_ID", "0190d1e2-0000-7000-8000-000000000000")
    automation = AutomationCore.model_validate(yaml.safe_load(text))
    assert automation.enabled
    expected = {"zombies": "change-flow-run-state", "notify": "send-notification"}
    assert [action.type for action in automation.actions] == [expected[file.stem]]


@pytest.fixture
def carried_out(monkeypatch):
    calls = []
    monkeypatch.setattr(module, "carry_out", lambda spec, folder, how: calls.append(
        (spec, folder, how)))  # fmt: skip
    return calls


def test_without_a_parameter_it_is_a_small_search_of_obeqod(carried_out):
    module.blind_test.fn()
    ((spec, folder, how),) = carried_out
    assert (spec.name, spec.campaign, spec.n, spec.z) == ("OBEQOD", "blind-test", 16, (4,))
    assert (spec.generator, spec.engine, spec.reference) == ("packflow-open", "gfnff", None)
    assert folder == Path("runs/blind-test/OBEQOD/packflow-open")
    assert how.workers is None


def test_parameters_win_and_the_label_will_do(carried_out, tmp_path):
    from packflow_core.spec import Refinement

    module.blind_test.fn(
        "xxiii", n=50, generator="random+press", z=[1, 2], out=str(tmp_path), workers=3,
        refine=[Refinement(engine="gfn1-xtb", window_kJ_mol=12)],
    )  # fmt: skip
    ((spec, folder, how),) = carried_out
    assert (spec.name, spec.n, spec.z, spec.method) == ("XAFPAY", 50, (1, 2), "random+press")
    assert [(s.engine, s.window_kJ_mol) for s in spec.refine] == [("gfn1-xtb", 12.0)]
    assert (folder, how.workers) == (tmp_path, 3)
    with pytest.raises(UserInputError, match="has no target 'XL'"):
        module.blind_test.fn("XL")


def test_the_form_offers_every_target():
    schema = parameter_schema(module.blind_test).model_dump_for_openapi()
    targets = read_campaign(find_campaign("blind_test")).targets
    assert schema["properties"]["target"]["enum"] == [target.name for target in targets]
    assert schema.get("required", []) == []
