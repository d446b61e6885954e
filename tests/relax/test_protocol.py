import pickle

import pytest
from pydantic import ValidationError

from packflow_core.relax.protocol import RelaxParams


@pytest.mark.parametrize(
    ("protocol", "max_steps", "factor", "stress"),
    [
        ("h_only", 25, None, None),
        ("converged", 1000, "sqrt_atoms", 0.1),
        ("paper", 1000, None, None),
    ],
)
def test_each_protocol_fills_in_its_own_numbers(protocol, max_steps, factor, stress):
    params = RelaxParams(protocol=protocol)
    assert params.fmax == 0.05
    assert (params.max_steps, params.exp_cell_factor, params.max_stress_GPa) == (
        max_steps,
        factor,
        stress,
    )
    assert params.moves_cell == (protocol != "h_only")
    # What a run records must read back as the same parameters.
    assert RelaxParams.model_validate(params.model_dump()) == params
    assert RelaxParams.model_validate_json(params.model_dump_json()) == params
    assert pickle.loads(pickle.dumps(params)) == params


def test_the_default_is_converged():
    assert RelaxParams() == RelaxParams(protocol="converged")


def test_given_numbers_win():
    params = RelaxParams(protocol="paper", max_steps=5, exp_cell_factor=3.0, fmax=0.2)
    assert (params.max_steps, params.exp_cell_factor, params.fmax) == (5, 3.0, 0.2)


@pytest.mark.parametrize(
    "values",
    [
        {"protocol": "quick"},
        {"fmax": 0.0},
        {"max_steps": -1},
        {"max_volume_ratio": 0.9},
        {"steps": 3},
        {"protocol": "h_only", "exp_cell_factor": 8.0},
        {"exp_cell_factor": 0.0},
        {"exp_cell_factor": "atoms"},
        {"protocol": "h_only", "max_stress_GPa": 0.1},
        {"protocol": "paper", "max_stress_GPa": 0.1},
        {"protocol": 3},
    ],
)
def test_nonsense_is_refused(values):
    with pytest.raises(ValidationError):
        RelaxParams(**values)


@pytest.mark.parametrize(("given", "factor"), [("sqrt_atoms", 7.0), (None, 49.0), (8.0, 8.0)])
def test_the_scale_of_the_cell(given, factor):
    assert RelaxParams(exp_cell_factor=given).cell_factor(49) == factor
