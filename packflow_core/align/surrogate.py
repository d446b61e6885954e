"""The single-time surrogate score of a candidate (PackFlow, eq. 12 to 17).

A flow that is integrated without noise has no cheap likelihood. Its matching loss at one time, with
time and noise frozen, stands for minus the logarithm of a candidate's probability.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from packflow_core.model.checkpoint import Model
from packflow_core.model.flow import FlowState, interpolate
from packflow_core.model.open_model import OpenPackFlow
from packflow_core.training.batches import BatchMaker, BatchPlan, TrainingBatch
from packflow_core.training.data import TrainingSet

#: Heavy atoms of a batch in a pass forward and back.
_ATOMS = 1200


@dataclass(frozen=True)
class FrozenDraw:
    """Some candidates with the time and the noise at which they are scored.

    Attributes:
        members: positions of the candidates in the rollouts.
        batch: candidates and noise, paired as in pre-training.
        t: [B, 1] the time of coordinates and lattice (eq. 17).
        number: which of the draws of each of them it is.
    """

    members: list[int]
    batch: TrainingBatch
    t: Tensor
    number: int = 0

    def to(self, device: torch.device) -> FrozenDraw:
        """The same on another device."""
        return replace(self, batch=self.batch.to(device), t=self.t.to(device))


def batch_plan(model: Model) -> BatchPlan:
    """How candidates meet their noise: as in the pre-training of the model's architecture."""
    if isinstance(model, OpenPackFlow):
        return BatchPlan(atoms=_ATOMS, invert=False)
    return BatchPlan(
        atoms=_ATOMS,
        n_origins=0,
        structured=False,
        invert=False,
        wrap=True,
        relative_lengths=False,
    )


def frozen_draws(
    candidates: TrainingSet, plan: BatchPlan, key: tuple[int, ...], draws: int = 1
) -> list[FrozenDraw]:
    """Times and noise of all candidates, in batches of like size.

    Args:
        candidates: the rollouts.
        plan: how they meet their noise.
        key: seed and step; equal keys give equal draws.
        draws: times and noises of each candidate; the paper has one.
    """
    maker = BatchMaker(candidates, plan, seed=key[0])
    sizes = candidates.sizes()
    order = np.argsort(sizes, kind="stable")
    windows = np.cumsum(sizes[order]) // plan.atoms
    found = []
    for number in range(draws):
        for window in np.unique(windows):
            members = order[windows == window]
            rng = np.random.default_rng([*key, number, int(window)])
            batch = maker.make(members, rng)
            t = torch.from_numpy(rng.random((len(members), 1)).astype(np.float32))
            found.append(FrozenDraw(members.tolist(), batch, t, number))
    return found


def surrogate_losses(network: Any, draw: FrozenDraw, lattice_weight: float = 1.0) -> Tensor:
    """[B] surrogate losses (eq. 16) of the candidates of a draw.

    Coordinates count in Å for every architecture, so that one weight of the divergence means the
    same for all.

    Args:
        network: an open or official network.
        draw: candidates, time and noise, on the network's device.
        lattice_weight: lambda_l of the paper.
    """
    state, v_x, v_l = predicted_velocity(network, draw)
    mask = draw.batch.graph.mask[..., None].to(v_x.dtype)
    square = (v_x - state.v_x).square() * mask
    # Means over atoms and axes, as in the published code; eq. 16 sums over the axes.
    x_part = square.sum((1, 2)) / (3 * mask.sum((1, 2)))
    l_part = (v_l - state.v_l).square().mean(1)
    total: Tensor = x_part + lattice_weight * l_part
    return total


def predicted_velocity(network: Any, draw: FrozenDraw) -> tuple[FlowState, Tensor, Tensor]:
    """States of a draw with their targets, and the velocities [B, N, 3], [B, 6] of a network."""
    batch = draw.batch
    state = interpolate(batch.x0, batch.lattice0, batch.noise_x, batch.noise_l, draw.t, draw.t)
    inputs: list[Any] = [state.x, state.lattice, state.t_x, state.t_l, batch.graph]
    if isinstance(network, OpenPackFlow):
        inputs.append(batch.volume)
    v_x, v_l = network(*inputs)
    return state, v_x, v_l


def as_crystals(
    chemistry: TrainingSet,
    molecule: list[int],
    z: list[int],
    positions: list[np.ndarray[Any, np.dtype[np.float64]]],
    cells: list[np.ndarray[Any, np.dtype[np.float64]]],
) -> TrainingSet:
    """Rollouts as a set of crystals of the molecules of `chemistry`.

    Args:
        chemistry: the molecules.
        molecule: index of the molecule of each candidate.
        z: molecules per cell.
        positions: [z n, 3] Å of each.
        cells: [3, 3] Å, in the frame of `parameters_to_cell`.
    """
    return replace(
        chemistry,
        molecule=np.array(molecule, dtype=np.int64),
        z=np.array(z, dtype=np.int64),
        cells=np.array(cells, dtype=np.float32).reshape(-1, 3, 3),
        erel=np.zeros(len(z), dtype=np.float32),
        offsets=np.concatenate([[0], np.cumsum([len(x) for x in positions])]).astype(np.int64),
        positions=np.concatenate(positions).astype(np.float32),
        fixed_weights=None,
    )
