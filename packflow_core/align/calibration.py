"""The size of cells before and after an alignment.

Fewer clashes are most easily had in larger cells, and a policy drifts there: several per cent in
volume within ten steps, which neither the divergence nor the standardised rewards see. What it
learned of arrangements holds at the old density, too, so the cells of an aligned model are made
relative to a smaller volume (`OpenConfig.volume_scale`), by as much as it swelled.
"""

from __future__ import annotations

import math

import numpy as np

from packflow_core.align.params import AlignParams
from packflow_core.align.rollouts import sample_group, spread_groups
from packflow_core.model.checkpoint import Model
from packflow_core.store.schema import Status
from packflow_core.training.data import TrainingSet

#: Seed of the noise, the same for reference and policy.
_SEED = 1_000_033


class VolumeReference:
    """How large the reference draws the cells of fixed molecules.

    Args:
        reference: an open model.
        chemistry: the molecules.
        params: gives Z and the size of a group.
        molecules: an evenly spaced subset of so many.
    """

    def __init__(
        self, reference: Model, chemistry: TrainingSet, params: AlignParams, molecules: int = 8
    ) -> None:
        self._params = params
        self._groups = spread_groups(chemistry, params, molecules)
        self._wanted = self._log_volumes(reference)

    def scale(self, policy: Model) -> float:
        """Factor of the volume that makes the policy's cells as large as the reference's.

        Args:
            policy: with the `volume_scale` of the reference.

        Returns:
            The factor; 1 where no cell of either closes.
        """
        apart = self._wanted - self._log_volumes(policy)
        known = apart[np.isfinite(apart)]
        return math.exp(float(known.mean())) if known.size else 1.0

    def _log_volumes(self, model: Model) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        """Mean logarithm of the volumes of each molecule's cells; NaN where none closes."""
        means = []
        for group in self._groups:
            rows = sample_group(model, "open", group, self._params, _SEED)
            logs = [math.log(row["volume_A3"]) for row in rows if row["status"] == Status.OK]
            means.append(float(np.mean(logs)) if logs else math.nan)
        return np.array(means)
