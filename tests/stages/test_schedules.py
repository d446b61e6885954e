"""Which schedule the sampler takes: that of the settings, or that of the model's preset."""

import pytest

from packflow_core.stages.generate import schedule_of
from packflow_core.stages.generate_params import GenerateParams


@pytest.mark.parametrize(
    ("given", "preset", "wanted"),
    [
        ({}, "open", (10, "ab2", 10)),
        ({}, "official", (100, "euler", 100)),
        ({"steps": 7}, "official", (7, "euler", 7)),
        ({"solver": "heun"}, "open", (10, "heun", 19)),
        ({"steps": 8, "restarts": (0.5, 0.2)}, "open", (8, "ab2", 12)),
    ],
)
def test_what_is_not_given_follows_the_preset(given, preset, wanted):
    schedule = schedule_of(GenerateParams(**given), preset)
    assert (schedule.steps, schedule.solver, schedule.network_calls) == wanted
