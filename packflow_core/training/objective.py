"""What is minimised: the flow-matching loss of either architecture (PackFlow, eq. 5)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from packflow_core.model.ablations import AblatedConfig, AblatedPackFlow
from packflow_core.model.batch import LAST_13_CODE, N_PAIR_CODES
from packflow_core.model.checkpoint import Model
from packflow_core.model.flow import (
    FlowState,
    flow_loss,
    interpolate,
    local_geometry_loss,
    make_times,
)
from packflow_core.model.official import OfficialConfig, OfficialPackFlow
from packflow_core.model.open_model import LENGTH_UNIT, OpenPackFlow
from packflow_core.training.batches import BatchPlan, TrainingBatch
from packflow_core.training.params import TrainParams


def build_network(params: TrainParams) -> Model:
    """The network of a training, with random weights from the current seed of PyTorch."""
    config = params.network
    if isinstance(config, AblatedConfig):
        return AblatedPackFlow(config)
    return OfficialPackFlow(config) if isinstance(config, OfficialConfig) else OpenPackFlow(config)


def batch_plan(params: TrainParams) -> BatchPlan:
    """How the batches of a training are made."""
    return BatchPlan(
        atoms=params.atoms,
        n_origins=params.pairing,
        structured=params.structured_noise,
        invert=params.invert,
        wrap=params.wrap,
        relative_lengths=params.architecture == "open",
    )


class Objective:
    """Loss of a network on a batch.

    Args:
        params: settings of the training.
        device: cpu or cuda, where the network runs.
    """

    def __init__(self, params: TrainParams, device: torch.device) -> None:
        self.params, self.device = params, device
        # The open network measures coordinates in a unit of its own, the published one in Å.
        self.unit = LENGTH_UNIT if params.architecture == "open" else 1.0

    def __call__(self, network: Any, batch: TrainingBatch) -> tuple[Tensor, Tensor, Tensor]:
        """The loss, and its coordinate and lattice parts; scalars.

        Args:
            network: the network, compiled or not.
            batch: on the device.
        """
        p = self.params
        t_x, t_l = make_times(batch.uniform, shared_fraction=p.shared_fraction, power=p.time_power)
        state = interpolate(batch.x0, batch.lattice0, batch.noise_x, batch.noise_l, t_x, t_l)
        v_x, v_l = self._velocities(network, state, batch)
        total, x_part, l_part = flow_loss(
            v_x, v_l, state, batch.graph.mask, p.lattice_weight, self.unit
        )
        code = batch.graph.pair_code
        for weight, last in ((p.geometry_weight, LAST_13_CODE), (p.shape_weight, N_PAIR_CODES)):
            if weight:
                near = (code > 1) & (code <= last)
                total = total + weight * local_geometry_loss(v_x, state, batch.x0, near)
        return total, x_part, l_part

    def _velocities(
        self, network: Any, state: FlowState, batch: TrainingBatch
    ) -> tuple[Tensor, Tensor]:
        inputs = [state.x, state.lattice, state.t_x, state.t_l, batch.graph]
        if self.params.architecture == "open":
            inputs.append(batch.volume)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.params.bf16):
            v_x, v_l = network(*inputs)
        return v_x, v_l
