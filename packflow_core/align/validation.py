"""How an alignment changes raw samples of molecules that it does not learn on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from packflow_core.align.params import AlignParams
from packflow_core.align.rollouts import sample_group, spread_groups
from packflow_core.crystal.contacts import bond_errors, bond_statistics, clashing_atoms
from packflow_core.model.checkpoint import Model
from packflow_core.store.rows import crystal_of
from packflow_core.store.schema import Status
from packflow_core.training.data import TrainingSet

#: Seed of the noise, the same at every step, so that numbers of different steps can be compared.
VALIDATION_SEED = 1_000_003


class Columns(Protocol):
    """A validation: numbers of a policy under names that it has."""

    names: tuple[str, ...]

    def __call__(self, model: Model) -> dict[str, float]:
        """The numbers of a policy, by name."""


class Validations:
    """Several validations as one.

    Args:
        parts: in the order of their columns.

    Attributes:
        names: columns of the log.
    """

    def __init__(self, *parts: Columns) -> None:
        self._parts = parts
        self.names = tuple(name for part in parts for name in part.names)

    def __call__(self, model: Model) -> dict[str, float]:
        """The columns of all parts."""
        return {name: value for part in self._parts for name, value in part(model).items()}


class RawQuality:
    """Clashes and bonds of raw samples of fixed molecules from fixed noise.

    Args:
        chemistry: the molecules.
        preset: open or official.
        params: gives Z and the size of a group.
        molecules: an evenly spaced subset of so many.

    Attributes:
        names: columns of the log.
    """

    names: tuple[str, ...] = ("val_cells", "val_clash", "val_bonds", "val_volume")

    def __init__(
        self, chemistry: TrainingSet, preset: str, params: AlignParams, molecules: int = 8
    ) -> None:
        self.chemistry, self.preset, self.params = chemistry, preset, params
        self.groups = spread_groups(chemistry, params, molecules)

    def __call__(self, model: Model) -> dict[str, float]:
        """Means over molecules: cells that close, atoms that clash, bonds within 0.4 Å, volume.

        The volume is that of a molecule over what its atoms usually take.
        """
        per_molecule = []
        for group in self.groups:
            usual = float(self.chemistry.molecule_volumes[group.molecule])
            bonds = self.chemistry.graphs[group.molecule].bonds
            rows = sample_group(model, self.preset, group, self.params, VALIDATION_SEED)
            crystals = [crystal_of(row) for row in rows if row["status"] == Status.OK]
            per_molecule.append(
                (
                    len(crystals) / len(rows),
                    _mean([float(clashing_atoms(c).mean()) for c in crystals]),
                    _mean([bond_statistics(bond_errors(c, bonds))[0] for c in crystals]),
                    _mean([c.volume / c.z for c in crystals]) / usual,
                )
            )
        means = np.nanmean(np.array(per_molecule), axis=0)
        return {name: float(value) for name, value in zip(self.names, means, strict=True)}


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else float("nan")
