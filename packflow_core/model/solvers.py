"""Solvers of the flow's ODE, and what they cost in calls of the network.

The flow runs from time 1 (noise) to time 0 (data), in coordinates and lattice at once. A call of
the network is nearly all that a step costs, so solvers are compared by calls: `ab2` takes second
order from the velocity of the step before and calls once a step, `heun` and `midpoint` call twice.
`docs/sampling.md` has measured curves.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Literal

from torch import Tensor

Solver = Literal["euler", "ab2", "heun", "midpoint"]
#: Field of a solver: (x [B, N, 3], lattice [B, 6], t) -> their velocities.
Field = Callable[[Tensor, Tensor, float], tuple[Tensor, Tensor]]
#: Puts a state (x, lattice) back onto what it must keep to.
Projection = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def time_grid(steps: int, power: float = 1.0, start: float = 1.0) -> list[float]:
    """Times start (1 - i / steps)^power, i = 0 to steps; above 1 the steps shrink to the data."""
    return [start * (1.0 - i / steps) ** power for i in range(steps + 1)]


def network_calls(steps: int, solver: Solver) -> int:
    """Calls of the field that `integrate` makes."""
    return {"euler": steps, "ab2": steps, "heun": 2 * steps - 1, "midpoint": 2 * steps}[solver]


def integrate(
    field: Field,
    x: Tensor,
    lattice: Tensor,
    steps: int,
    solver: Solver = "euler",
    power: float = 1.0,
    start: float = 1.0,
    project: Projection | None = None,
) -> tuple[Tensor, Tensor]:
    """Integrate the flow from t = start to t = 0 in both channels at once.

    Args:
        field: velocities at (x, lattice, t).
        x: [B, N, 3] Å and lattice: [B, 6], noise.
        steps: number of steps.
        solver: euler (the published sampler); ab2 (Adams-Bashforth of second order with steps of
            any length; the first step is Euler's); heun (the last step is Euler's, since velocities
            were learned up to t = 0 but not at it); midpoint.
        power: of the grid, see `time_grid`.
        start: time of the given state.
        project: applied to the state after every step.

    Source:
        Hairer, Norsett, Wanner, Solving Ordinary Differential Equations I, sections II.1 and III.5.
    """
    before: tuple[float, Tensor, Tensor] | None = None  # the step before and its velocities
    for t, t_next in itertools.pairwise(time_grid(steps, power, start)):
        h = t - t_next
        v_x, v_l = w_x, w_l = field(x, lattice, t)
        if solver == "ab2" and before is not None:
            ahead = 0.5 * h / before[0]
            w_x, w_l = v_x + ahead * (v_x - before[1]), v_l + ahead * (v_l - before[2])
        elif solver == "heun" and t_next > 0:
            w_x, w_l = field(x - h * v_x, lattice - h * v_l, t_next)
            w_x, w_l = 0.5 * (v_x + w_x), 0.5 * (v_l + w_l)
        elif solver == "midpoint":
            half = 0.5 * h
            w_x, w_l = field(x - half * v_x, lattice - half * v_l, t - half)
        before = h, v_x, v_l
        x, lattice = x - h * w_x, lattice - h * w_l
        if project is not None:
            x, lattice = project(x, lattice)
    return x, lattice
