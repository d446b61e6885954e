"""The ODE sampler: from noise to heavy atoms and a unit cell (PackFlow, section 2.2).

Noise comes from a counter-based generator keyed by (seed, molecule, Z, index), and candidates are
integrated in aligned blocks of fixed shape, so candidate 17 is the same to the last bit whatever
the chunk, the worker or an interruption.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from packflow_core.chem.conformers import ConformerError, conformer_pool
from packflow_core.chem.features import MolecularGraph, molecular_graph
from packflow_core.chem.molecule import Molecule
from packflow_core.chem.repair import fit_conformer
from packflow_core.crystal.lattice import constrain, is_valid_parameters, parameters_to_cell
from packflow_core.model.batch import GraphBatch, make_graph_batch
from packflow_core.model.official import OfficialPackFlow
from packflow_core.model.open_model import OpenPackFlow, decode_lattice
from packflow_core.model.prior import (
    expected_volume,
    harmonic_factor,
    pair_with_noise,
    structured_noise,
)

FloatArray = NDArray[np.float64]
Solver = Literal["euler", "heun"]
#: Field of a solver: (x [B, N, 3], lattice [B, 6], t) -> their velocities.
Field = Callable[[Tensor, Tensor, float], tuple[Tensor, Tensor]]

#: Candidates integrated together; part of what makes a result reproducible.
BLOCK = 16
#: Origins tried when a sample is paired with fresh noise.
_ORIGINS = 6


@dataclass(frozen=True)
class Sample:
    """One raw sample.

    Attributes:
        positions: [z n, 3] heavy atoms in Å, molecule by molecule, in the frame of
            `packflow_core.crystal.lattice.parameters_to_cell`.
        parameters: [6] a, b, c in Å and angles in degrees; not necessarily a valid cell.
    """

    positions: FloatArray
    parameters: FloatArray


def candidate_rng(seed: int, smiles: str, z: int, index: int) -> np.random.Generator:
    """Random numbers of one candidate, independent of all others."""
    digest = hashlib.sha256(f"packflow|{seed}|{smiles}|{z}|{index}".encode()).digest()
    key = np.frombuffer(digest[:16], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key))


def integrate(
    field: Field,
    x: Tensor,
    lattice: Tensor,
    steps: int,
    solver: Solver = "euler",
    power: float = 1.0,
    start: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Integrate the flow from t = start to t = 0 in both channels at once.

    Args:
        field: velocities at (x, lattice, t).
        x: [B, N, 3] Å and lattice: [B, 6], noise.
        steps: number of steps; a Heun step calls the field twice, but for the last one.
        solver: euler (the published sampler) or heun (second order).
        power: the grid is t = start (1 - i / steps)^power; above 1 the steps shrink towards the
            data.
        start: time of the given state.
    """
    grid = [start * (1.0 - i / steps) ** power for i in range(steps + 1)]
    for t, t_next in itertools.pairwise(grid):
        h = t - t_next
        v_x, v_l = field(x, lattice, t)
        if solver == "heun" and t_next > 0:
            w_x, w_l = field(x - h * v_x, lattice - h * v_l, t_next)
            v_x, v_l = 0.5 * (v_x + w_x), 0.5 * (v_l + w_l)
        x, lattice = x - h * v_x, lattice - h * v_l
    return x, lattice


@dataclass(frozen=True)
class Schedule:
    """How samples are drawn.

    Attributes:
        steps, solver, power: see `integrate`.
        restarts: times from which a finished sample is drawn again, one after the other (open
            models only): its molecules are replaced by the conformers that fit them, noise is
            mixed in up to that time, and the ODE is integrated from there. A sample that has
            drifted off the data is led back, as in restart sampling (Xu et al., NeurIPS 2023).
            After the last one the molecules are replaced once more.
        restart_steps: ODE steps of each restart.
    """

    steps: int = 50
    solver: Solver = "euler"
    power: float = 1.0
    restarts: tuple[float, ...] = ()
    restart_steps: int = 10


