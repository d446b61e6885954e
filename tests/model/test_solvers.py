"""Solvers: their order, their calls, and what they solve exactly."""

import numpy as np
import pytest
import torch

from packflow_core.model.solvers import integrate, network_calls, time_grid

SOLVERS = ["euler", "ab2", "heun", "midpoint"]
X1 = torch.ones(1, 1, 3, dtype=torch.float64)
L1 = torch.ones(1, 6, dtype=torch.float64)


def test_grid():
    assert time_grid(4) == [1.0, 0.75, 0.5, 0.25, 0.0]
    np.testing.assert_allclose(time_grid(2, power=2.0, start=0.8), [0.8, 0.2, 0.0])


@pytest.mark.parametrize(("solver", "order"), list(zip(SOLVERS, [1, 2, 2, 2], strict=True)))
@pytest.mark.parametrize("power", [1.0, 1.5])
@pytest.mark.parametrize("start", [1.0, 0.6])
def test_order_of_convergence(solver, order, power, start):
    """dx/dt = -2 t x grows by exp(start^2); halving the steps divides the error by 2^order."""

    def field(x, lattice, t):
        return -2 * t * x, -2 * t * lattice

    errors = []
    for steps in (80, 160):
        x, lattice = integrate(field, X1, L1, steps, solver, power, start)
        assert torch.allclose(x.flatten()[0], lattice.flatten()[0])
        errors.append(abs(float(x[0, 0, 0]) - np.exp(start**2)))
    assert errors[0] / errors[1] == pytest.approx(2**order, rel=0.15)


@pytest.mark.parametrize("solver", ["ab2", "midpoint"])
def test_second_order_is_exact_where_the_velocity_is_linear_in_time(solver):
    """dx/dt = 3 - 4 t; AB2 errs in its first step alone, by 2 h^2."""

    def field(x, lattice, t):
        return torch.full_like(x, 3 - 4 * t), torch.full_like(lattice, 3 - 4 * t)

    steps, power = 5, 1.7
    first = np.subtract(*time_grid(steps, power)[:2])
    x, _ = integrate(field, X1, L1, steps, solver, power)
    wanted = 1 - (3 - 2) + (2 * first**2 if solver == "ab2" else 0.0)
    assert float(x[0, 0, 0]) == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("solver", SOLVERS)
def test_calls_are_counted_and_stay_off_zero(solver):
    times = []

    def field(x, lattice, t):
        times.append(t)
        return x, lattice

    integrate(field, X1, L1, 4, solver)
    assert len(times) == network_calls(4, solver)
    assert min(times) > 0  # the velocity at t = 0 was not learned
    assert max(times) == 1.0


@pytest.mark.parametrize("solver", SOLVERS)
def test_one_step_follows_one_velocity(solver):
    """A straight flow is solved in one step, by every solver."""

    def field(x, lattice, t):
        return torch.full_like(x, 2.0), torch.full_like(lattice, -1.0)

    x, lattice = integrate(field, X1, L1, 1, solver)
    np.testing.assert_allclose(x, X1 - 2.0)
    np.testing.assert_allclose(lattice, L1 + 1.0)
