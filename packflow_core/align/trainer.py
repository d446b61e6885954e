"""Physics alignment (PackFlow, algorithm 1): rollouts, rewards, clipped updates; resumable.

The state (policy, optimiser, step, memory) is written whole and often. Molecules, noise and times
of a step depend on the seed and the step alone, so an interrupted alignment continues exactly.
"""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from packflow_core import __version__
from packflow_core.align.advantages import mixed_advantages
from packflow_core.align.calibration import VolumeReference
from packflow_core.align.member import Member
from packflow_core.align.memory import DiversityFilter, ReplayBuffer
from packflow_core.align.params import AlignParams
from packflow_core.align.records import write_candidates
from packflow_core.align.rewards import Score, group_rewards
from packflow_core.align.rollouts import Group, draw_groups, sample_group, usable
from packflow_core.align.scoring import score_groups
from packflow_core.align.shaping import shaped
from packflow_core.align.surrogate import as_crystals, batch_plan, frozen_draws
from packflow_core.align.update import WeighedDraw, update
from packflow_core.errors import UserInputError
from packflow_core.model.checkpoint import Model, load_model
from packflow_core.model.open_model import OpenPackFlow
from packflow_core.store.atomic import make_folder
from packflow_core.store.rows import Row, crystal_of
from packflow_core.store.schema import Status
from packflow_core.training.data import TrainingSet
from packflow_core.training.export import MODEL_FILE, export_checkpoint
from packflow_core.training.logs import TrainingLog
from packflow_core.training.state import read_state, write_state

if TYPE_CHECKING:
    from packflow_core.workers import WorkerPool

log = logging.getLogger(__name__)

FloatArray = NDArray[np.float64]


#: Checkpoints of the steps that were validated: a later step is not always a better one.
VALIDATED_FOLDER = "validated"

#: Called with the policy; gives columns for the log.
Validation = Callable[[Any], dict[str, float]]


