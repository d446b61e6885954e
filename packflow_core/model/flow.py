"""The flow between crystals and noise: states, targets and the loss (PackFlow, eq. 1 to 5).

Time 0 is data, time 1 is noise; x_t = (1 - t) x_0 + t eps and the velocity is eps - x_0. The
coordinates and the lattice have times of their own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class FlowState:
    """A point on the way from data to noise, and the velocity there.

    Attributes:
        x: [B, N, 3] Å. lattice: [B, 6]. t_x, t_l: [B, 1].
        v_x: [B, N, 3] Å. v_l: [B, 6].
    """

    x: Tensor
    lattice: Tensor
    t_x: Tensor
    t_l: Tensor
    v_x: Tensor
    v_l: Tensor


def interpolate(
    x0: Tensor, lattice0: Tensor, noise_x: Tensor, noise_l: Tensor, t_x: Tensor, t_l: Tensor
) -> FlowState:
    """State and target velocity at times t_x, t_l (eq. 1, 2 and 4).

    Args:
        x0: [B, N, 3] Å, data. lattice0: [B, 6], data. noise_x, noise_l: the same shapes.
        t_x: [B, 1] in [0, 1]. t_l: [B, 1].
    """
    tx = t_x[..., None]
    return FlowState(
        x=(1 - tx) * x0 + tx * noise_x,
        lattice=(1 - t_l) * lattice0 + t_l * noise_l,
        t_x=t_x,
        t_l=t_l,
        v_x=noise_x - x0,
        v_l=noise_l - lattice0,
    )


def flow_loss(
    v_x: Tensor,
    v_l: Tensor,
    target: FlowState,
    mask: Tensor,
    lattice_weight: float = 1.0,
    coordinate_unit: float = 1.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Flow-matching loss (eq. 5, with means over dimensions as in the published code).

    Args:
        v_x: [B, N, 3] and v_l: [B, 6], predicted velocities.
        target: the state whose velocities are the target.
        mask: [B, N] real atoms.
        lattice_weight: weight of the lattice part.
        coordinate_unit: Å; the coordinate part is measured in this unit.

    Returns:
        total, coordinate part, lattice part: mean over crystals of the mean over atoms and
        axes, and mean over crystals and the six lattice numbers.
    """
    m = mask[..., None].to(v_x.dtype)
    square = ((v_x - target.v_x) / coordinate_unit).square() * m
    per_crystal = square.sum((1, 2)) / (3 * m.sum((1, 2)))
    x_part = per_crystal.mean()
    l_part = (v_l - target.v_l).square().mean()
    return x_part + lattice_weight * l_part, x_part, l_part


def local_geometry_loss(
    v_x: Tensor, state: FlowState, x0: Tensor, near: Tensor, t_max: float = 0.5
) -> Tensor:
    """Mean squared error, Å^2, of bonded and 1-3 distances of the clean-sample estimate.

    x_t - t v is the crystal that the velocity points at; close to the data its bonds must be
    sharp. The weight of a crystal falls from 1 at t = 0 to 0 at `t_max`, since further out the
    estimate is an average over conformations, whose distances are rightly too short.

    Args:
        v_x: [B, N, 3] Å, predicted velocities.
        state: where they were predicted.
        x0: [B, N, 3] Å.
        near: [B, N, N] True for pairs whose distance counts.
        t_max: time at which the weight reaches zero.
    """
    estimate = state.x - state.t_x[..., None] * v_x
    difference = (_distances(estimate) - _distances(x0)).square() * near
    per_crystal = difference.sum((1, 2)) / near.sum((1, 2)).clamp(min=1)
    weight = (1 - state.t_x[:, 0] / t_max).clamp(min=0)
    return (per_crystal * weight).mean()


def _distances(x: Tensor) -> Tensor:
    """[B, N, N] distances with a finite gradient at zero."""
    return ((x[:, None] - x[:, :, None]).square().sum(-1) + 1e-6).sqrt()


def make_times(
    uniform: Tensor, *, shared_fraction: float = 0.5, power: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Times t_x, t_l, each [B, 1], from uniform numbers [B, 3].

    A fraction of the crystals takes one time for both channels, which is the line the sampler
    follows; the others take independent times as in the paper. `power` > 1 draws more small
    times, where bonds are decided.
    """
    t_x = uniform[:, :1] ** power
    t_l = torch.where(uniform[:, 2:] < shared_fraction, t_x, uniform[:, 1:2] ** power)
    return t_x, t_l
