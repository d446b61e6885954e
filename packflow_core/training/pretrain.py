"""Flow-matching pre-training (PackFlow, sections 2.2 and 4.1, eq. 1 to 5).

The state of a training (weights, averaged weights, optimiser, step) is written whole and often;
batches and times depend on (seed, step, rank) alone, so an interrupted training continues exactly.
"""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from packflow_core import __version__
from packflow_core.errors import UserInputError
from packflow_core.training.batches import BatchMaker, TrainingBatch
from packflow_core.training.data import TrainingSet
from packflow_core.training.export import MODEL_FILE, export_checkpoint
from packflow_core.training.logs import LOG_FILE, TrainingLog
from packflow_core.training.objective import Objective, batch_plan, build_network
from packflow_core.training.params import TrainParams
from packflow_core.training.ranks import Ranks
from packflow_core.training.start import Start
from packflow_core.training.state import STATE_FILE, read_state, write_state

__all__ = ["LOG_FILE", "MODEL_FILE", "STATE_FILE", "TrainParams", "Trainer"]

log = logging.getLogger(__name__)

#: Batches of the validation loss.
_VALIDATION_BATCHES = 12


class Trainer:
    """One pre-training in a folder; `run` continues where the folder's state ends.

    Args:
        params: settings.
        train: crystals to learn from.
        val: crystals for the validation loss.
        folder: of the training; created where it is missing.
        device: where the network runs; that of the ranks, where there are several.
        start: weights to begin with instead of random ones.
        data_facts: what the record shall say of the data; a folder keeps to its data.
        ranks: the processes that train together. Every one of them makes a trainer; the leading
            one writes.
        tensorboard: log for TensorBoard too.

    Raises:
        UserInputError: the folder holds a training of other settings, start or data, or cannot
            be read or written.
        RunFailedError: the ranks do not see the same folder or data.
    """

    def __init__(
        self,
        params: TrainParams,
        train: TrainingSet,
        val: TrainingSet,
        folder: Path,
        device: str = "cpu",
        *,
        start: Start | None = None,
        data_facts: Sequence[dict[str, Any]] = (),
        ranks: Ranks | None = None,
        tensorboard: bool = False,
    ) -> None:
        self.ranks = ranks or Ranks(device=torch.device(device))
        self.params, self.folder, self.device = params, folder, self.ranks.device
        torch.manual_seed(params.seed)
        self.model = build_network(params).to(self.device)
        self.start: dict[str, str] | None = None
        if start is not None:
            start.check(params.architecture, asdict(self.model.config))
            self.model.load_state_dict(start.weights)
            self.start = start.record
        self.data_facts = list(data_facts)
        # Compiled or not, the parameters are those of `self.model`.
        self.network: Any = (
            torch.compile(self.model, dynamic=True) if params.compile else self.model
        )
        self.objective = Objective(params, self.device)
        self.averaged = {k: v.detach().clone() for k, v in self.model.state_dict().items()}
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(),
            lr=params.learning_rate,
            weight_decay=params.weight_decay,
            betas=(0.9, params.beta2),
            fused=True,
        )
        self.train_set = train
        self.step = 0
        self.seconds = 0.0
        self.running = 0.0
        folder.mkdir(parents=True, exist_ok=True)
        self._resume()
        self.ranks.check_same({"step": self.step, "data": self.data_facts})
        plan = batch_plan(params)
        self.batches = BatchMaker(train, plan, params.seed, self.ranks.rank)
        self.validation: list[TrainingBatch] = []
        if self.ranks.leads:
            # Fixed crystals, noise and times: validation losses of different steps can be
            # compared.
            fixed = BatchMaker(val, plan, params.seed + 1_000_003)
            self.validation = [fixed(i) for i in range(_VALIDATION_BATCHES)]
            self._rows = TrainingLog(folder, self.step, tensorboard=tensorboard)

    # -- the loop ----------------------------------------------------------------------------
    def run(
        self,
        steps: int | None = None,
        on_step: Callable[[int, float], None] = lambda step, loss: None,
        time_limit: float = math.inf,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        """Train up to step `steps`, and save there.

        Args:
            steps: default: all.
            on_step: told the step and the running mean of the loss.
            time_limit: s; the training stops and saves when they have passed, on any rank.
            stop: asked after every step; the training stops and saves when it says so.
        """
        last = self.params.steps if steps is None else min(steps, self.params.steps)
        started = counted = time.monotonic()
        self.model.train()
        for batch in self._batches(self.step, last):
            loss, x_part, l_part, norm = self._learn(batch)
            self.step += 1
            ends = time.monotonic() - started > time_limit or stop()
            *losses, ending = self.ranks.mean([loss, x_part, l_part, float(ends)])
            if math.isfinite(losses[0]):
                known = self.running or losses[0]
                self.running = 0.98 * known + 0.02 * losses[0]
            on_step(self.step, self.running)
            if self.step % self.params.save_every == 0 or self.step == last or ending:
                now = time.monotonic()
                self.seconds, counted = self.seconds + now - counted, now
                self._log(losses[1], losses[2], float(norm))
                self.save()
            if ending:
                return

    def _learn(self, batch: TrainingBatch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """One step of the optimiser; the loss, its two parts and the norm of the gradient."""
        loss, x_part, l_part = self.objective(self.network, batch)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.ranks.average_gradients(self.model.parameters())
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.params.clip)
        if torch.isfinite(norm):  # one bad batch must not end a long training
            for group in self.optimizer.param_groups:
                group["lr"] = self.rate(self.step)
            self.optimizer.step()
            self._average()
        return loss.detach(), x_part.detach(), l_part.detach(), norm

    def rate(self, step: int) -> float:
        """Learning rate: linear warm-up, constant, linear fall to zero over the cool-down."""
        p = self.params
        up = min(1.0, (step + 1) / max(1, p.warmup))
        down = min(1.0, (p.steps - step) / p.cooldown) if p.cooldown else 1.0
        return p.learning_rate * min(up, down)

    def _batches(self, first: int, last: int) -> Iterator[TrainingBatch]:
        for step in range(first, last):
            yield self.batches(step).to(self.device)

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
        parts = [self.objective(self.network, b.to(self.device))[1:] for b in self.validation]
        self.model.load_state_dict(current)
        x_part, l_part = (float(torch.stack(p).mean()) for p in zip(*parts, strict=True))
        return x_part, l_part

    def _log(self, x_part: float, l_part: float, norm: float) -> None:
        if not self.ranks.leads:
            return
        val_x, val_l = self.validation_loss()
        row = {
            "step": self.step, "seconds": round(self.seconds, 1),
            "loss": round(self.running, 5),
            "loss_x": round(x_part, 5), "loss_lattice": round(l_part, 5),
            "val_x": round(val_x, 5), "val_lattice": round(val_l, 5),
            "gradient": round(norm, 4), "rate": self.rate(self.step),
        }  # fmt: skip
        self._rows.write(row)
        log.info("training %s", row)

    def save(self) -> None:
        """Write the training state, and the averaged weights as a checkpoint.

        Raises:
            UserInputError: the folder cannot be written.
        """
        if not self.ranks.leads:
            return
        state = {
            "params": self.params.model_dump(),
            "step": self.step,
            "seconds": self.seconds,
            "running": self.running,
            "model": self.model.state_dict(),
            "averaged": self.averaged,
            "optimizer": self.optimizer.state_dict(),
            "start": self.start,
            "data": self.data_facts,
            "ranks": self.ranks.size,
        }
        write_state(self.folder, state)
        self.export(self.folder / MODEL_FILE)

    def export(self, path: Path, **more: Any) -> None:
        """Write the averaged weights as a checkpoint that `csp run --generator` takes."""
        meta = {
            "packflow_csp": __version__,
            "torch": str(torch.__version__),
            "steps": self.step,
            "seconds": round(self.seconds, 1),
            "device": self.device.type,
            "ranks": self.ranks.size,
            "crystals": len(self.train_set),
            "molecules": len(self.train_set.smiles),
            "params": self.params.model_dump(),
            "architecture": asdict(self.model.config),
            "start": self.start,
            "data": self.data_facts,
            **more,
        }
        export_checkpoint(path, self.model, self.averaged, meta)

    def digest(self) -> str:
        """First 16 hexadecimal digits of the SHA-256 of the weights."""
        sha = hashlib.sha256()
        for value in self.model.state_dict().values():
            sha.update(value.detach().cpu().numpy().tobytes())
        return sha.hexdigest()[:16]

    def _resume(self) -> None:
        state = read_state(self.folder, self.device)
        if state is None:
            return
        self._check_same(state)
        self.model.load_state_dict(state["model"])
        self.averaged = state["averaged"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds = int(state["step"]), float(state["seconds"])
        self.running = float(state.get("running", 0.0))
        log.info("training continues at step %d", self.step)

    def _check_same(self, state: dict[str, Any]) -> None:
        # The length of a training may be changed on the way; what it learns may not.
        saved = state["params"]
        if wrong := self.params.differing(saved):
            raise UserInputError(
                f"{self.folder} holds a training with other settings "
                f"({', '.join(f'{k}={saved.get(k)}' for k in wrong)}); choose another folder."
            )
        start, data, size = state.get("start"), state.get("data"), state.get("ranks", 1)
        if self.start is not None and start != self.start:
            began = f"began with {start['name']}" if start else "did not begin with a checkpoint"
            raise UserInputError(
                f"{self.folder} holds a training that {began}; leave --init away to continue "
                "it, or choose another folder."
            )
        if data and self.data_facts and data != self.data_facts:
            raise UserInputError(
                f"{self.folder} holds a training on other data or other weights of them; name "
                "the same --data, or another folder that starts with --init."
            )
        if size != self.ranks.size:
            log.warning(
                "the training goes on with %d ranks instead of %d; a step is made of as many "
                "batches", self.ranks.size, size,
            )  # fmt: skip
        self.start, self.data_facts = start, self.data_facts or data or []