class Aligner:
    """One alignment in a folder; `run` continues where the folder's state ends.

    Args:
        params: settings.
        generator: model of the zoo or checkpoint to begin with; also the reference.
        chemistry: the molecules to learn on.
        folder: of the alignment; created where it is missing.
        pool: workers for the rewards.
        device: where the network runs.
        validation: measures the policy every `validate_every` steps.
        tensorboard: log for TensorBoard too.

    Raises:
        UserInputError: the folder holds an alignment of other settings or another generator, no
            molecule fits, or something cannot be read or written.
    """

    def __init__(
        self,
        params: AlignParams,
        generator: str,
        chemistry: TrainingSet,
        folder: Path,
        pool: WorkerPool,
        device: str = "cpu",
        *,
        validation: Validation | None = None,
        tensorboard: bool = False,
    ) -> None:
        if not usable(chemistry, params):
            raise UserInputError(
                f"No molecule fits into a cell of {params.max_heavy} heavy atoms with Z = "
                f"{min(params.z)}; raise max_heavy or take a smaller Z."
            )
        self.params, self.folder = params, folder
        self.pool, self.device, self.validation = pool, torch.device(device), validation
        loaded = load_model(generator)
        self.preset = loaded.preset
        if params.shared_prefix > 1 and self.preset != "open":
            raise UserInputError(
                f"{loaded.name} cannot restart, so its candidates never part: shared_prefix takes "
                "an open model; leave it at 1."
            )
        self.start = {"name": Path(loaded.name).name, "sha256": loaded.sha256}
        self._base_meta = dict(loaded.meta)
        unit = getattr(loaded.model.config, "volume_scale", 1.0)
        self.chemistry = replace(chemistry, molecule_volumes=chemistry.molecule_volumes * unit)
        # Dropout and the like are off throughout: ratios compare equal networks.
        self.model = loaded.model.to(self.device).eval()
        self.reference = copy.deepcopy(self.model).requires_grad_(False)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=params.learning_rate, weight_decay=params.weight_decay
        )
        self.plan = batch_plan(self.model)
        self.replay, self.diversity = ReplayBuffer(), DiversityFilter()
        self._volumes: VolumeReference | None = None
        self._calibration = (-1, 1.0)  # of which step, and the factor
        self.step, self.seconds = 0, 0.0
        self.ended = ""
        folder.mkdir(parents=True, exist_ok=True)
        self._resume()
        self._rows = TrainingLog(folder, self.step, tensorboard=tensorboard)

    # -- the loop ----------------------------------------------------------------------------
    def run(
        self,
        on_step: Callable[[int, dict[str, float]], None] = lambda step, row: None,
        time_limit: float = math.inf,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        """Align until all steps are done, the divergence stops it, or the time is over.

        Args:
            on_step: told the step and its row of the log.
            time_limit: s; after the step in which they pass the alignment saves and stops.
            stop: asked after every step; likewise.
        """
        began = time.monotonic()
        while self.step < self.params.steps and not self.ended:
            started = time.monotonic()
            row = self._one_step()
            self.step += 1
            self.seconds += time.monotonic() - started
            every = self.params.validate_every
            last = self.step == self.params.steps or bool(self.ended)
            if self.validation and every and (self.step % every == 0 or last):
                row |= self.validation(self._calibrated())
                self._export(self.folder / VALIDATED_FOLDER / f"step-{self.step:04d}.safetensors")
            elif self.validation:
                row |= dict.fromkeys(self._validation_names, math.nan)
            self._rows.write({"step": self.step, "seconds": round(self.seconds, 1), **row})
            log.info("alignment step %d %s", self.step, row)
            on_step(self.step, row)
            ending = last or stop() or time.monotonic() - began > time_limit
            if ending or self.step % self.params.save_every == 0:
                self.save()
            if ending:
                return

    @property
    def checkpoint(self) -> Path:
        """The model that comes out."""
        return self.folder / MODEL_FILE

    @property
    def _validation_names(self) -> tuple[str, ...]:
        return tuple(getattr(self.validation, "names", ()))

    def _calibrated(self) -> Model:
        """The policy with cells of the reference's size; shares its weights."""
        if not (self.params.keep_volume and isinstance(self.model, OpenPackFlow)):
            return self.model
        if self._volumes is None:
            self._volumes = VolumeReference(self.reference, self.chemistry, self.params)
        if self._calibration[0] != self.step:
            self._calibration = self.step, self._volumes.scale(self.model)
        out = copy.copy(self.model)
        unit = self.model.config.volume_scale * self._calibration[1]
        out.config = replace(self.model.config, volume_scale=unit)
        return out

    def _one_step(self) -> dict[str, float]:
        """Rollouts, rewards and updates of one batch; a row of the log."""
        params = self.params
        groups = draw_groups(self.chemistry, params, self.step)
        rows, scores = self._roll_out(groups)
        replayed = self._add_replayed(groups, rows, scores)
        judged = [
            self._advantages(g, r, s, old)
            for g, r, s, old in zip(groups, rows, scores, replayed, strict=True)
        ]
        advantages = [found * factors for found, factors in judged]
        write_candidates(self.folder, self.step, groups, rows, scores, advantages, replayed)
        facts = _facts(scores, replayed)
        members = [
            Member(
                group, (number, place // self._family_size(rows[number])), row, score,
                float(advantages[number][place]), float(judged[number][1][place]), float(weight),
            )
            for number, group in enumerate(groups)
            for place, (row, score, weight) in enumerate(
                zip(rows[number], scores[number], self._kl_weights(scores[number]), strict=True)
            )
            if row["status"] == Status.OK  # a cell that does not close has no state to learn from
        ]  # fmt: skip
        if members:
            facts |= self._update(members)
        return facts

    # -- rollouts and rewards ----------------------------------------------------------------
    def _roll_out(self, groups: Sequence[Group]) -> tuple[list[list[Row]], list[list[Score]]]:
        rows: list[list[Row]] = []

        def sampled() -> Iterator[tuple[str, Sequence[Row]]]:
            for number, group in enumerate(groups):
                seed = int(
                    np.random.default_rng([self.params.seed, 3, self.step, number]).integers(2**62)
                )
                rows.append(sample_group(self.model, self.preset, group, self.params, seed))
                yield group.smiles, rows[-1]

        scores = self._scores(sampled())
        return rows, scores

    def _scores(self, groups: Iterable[tuple[str, Sequence[Row]]]) -> list[list[Score]]:
        """Scores of groups of crystals, (SMILES, rows) each."""
        p = self.params
        return score_groups(groups, p.engine, p.mode, p.hydrogen_steps, self.pool)

    def _add_replayed(
        self, groups: Sequence[Group], rows: list[list[Row]], scores: list[list[Score]]
    ) -> list[int]:
        """Let the best earlier candidates join their groups; how many joined each."""
        joined = []
        for group, group_rows, group_scores in zip(groups, rows, scores, strict=True):
            kind = _kind(group)
            earlier = self.replay.take(kind, self.params.replay)
            if self.params.replay:
                self.replay.put(kind, list(zip(group_rows, group_scores, strict=True)))
            group_rows += [row for row, _ in earlier]
            group_scores += [score for _, score in earlier]
            joined.append(len(earlier))
        return joined

    def _advantages(
        self, group: Group, rows: list[Row], scores: Sequence[Score], replayed: int
    ) -> tuple[FloatArray, FloatArray]:
        """[K] advantages, and what the diversity filter makes of each (1 without it)."""
        p = self.params
        found, factors = np.zeros(len(rows)), np.ones(len(rows))
        size = self._family_size(rows)
        for start in range(0, len(rows), size):
            family = slice(start, start + size)
            energies, forces = group_rewards(scores[family], p.penalise)
            found[family] = mixed_advantages(
                energies, forces, p.energy_share, p.advantage_clip, ranks=p.ranks
            )
        if p.diversity:
            new = len(rows) - replayed  # a replayed one did not come again
            faded = self.diversity.factors(_kind(group), rows[:new])
            factors[:new] = np.where(found[:new] > 0, faded, 1.0)
        return found, factors

    def _family_size(self, rows: Sequence[Row]) -> int:
        """Candidates that are compared with each other: a group, or those of a shared prefix."""
        return self.params.shared_prefix if self.params.shared_prefix > 1 else len(rows)

    def _kl_weights(self, scores: Sequence[Score]) -> FloatArray:
        """[K] weights of the divergence; with `weighted_kl` from twice beta down to 0 by reward."""
        weights = np.full(len(scores), self.params.kl_weight)
        if self.params.weighted_kl:
            energies, _ = group_rewards(scores, penalise=True)
            known = np.isfinite(energies)
            place = np.argsort(np.argsort(-energies[known]))  # 0 for the worst
            if known.sum() > 1:
                weights[known] *= 2.0 * (1.0 - place / (known.sum() - 1))
        return weights

    # -- updates -----------------------------------------------------------------------------
    def _update(self, members: Sequence[Member]) -> dict[str, float]:
        p = self.params
        crystals = [crystal_of(m.row) for m in members]
        rollouts = as_crystals(
            self.chemistry,
            [m.group.molecule for m in members],
            [m.group.z for m in members],
            [crystal.positions for crystal in crystals],
            [crystal.cell for crystal in crystals],
        )
        draws = [
            draw.to(self.device)
            for draw in frozen_draws(rollouts, self.plan, (p.seed, self.step), p.draws)
        ]
        advantages = [[m.advantage for m in members]] * p.draws
        if p.shaping:
            advantages = shaped(self.model, members, draws, p, self._scores)
        weighed = [
            WeighedDraw(
                draw,
                self._numbers([advantages[draw.number][k] for k in draw.members]),
                self._numbers([members[k].kl_weight for k in draw.members]),
            )
            for draw in draws
        ]
        rate = p.learning_rate * min(1.0, (self.step + 1) / max(1, p.warmup))
        facts = update(self.model, self.reference, self.optimizer, weighed, p, rate)
        if p.kl_stop and facts["divergence"] > p.kl_stop:
            self.ended = f"divergence {facts['divergence']:.3g} from the reference"
        return facts

    def _numbers(self, values: Sequence[float]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float32, device=self.device)

    # -- saving and resuming -----------------------------------------------------------------
    def save(self) -> None:
        """Write the state and the policy as a checkpoint.

        Raises:
            UserInputError: the folder cannot be written.
        """
        state = {
            "params": self.params.model_dump(mode="json"),
            "start": self.start,
            "molecules": self.chemistry.smiles,
            "step": self.step,
            "seconds": self.seconds,
            "ended": self.ended,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "replay": self.replay.content,
            "diversity": self.diversity.content,
        }
        write_state(self.folder, state)
        self._export(self.checkpoint)

    def _export(self, path: Path) -> None:
        """Write the policy as a checkpoint."""
        make_folder(path.parent)
        out = self._calibrated()
        meta = {
            "packflow_csp": __version__,
            "torch": str(torch.__version__),
            "aligned_from": {**self.start, **self._base_meta},
            "steps": self.step,
            "seconds": round(self.seconds, 1),
            "device": self.device.type,
            "molecules": len(self.chemistry.smiles),
            "params": self.params.model_dump(mode="json"),
            "architecture": asdict(out.config),
        }
        if "licence" in self._base_meta:  # what was learned from the data is still in there
            meta["licence"] = self._base_meta["licence"]
        export_checkpoint(path, out, out.state_dict(), meta)

    def _resume(self) -> None:
        state = read_state(self.folder, self.device)
        if state is None:
            return
        saved = state["params"]
        if wrong := self.params.differing(saved):
            raise UserInputError(
                f"{self.folder} holds an alignment with other settings "
                f"({', '.join(f'{k}={saved.get(k)}' for k in wrong)}); choose another folder."
            )
        if state.get("start") != self.start or state.get("molecules") != self.chemistry.smiles:
            raise UserInputError(
                f"{self.folder} holds an alignment of another generator or on other molecules; "
                "choose another folder."
            )
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds = int(state["step"]), float(state["seconds"])
        self.ended = str(state.get("ended", ""))
        self.replay = ReplayBuffer(state["replay"])
        self.diversity = DiversityFilter(state["diversity"])
        log.info("alignment continues at step %d", self.step)


def _kind(group: Group) -> str:
    return f"{group.smiles} {group.z}"


def _facts(scores: Sequence[Sequence[Score]], replayed: Sequence[int]) -> dict[str, float]:
    """What the log tells of the new candidates of a step."""
    new = [
        score
        for group, old in zip(scores, replayed, strict=True)
        for score in group[: len(group) - old]
    ]
    sound = [s for s in new if s.status == Status.OK]
    return {
        "sound": len(sound) / len(new),
        "failed": sum(s.status == Status.FAILED for s in new) / len(new),
        "severity": float(np.mean([s.severity for s in new])),
        "force": float(np.mean([s.force for s in sound])) if sound else math.nan,
    }
