"""What an alignment gains in its own currency, on molecules that it does not learn on.

Rewards of rollouts say nothing about progress: every step has other molecules, and energies of
different molecules are no numbers to compare. The same molecules from the same noise are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from packflow_core.align.params import AlignParams
from packflow_core.align.rollouts import sample_group, spread_groups
from packflow_core.align.scoring import score_groups
from packflow_core.align.validation import VALIDATION_SEED
from packflow_core.engines.base import EV_TO_KJ_MOL
from packflow_core.model.checkpoint import Model
from packflow_core.training.data import TrainingSet

if TYPE_CHECKING:
    from packflow_core.align.rewards import Score
    from packflow_core.workers import WorkerPool

FloatArray = NDArray[np.float64]


class RewardGain:
    """Scores of fixed molecules, as the alignment scores them, against those of the reference.

    Args:
        chemistry: the molecules.
        preset: open or official.
        params: engine, mode, Z and the size of a group.
        reference: the model that the alignment began with.
        pool: workers for the scores.
        molecules: an evenly spaced subset of so many.

    Attributes:
        names: columns of the log.
        groups: molecules and Z of the rows of `per_molecule`.
    """

    names: tuple[str, ...] = ("val_sound", "val_energy", "val_lowest", "val_force")

    def __init__(
        self, chemistry: TrainingSet, preset: str, params: AlignParams, reference: Model,
        pool: WorkerPool, molecules: int = 8,
    ) -> None:  # fmt: skip
        self._preset, self._params, self._pool = preset, params, pool
        self.groups = spread_groups(chemistry, params, molecules)
        self._reference = reference
        self._before: list[Sequence[Score]] | None = None

    def __call__(self, model: Model) -> dict[str, float]:
        """Means over molecules, each only over those where it is known.

        Args:
            model: the policy.

        Returns:
            The columns `names` of `per_molecule`.
        """
        values = self.per_molecule(model)
        known = np.isfinite(values)
        sums = np.where(known, values, 0.0).sum(0)
        means = np.where(known.any(0), sums / np.maximum(known.sum(0), 1), np.nan)
        return {name: float(value) for name, value in zip(self.names, means, strict=True)}

    def per_molecule(self, model: Model) -> FloatArray:
        """What the policy gains with every molecule.

        Args:
            model: the policy.

        Returns:
            [M, 4]: fraction of the policy's candidates with an energy; median and lowest energy
            less those of the reference, kJ/mol per molecule; median force less that of the
            reference, eV/Å. NaN for a molecule without scores of both.
        """
        if self._before is None:
            self._before = self._scores(self._reference)
        return np.array(
            [
                _compared(was, now)
                for was, now in zip(self._before, self._scores(model), strict=True)
            ]
        )

    def _scores(self, model: Model) -> list[Sequence[Score]]:
        p = self._params
        made = (
            (group.smiles, sample_group(model, self._preset, group, p, VALIDATION_SEED))
            for group in self.groups
        )
        return list(score_groups(made, p.engine, p.mode, p.hydrogen_steps, self._pool))


def _compared(before: Sequence[Score], after: Sequence[Score]) -> list[float]:
    """The numbers of one molecule, see `RewardGain.per_molecule`."""
    sound = float(np.mean([s.energy is not None for s in after]))
    was, now = (
        np.array([(s.energy, s.force) for s in scores if s.energy is not None], dtype=np.float64)
        for scores in (before, after)
    )
    if not (was.size and now.size):
        return [sound, np.nan, np.nan, np.nan]
    energy, force = np.median(now, axis=0) - np.median(was, axis=0)
    lowest = now[:, 0].min() - was[:, 0].min()
    return [sound, EV_TO_KJ_MOL * energy, EV_TO_KJ_MOL * lowest, force]