class Sampler:
    """Samples crystals of one molecule; what its candidates share is computed once per Z."""

    def __init__(
        self,
        model: OfficialPackFlow | OpenPackFlow,
        molecule: Molecule,
        device: torch.device | str = "cpu",
    ) -> None:
        self.model = model.to(device).eval()
        self.molecule = molecule
        self.device = torch.device(device)
        self._graph = molecular_graph(molecule)
        self._factor = harmonic_factor(molecule.bonds, molecule.n_heavy)
        self._volume = expected_volume(molecule.numbers, int(molecule.hydrogen_counts.sum()))
        self._contexts: dict[int, tuple[GraphBatch, object]] = {}

    @torch.no_grad()
    def sample(
        self, z: int, indices: Sequence[int], seed: int, schedule: Schedule | None = None
    ) -> list[Sample]:
        """Samples with the given indices, in their order.

        Args:
            z: molecules per cell.
            indices: which candidates of the sequence of (seed, molecule, z).
            seed: campaign seed.
            schedule: steps and restarts.
        """
        wanted = list(indices)
        done: dict[int, Sample] = {}
        for block in sorted({i // BLOCK for i in wanted}):
            members = range(block * BLOCK, (block + 1) * BLOCK)
            samples = self._sample_block(z, members, seed, schedule or Schedule())
            done.update(zip(members, samples, strict=True))
        return [done[i] for i in wanted]

    def _sample_block(self, z: int, indices: range, seed: int, schedule: Schedule) -> list[Sample]:
        rngs = [candidate_rng(seed, self.molecule.smiles, z, i) for i in indices]
        field = self._field(z, len(rngs))
        noise = [self._noise(z, rng) for rng in rngs]
        x, lattice = self._tensors([n[0] for n in noise], [n[1] for n in noise])
        x, lattice = integrate(field, x, lattice, schedule.steps, schedule.solver, schedule.power)
        if isinstance(self.model, OpenPackFlow):
            for t in schedule.restarts:
                x, lattice = self._mix_noise(x, lattice, z, t, rngs)
                x, lattice = integrate(
                    field, x, lattice, schedule.restart_steps, schedule.solver, start=t
                )
        parameters = self._parameters(lattice, z)
        positions = x.double().cpu().numpy()
        if isinstance(self.model, OpenPackFlow) and schedule.restarts:
            # Even a slightly wrong molecule stores enough strain to blow its crystal up when it
            # is relaxed: end on a conformer, as every restart began on one.
            molecules = positions.reshape(len(positions), z, -1, 3)
            positions = np.stack([self._mended(m) for m in molecules]).reshape(positions.shape)
        return [Sample(p, q) for p, q in zip(positions, parameters, strict=True)]

    def _parameters(self, lattice: Tensor, z: int) -> FloatArray:
        """Lattice parameters [B, 6] in Å and degrees of lattice states."""
        state = lattice.double().cpu().numpy()
        if isinstance(self.model, OpenPackFlow):
            return decode_lattice(state, self._volume * z)
        return constrain(state)

    def _tensors(
        self, x: Sequence[FloatArray], lattice: Sequence[FloatArray]
    ) -> tuple[Tensor, Tensor]:
        return (
            torch.tensor(np.stack(x), dtype=torch.float32, device=self.device),
            torch.tensor(np.stack(lattice), dtype=torch.float32, device=self.device),
        )

    def _mix_noise(
        self, x: Tensor, lattice: Tensor, z: int, t: float, rngs: Sequence[np.random.Generator]
    ) -> tuple[Tensor, Tensor]:
        """States at time t on the way from samples with mended molecules to fresh noise.

        Noise and sample are paired as in training, see `packflow_core.model.prior`.
        """
        states = lattice.double().cpu().numpy()
        positions = x.double().cpu().numpy().reshape(len(rngs), z, -1, 3)
        mixed_x, mixed_l = [], []
        for crystal, state, parameters, rng in zip(
            positions, states, self._parameters(lattice, z), rngs, strict=True
        ):
            noise, noise_l = self._noise(z, rng)
            origins = rng.random((_ORIGINS, 3))
            clean = self._mended(crystal)
            if is_valid_parameters(parameters):
                eps = noise.reshape(clean.shape)
                order, shift = pair_with_noise(
                    clean.mean(1), parameters_to_cell(parameters), eps.mean(1), origins
                )
                clean = clean[order] + shift[:, None]
            clean = clean - clean.mean((0, 1))
            mixed_x.append((1 - t) * clean.reshape(-1, 3) + t * noise)
            mixed_l.append((1 - t) * state + t * noise_l)
        return self._tensors(mixed_x, mixed_l)

    def _mended(self, molecules: FloatArray) -> FloatArray:
        """Molecules [z, n, 3] Å, each replaced by the conformer that fits it best."""
        if not np.isfinite(molecules).all():
            return molecules
        try:
            pool = conformer_pool(self.molecule)
        except ConformerError:  # what cannot be embedded is left as it was drawn
            return molecules
        n = self.molecule.n_heavy
        return np.stack([fit_conformer(m, pool).positions[:n] for m in molecules])

    def _noise(self, z: int, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
        """Start of one candidate: coordinates [z n, 3] in Å and lattice state [6]."""
        lattice = rng.standard_normal(6)
        n = self.molecule.n_heavy
        white = rng.standard_normal((z, n, 3))
        if isinstance(self.model, OpenPackFlow):
            centroids = rng.standard_normal((z, 3))
            white = structured_noise(white, centroids, self._factor, self._volume * z)
        return white.reshape(-1, 3), lattice

    def _field(self, z: int, batch: int) -> Field:
        """Velocity field of `batch` crystals with z molecules each."""
        graph, context = self._context(z)
        model = self.model
        if isinstance(model, OpenPackFlow):
            volume = torch.full((batch, 1), self._volume * z, device=self.device)

            def open_field(x: Tensor, lattice: Tensor, t: float) -> tuple[Tensor, Tensor]:
                times = x.new_full((len(x), 1), t)
                return model(x, lattice, times, times, graph, volume, context)

            return open_field

        def official_field(x: Tensor, lattice: Tensor, t: float) -> tuple[Tensor, Tensor]:
            times = x.new_full((len(x), 1), t)
            return model(x, lattice, times, times, graph, context)

        return official_field

    def _context(self, z: int) -> tuple[GraphBatch, object]:
        if z not in self._contexts:
            graph = tile_graph(self._graph, z).to(self.device)
            self._contexts[z] = (graph, self.model.context(graph))
        return self._contexts[z]


def tile_graph(graph: MolecularGraph, z: int) -> GraphBatch:
    """Batch of one: the graph of a cell with z copies of a molecule."""
    return make_graph_batch([graph.tiled(z)])
