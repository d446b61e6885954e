"""Flow-matching pre-training of the open model (PackFlow, sections 2.2 and 4.1, eq. 1 to 5).

The state of a training (weights, averaged weights, optimiser, step) is written whole and often;
batches and times depend on (seed, step) alone, so an interrupted training continues exactly.
"""

from __future__ import annotations

import csv
import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from packflow_core import __version__
from packflow_core.errors import UserInputError
from packflow_core.model.batch import LAST_13_CODE, N_PAIR_CODES
from packflow_core.model.checkpoint import save_open
from packflow_core.model.flow import flow_loss, interpolate, local_geometry_loss, make_times
from packflow_core.model.open_model import LENGTH_UNIT, OpenConfig, OpenPackFlow
from packflow_core.training.batches import BatchMaker, BatchPlan, TrainingBatch
from packflow_core.training.data import TrainingSet

log = logging.getLogger(__name__)

STATE_FILE = "training-state.pt"
LOG_FILE = "training-log.csv"


class TrainParams(BaseModel):
    """Settings of a pre-training."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    steps: int = Field(10_000, ge=1, description="optimiser steps in all")
    warmup: int = Field(300, ge=0, description="steps of linear warm-up")
    cooldown: int = Field(3_000, ge=0, description="last steps, over which the rate falls to zero")
    learning_rate: float = Field(1e-3, gt=0, description="peak learning rate of AdamW")
    weight_decay: float = Field(0.01, ge=0, description="weight decay of AdamW")
    clip: float = Field(1.0, gt=0, description="largest norm of the gradient")
    ema: float = Field(0.999, ge=0, lt=1, description="decay of the averaged weights")
    lattice_weight: float = Field(0.3, gt=0, description="weight of the lattice loss")
    geometry_weight: float = Field(0.5, ge=0, description="weight of the local geometry loss")
    shape_weight: float = Field(
        0.5, ge=0, description="weight of the same loss over all pairs inside a molecule"
    )
    shared_fraction: float = Field(0.5, ge=0, le=1, description="crystals with one time for both")
    time_power: float = Field(1.0, gt=0, description="t = u^power; above 1 favours small times")
    atoms: int = Field(1200, ge=64, description="heavy atoms in a batch, about")
    pairing: int = Field(6, ge=0, description="origins tried in pairing with noise; 0: no pairing")
    structured_noise: bool = Field(True, description="noise correlated along bonds")
    seed: int = Field(0, ge=0, description="seed of weights, batches and times")
    bf16: bool = Field(True, description="bfloat16 matrix products")
    compile: bool = Field(False, description="torch.compile: a minute more, then a third faster")
    save_every: int = Field(500, ge=1, description="steps between two saves and validations")
    d_model: int = Field(256, ge=16, description="width")
    nhead: int = Field(8, ge=1, description="attention heads")
    num_layers: int = Field(6, ge=1, description="layers")
    dim_feedforward: int = Field(768, ge=16, description="width of the feed-forward blocks")

    @property
    def architecture(self) -> OpenConfig:
        """Configuration of the network."""
        return OpenConfig(
            d_model=self.d_model,
            nhead=self.nhead,
            num_layers=self.num_layers,
            dim_feedforward=self.dim_feedforward,
        )


class Trainer:
    """One pre-training in a folder; `run` continues where the folder's state ends."""

    def __init__(
        self,
        params: TrainParams,
        train: TrainingSet,
        val: TrainingSet,
        folder: Path,
        device: str = "cpu",
    ) -> None:
        self.params, self.folder, self.device = params, folder, torch.device(device)
        torch.manual_seed(params.seed)
        self.model = OpenPackFlow(params.architecture).to(self.device)
        # Compiled or not, the parameters are those of `self.model`.
        self.network: Any = (
            torch.compile(self.model, dynamic=True) if params.compile else self.model
        )
        self.averaged = {k: v.detach().clone() for k, v in self.model.state_dict().items()}
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(),
            lr=params.learning_rate,
            weight_decay=params.weight_decay,
            betas=(0.9, 0.98),
            fused=True,
        )
        plan = BatchPlan(
            atoms=params.atoms, n_origins=params.pairing, structured=params.structured_noise
        )
        self.batches = BatchMaker(train, plan, params.seed)
        # Fixed crystals, noise and times: validation losses of different steps can be compared.
        fixed = BatchMaker(val, plan, params.seed + 1_000_003)
        self.validation = [fixed(i) for i in range(12)]
        self.train_set = train
        self.step = 0
        self.seconds = 0.0
        folder.mkdir(parents=True, exist_ok=True)
        self._resume()

    # -- the loop ----------------------------------------------------------------------------
    def run(
        self,
        steps: int | None = None,
        on_step: Callable[[int, float], None] = lambda step, loss: None,
        time_limit: float = math.inf,
    ) -> None:
        """Train up to step `steps` (default: all), or until `time_limit` seconds have passed."""
        last = self.params.steps if steps is None else min(steps, self.params.steps)
        started, running = time.monotonic(), 0.0
        self.model.train()
        for batch in self._batches(self.step, last):
            loss, x_part, l_part = self._loss(batch)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.params.clip)
            if torch.isfinite(norm):  # one bad batch must not end a long training
                for group in self.optimizer.param_groups:
                    group["lr"] = self.rate(self.step)
                self.optimizer.step()
                self._average()
            self.step += 1
            value = loss.item()
            running = value if not running else 0.98 * running + 0.02 * value
            on_step(self.step, running)
            stop = time.monotonic() - started > time_limit
            if self.step % self.params.save_every == 0 or self.step == last or stop:
                now = time.monotonic()
                self.seconds += now - started
                started, time_limit = now, time_limit - (now - started)
                self._log(running, x_part.item(), l_part.item(), norm.item())
                self.save()
            if stop:
                return

    def rate(self, step: int) -> float:
        """Learning rate: linear warm-up, constant, linear fall to zero over the cool-down."""
        p = self.params
        up = min(1.0, (step + 1) / max(1, p.warmup))
        down = min(1.0, (p.steps - step) / p.cooldown) if p.cooldown else 1.0
        return p.learning_rate * min(up, down)

    def _batches(self, first: int, last: int) -> Iterator[TrainingBatch]:
        for step in range(first, last):
            yield self.batches(step).to(self.device)

    def _loss(self, batch: TrainingBatch) -> tuple[Tensor, Tensor, Tensor]:
        p = self.params
        t_x, t_l = make_times(batch.uniform, shared_fraction=p.shared_fraction, power=p.time_power)
        state = interpolate(batch.x0, batch.lattice0, batch.noise_x, batch.noise_l, t_x, t_l)
        with self._autocast():
            v_x, v_l = self.network(
                state.x, state.lattice, state.t_x, state.t_l, batch.graph, batch.volume
            )
        total, x_part, l_part = flow_loss(
            v_x, v_l, state, batch.graph.mask, p.lattice_weight, LENGTH_UNIT
        )
        code = batch.graph.pair_code
        for weight, last in ((p.geometry_weight, LAST_13_CODE), (p.shape_weight, N_PAIR_CODES)):
            if weight:
                near = (code > 1) & (code <= last)
                total = total + weight * local_geometry_loss(v_x, state, batch.x0, near)
        return total, x_part, l_part

    def _autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.params.bf16)

    @torch.no_grad()
    def _average(self) -> None:
        # A short memory at first, so that the random start is forgotten.
        decay = min(self.params.ema, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(
            list(self.averaged.values()), list(self.model.state_dict().values()), 1 - decay
        )

    # -- validation, saving, resuming --------------------------------------------------------
    @torch.no_grad()
    def validation_loss(self) -> tuple[float, float]:
        """Coordinate and lattice loss of the averaged weights on fixed crystals and noise."""
        current = {k: v.clone() for k, v in self.model.state_dict().items()}
        self.model.load_state_dict(self.averaged)
        parts = [self._loss(batch.to(self.device))[1:] for batch in self.validation]
        self.model.load_state_dict(current)
        x_part, l_part = (float(torch.stack(p).mean()) for p in zip(*parts, strict=True))
        return x_part, l_part

    def _log(self, running: float, x_part: float, l_part: float, norm: float) -> None:
        val_x, val_l = self.validation_loss()
        row = {
            "step": self.step, "seconds": round(self.seconds, 1), "loss": round(running, 5),
            "loss_x": round(x_part, 5), "loss_lattice": round(l_part, 5),
            "val_x": round(val_x, 5), "val_lattice": round(val_l, 5),
            "gradient": round(norm, 4), "rate": self.rate(self.step),
        }  # fmt: skip
        path = self.folder / LOG_FILE
        is_new = not path.exists()
        with path.open("a", newline="") as f:
            writer = csv.DictWriter(f, row)
            if is_new:
                writer.writeheader()
            writer.writerow(row)
        log.info("training %s", row)

    def save(self) -> None:
        """Write the training state, and the averaged weights as a checkpoint."""
        state = {
            "params": self.params.model_dump(),
            "step": self.step,
            "seconds": self.seconds,
            "model": self.model.state_dict(),
            "averaged": self.averaged,
            "optimizer": self.optimizer.state_dict(),
        }
        temporary = self.folder / (STATE_FILE + ".tmp")
        torch.save(state, temporary)
        temporary.replace(self.folder / STATE_FILE)
        self.export(self.folder / "model.pt")

    def export(self, path: Path, **more: Any) -> None:
        """Write the averaged weights as a checkpoint that `csp run --generator` takes."""
        meta = {
            "packflow_csp": __version__,
            "torch": str(torch.__version__),
            "steps": self.step,
            "seconds": round(self.seconds, 1),
            "device": str(self.device),
            "crystals": len(self.train_set),
            "molecules": len(self.train_set.smiles),
            "params": self.params.model_dump(),
            "architecture": asdict(self.model.config),
            **more,
        }
        save_open(path, self.model, self.averaged, meta)

    def _resume(self) -> None:
        path = self.folder / STATE_FILE
        if not path.exists():
            return
        state = torch.load(path, map_location=self.device, weights_only=True)
        self._check_same(state["params"])
        self.model.load_state_dict(state["model"])
        self.averaged = state["averaged"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds = int(state["step"]), float(state["seconds"])
        log.info("training continues at step %d", self.step)

    def _check_same(self, saved: dict[str, Any]) -> None:
        # The length of a training may be changed on the way; what it learns may not.
        free = {"steps", "cooldown", "save_every", "learning_rate", "compile", "bf16"}
        mine = self.params.model_dump()
        wrong = [k for k in mine if k not in free and mine[k] != saved.get(k)]
        if wrong:
            raise UserInputError(
                f"{self.folder} holds a training with other settings "
                f"({', '.join(f'{k}={saved.get(k)}' for k in wrong)}); choose another folder."
            )
