"""Batches for training: drawn by weight, bucketed by size, paired with noise; all by counter.

Batch number s of a rank is a function of (seed, s, rank) alone, so a resumed training sees what
an unbroken one would have seen. Rank 0 sees the same however many ranks there are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from packflow_core.chem.features import MolecularGraph
from packflow_core.crystal.lattice import cell_to_parameters, unconstrain
from packflow_core.crystal.unwrap import place_whole_molecules
from packflow_core.model.batch import GraphBatch, make_graph_batch
from packflow_core.model.open_model import encode_lattice
from packflow_core.model.prior import pair_with_noise, structured_noise
from packflow_core.training.data import TrainingSet


@dataclass(frozen=True)
class TrainingBatch:
    """One batch, padded.

    Attributes:
        graph: the B graphs. x0, noise_x: [B, N, 3] Å. lattice0, noise_l: [B, 6].
        volume: [B, 1] expected cell volume in Å^3. uniform: [B, 3] for the times.
    """

    graph: GraphBatch
    x0: Tensor
    lattice0: Tensor
    noise_x: Tensor
    noise_l: Tensor
    volume: Tensor
    uniform: Tensor

    def to(self, device: torch.device | str) -> TrainingBatch:
        """The same batch on another device."""
        return TrainingBatch(**{k: v.to(device) for k, v in vars(self).items()})


@dataclass(frozen=True)
class BatchPlan:
    """How batches are made.

    Attributes:
        atoms: heavy atoms in a batch, about; crystals of like size go together.
        n_origins: origins tried when a crystal is paired with noise; 0 switches pairing off.
        structured: correlated noise, see `packflow_core.model.prior`; else white noise.
        invert: invert half of the crystals through the origin.
        wrap: take the image of every molecule whose central atom lies in the cell (appendix B).
        relative_lengths: lattice states of the open model; otherwise the published ones.
    """

    atoms: int = 1200
    n_origins: int = 6
    structured: bool = True
    invert: bool = True
    wrap: bool = False
    relative_lengths: bool = True


class BatchMaker:
    """Makes batch number s of a training set; deterministic in (seed, s, rank).

    Args:
        data: crystals.
        plan: how batches are made.
        seed: of the training.
        rank: which of several processes this is; each has a stream of its own.
    """

    def __init__(self, data: TrainingSet, plan: BatchPlan, seed: int, rank: int = 0) -> None:
        self.data, self.plan, self.seed, self.rank = data, plan, seed, rank
        self._sizes = data.sizes()
        self._cdf = np.cumsum(data.weights())
        self._tiled: dict[tuple[int, int], MolecularGraph] = {}

    def __call__(self, step: int) -> TrainingBatch:
        """Batch number `step`."""
        # The last word of the counter is out of reach of any batch: ranks cannot overlap.
        philox = np.random.Philox(key=[self.seed, step], counter=[0, 0, 0, self.rank])
        rng = np.random.Generator(philox)
        # Draw a pool, sort by size, take a random window: sizes match, and every crystal is
        # drawn in proportion to its weight.
        pool = np.searchsorted(self._cdf, rng.random(256) * self._cdf[-1])
        pool = np.minimum(pool, len(self.data) - 1)
        pool = pool[np.argsort(self._sizes[pool], kind="stable")]
        windows = np.cumsum(self._sizes[pool]) // self.plan.atoms
        chosen = pool[windows == rng.integers(windows[-1] + 1)]
        return self.make(chosen, rng)

    def make(self, indices: NDArray[np.int64], rng: np.random.Generator) -> TrainingBatch:
        """Batch of the crystals `indices` with noise from `rng`."""
        data, b = self.data, len(indices)
        size = int(self._sizes[indices].max())
        x0, noise = np.zeros((b, size, 3)), np.zeros((b, size, 3))
        volume = data.molecule_volumes[data.molecule[indices]] * data.z[indices]
        graphs = []
        for k, index in enumerate(indices):
            molecule, z = int(data.molecule[index]), int(data.z[index])
            graphs.append(self._graph(molecule, z))
            x, eps = self._pair(int(index), molecule, z, float(volume[k]), rng)
            x0[k, : x.shape[0]], noise[k, : x.shape[0]] = x, eps
        parameters = cell_to_parameters(data.cells[indices].astype(np.float64))
        relative = self.plan.relative_lengths
        lattice0 = encode_lattice(parameters, volume) if relative else unconstrain(parameters)
        return TrainingBatch(
            graph=make_graph_batch(graphs),
            x0=_tensor(x0),
            lattice0=_tensor(lattice0),
            noise_x=_tensor(noise),
            noise_l=_tensor(rng.standard_normal((b, 6))),
            volume=_tensor(volume[:, None]),
            uniform=_tensor(rng.random((b, 3))),
        )

    def _graph(self, molecule: int, z: int) -> MolecularGraph:
        key = (molecule, z)
        if key not in self._tiled:
            self._tiled[key] = self.data.graphs[molecule].tiled(z)
        return self._tiled[key]

    def _pair(
        self, index: int, molecule: int, z: int, volume: float, rng: np.random.Generator
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Data and noise [z n, 3] of one crystal, both centred, in matching order."""
        plan = self.plan
        x = self.data.crystal(index)
        cell = self.data.cells[index].astype(np.float64)
        if plan.invert and rng.random() < 0.5:
            x = -x
        n = x.shape[1]
        white = rng.standard_normal((z, n, 3))
        if plan.structured:
            eps = structured_noise(
                white, rng.standard_normal((z, 3)), self.data.factors[molecule], volume
            )
        else:
            eps = white
        if plan.n_origins:
            order, shift = pair_with_noise(
                x.mean(1), cell, eps.mean(1), rng.random((plan.n_origins, 3))
            )
            x = x[order] + shift[:, None]
        else:
            x = x[rng.permutation(z)]
        if plan.wrap:
            x = wrapped(x, cell)
        x = x - x.mean((0, 1))
        return x.reshape(-1, 3), eps.reshape(-1, 3)


def wrapped(x: NDArray[np.float64], cell: NDArray[np.float64]) -> NDArray[np.float64]:
    """Molecules moved by lattice vectors into their canonical images (PackFlow, appendix B).

    Args:
        x: [z, n, 3] Å, molecules whole.
        cell: [3, 3] Å.
    """
    placed = place_whole_molecules((x @ np.linalg.inv(cell)).reshape(-1, 3), len(x))
    return (placed @ cell).reshape(x.shape)


def _tensor(a: NDArray[np.float64]) -> Tensor:
    return torch.from_numpy(np.asarray(a, dtype=np.float32))
