"""The ODE sampler: from noise to heavy atoms and a unit cell (PackFlow, section 2.2).

Noise comes from a counter-based generator keyed by (seed, molecule, Z, index), and candidates are
integrated in aligned blocks of fixed shape, so candidate 17 is the same to the last bit whatever
the chunk, the worker or an interruption. The shape follows from the atoms of the cell and the kind
of device (`block_size`); between devices the last bits differ, as their arithmetic does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from packflow_core.chem.conformers import ConformerError, conformer_pool
from packflow_core.chem.features import MolecularGraph, molecular_graph
from packflow_core.chem.molecule import Molecule
from packflow_core.chem.repair import fit_conformer
from packflow_core.chem.stereo import stereo_of
from packflow_core.crystal.lattice import constrain, is_valid_parameters, parameters_to_cell
from packflow_core.model.batch import GraphBatch, make_graph_batch
from packflow_core.model.cpu_trunk import inference_trunk
from packflow_core.model.official import OfficialContext, OfficialPackFlow
from packflow_core.model.open_model import (
    OpenContext,
    OpenPackFlow,
    decode_lattice,
)
from packflow_core.model.prior import (
    BOND_SPREAD,
    expected_volume,
    harmonic_factor,
    pair_with_noise,
    structured_noise,
)
from packflow_core.model.solvers import Field, Solver, integrate, network_calls
from packflow_core.model.symmetric import SymmetricBlock, draw_symmetry, symmetric_groups

FloatArray = NDArray[np.float64]

#: Enters the identity of a generator. A new number whenever the same weights, settings and device
#: give other samples, be it in the last bit: 2 since the faster attention of the shipped release.
SAMPLER_VERSION = "2"
#: Most candidates that are integrated together, by kind of device.
_BLOCK = {"cpu": 16, "cuda": 64}
#: Most pairs of atoms in them. On a CPU their features then stay near the cache, on a GPU they
#: take less than a gigabyte.
_BLOCK_PAIRS = {"cpu": 1 << 16, "cuda": 1 << 21}
#: Origins tried when a sample is paired with fresh noise.
_ORIGINS = 6
#: Way of a molecule's centre from sample to fresh noise, per axis, in units of the cube root of
#: the expected volume: that of the pairs in training.
_RESTART_SPREAD = 0.2


@dataclass(frozen=True)
class Sample:
    """One raw sample.

    Attributes:
        positions: [z n, 3] heavy atoms in Å, molecule by molecule, in the frame of
            `packflow_core.crystal.lattice.parameters_to_cell`.
        parameters: [6] a, b, c in Å and angles in degrees; not necessarily a valid cell.
        space_group: number of the group that the sample was held to; None where to none.
        expected_volume: volume of one molecule in Å^3, the median of the samples that were
            integrated together: what the model expects of the molecule's crystals, with less
            noise than any one sample has.
    """

    positions: FloatArray
    parameters: FloatArray
    space_group: int | None = None
    expected_volume: float | None = None


def candidate_rng(seed: int, smiles: str, z: int, index: int) -> np.random.Generator:
    """Random numbers of one candidate, independent of all others."""
    digest = hashlib.sha256(f"packflow|{seed}|{smiles}|{z}|{index}".encode()).digest()
    key = np.frombuffer(digest[:16], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key))


def block_size(atoms: int, device: str = "cpu") -> int:
    """Candidates that are integrated together: a power of two, part of what a result depends on.

    Args:
        atoms: heavy atoms of the cell.
        device: cpu or cuda; any other kind counts as a CPU.
    """
    kind = device if device in _BLOCK else "cpu"
    size = _BLOCK[kind]
    while size > 1 and size * atoms * atoms > _BLOCK_PAIRS[kind]:
        size //= 2
    return size


@dataclass(frozen=True)
class Schedule:
    """How samples are drawn.

    Attributes:
        steps, solver, power: see `packflow_core.model.solvers.integrate`.
        restarts: times from which a finished sample is drawn again, one after the other (open
            models only): its molecules are replaced by the conformers that fit them, noise is
            mixed in up to that time, and the ODE is integrated from there. A sample that has
            drifted off the data is led back, as in restart sampling (Xu et al., NeurIPS 2023).
            After the last one the molecules are replaced once more.
        restart_steps: ODE steps of each restart, evenly spaced.
        symmetric: hold each candidate to a space group, see `packflow_core.model.symmetric` (open
            models only). Where no group puts so many equivalent molecules into a primitive cell,
            nothing is held.
        shared: so many neighbouring candidates share their start, and part at the first restart.
    """

    steps: int = 50
    solver: Solver = "euler"
    power: float = 1.0
    restarts: tuple[float, ...] = ()
    restart_steps: int = 10
    symmetric: bool = False
    shared: int = 1

    @property
    def network_calls(self) -> int:
        """Calls of the network for one sample of an open model."""
        restarted = len(self.restarts) * network_calls(self.restart_steps, self.solver)
        return network_calls(self.steps, self.solver) + restarted


class Sampler:
    """Samples crystals of one molecule; what its candidates share is computed once per Z.

    Args:
        model: moved to the device; its weights must not change while the sampler is used.
        molecule: of the crystals.
        device: where the network runs.
        bf16: matrix products in bfloat16, for GPUs and for processors that have such products in
            hardware; elsewhere it is slower. Samples differ slightly from those in float32.
        volume_scale: factor of the volume that is expected of the molecule. Open models draw cells
            relative to that; the published ones take no notice.
    """

    def __init__(
        self,
        model: OfficialPackFlow | OpenPackFlow,
        molecule: Molecule,
        device: torch.device | str = "cpu",
        *,
        bf16: bool = False,
        volume_scale: float = 1.0,
    ) -> None:
        self.model = model.to(device).eval()
        self.molecule = molecule
        self.device = torch.device(device)
        self._graph = molecular_graph(molecule)
        self._factor = harmonic_factor(molecule.bonds, molecule.n_heavy)
        expected = expected_volume(molecule.numbers, int(molecule.hydrogen_counts.sum()))
        if isinstance(model, OpenPackFlow):
            volume_scale *= model.config.volume_scale
        self._volume = expected * volume_scale
        self._mirror_allowed = stereo_of(molecule).mirror_allowed
        self.bf16 = bf16
        trunk = model.trunk if isinstance(model, OpenPackFlow) else model.transformer
        self._trunk = trunk if bf16 else inference_trunk(trunk)
        self._contexts: dict[int, tuple[GraphBatch, OfficialContext | OpenContext]] = {}

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
        wanted = sorted(set(indices))
        size = block_size(z * self.molecule.n_heavy, self.device.type)
        done: dict[int, Sample] = {}
        for block in sorted({i // size for i in wanted}):
            members = range(block * size, (block + 1) * size)
            kept = [i - members.start for i in wanted if i in members]
            samples = self._sample_block(z, members, kept, seed, schedule or Schedule())
            done.update((members[k], sample) for k, sample in zip(kept, samples, strict=True))
        return [done[i] for i in indices]

    def _sample_block(
        self, z: int, indices: range, kept: Sequence[int], seed: int, schedule: Schedule
    ) -> list[Sample]:
        """Samples of the members `kept` of a block; the others only give the block its shape."""
        smiles, shared = self.molecule.smiles, schedule.shared
        starts = [candidate_rng(seed, smiles, z, i - i % shared) for i in indices]
        rngs = starts
        if shared > 1:
            rngs = [candidate_rng(seed, f"{smiles}|restart", z, i) for i in indices]
        if (
            schedule.symmetric
            and isinstance(self.model, OpenPackFlow)
            and symmetric_groups(z, self._mirror_allowed)
        ):
            return self._symmetric_block(z, starts, rngs, kept, schedule)
        field = self._field(z)
        noise = [self._noise(z, rng) for rng in starts]
        x, lattice = self._tensors([n[0] for n in noise], [n[1] for n in noise])
        x, lattice = integrate(field, x, lattice, schedule.steps, schedule.solver, schedule.power)
        if isinstance(self.model, OpenPackFlow):
            for t in schedule.restarts:
                x, lattice = self._mix_noise(x, lattice, z, t, rngs, kept)
                x, lattice = integrate(
                    field, x, lattice, schedule.restart_steps, schedule.solver, start=t
                )
        parameters = self._parameters(lattice, z)
        positions = x.double().cpu().numpy()[kept]
        if isinstance(self.model, OpenPackFlow) and schedule.restarts:
            # Even a slightly wrong molecule stores enough strain to blow its crystal up when it
            # is relaxed: end on a conformer, as every restart began on one.
            molecules = positions.reshape(len(positions), z, -1, 3)
            positions = np.stack([self._mended(m) for m in molecules]).reshape(positions.shape)
        volume = _median_volume(parameters, z)
        return [
            Sample(p, q, expected_volume=volume)
            for p, q in zip(positions, parameters[kept], strict=True)
        ]

    def _symmetric_block(
        self,
        z: int,
        starts: Sequence[np.random.Generator],
        rngs: Sequence[np.random.Generator],
        kept: Sequence[int],
        schedule: Schedule,
    ) -> list[Sample]:
        """Samples of a block held to space groups, see `packflow_core.model.symmetric`."""
        field, volume = self._field(z), self._volume * z
        symmetries = [draw_symmetry(z, self._mirror_allowed, rng) for rng in starts]
        centres = np.stack([rng.random(3) for rng in starts])
        block = SymmetricBlock(symmetries, centres, volume, self.device)
        shapes = [self._shape(rng) for rng in starts]
        x, lattice = self._tensors(shapes, [rng.standard_normal(6) for rng in starts])
        x, lattice = block.place(x, lattice)
        x, lattice = integrate(
            field, x, lattice, schedule.steps, schedule.solver, schedule.power,
            project=block.project,
        )  # fmt: skip
        spread = _RESTART_SPREAD * np.cbrt(volume)
        for t in schedule.restarts:
            clean = self._mended_first(block, x, lattice, kept)
            noise = [self._shape(rng) + spread * rng.standard_normal(3) for rng in rngs]
            eps, eps_l = self._tensors(noise, [rng.standard_normal(6) for rng in rngs])
            eps = eps + clean.mean(1, keepdim=True)
            lattice = block.constrain((1 - t) * lattice + t * eps_l)
            x = block.expand((1 - t) * clean + t * eps, lattice)
            x, lattice = integrate(
                field, x, lattice, schedule.restart_steps, schedule.solver, start=t,
                project=block.project,
            )  # fmt: skip
        if schedule.restarts:
            x = block.expand(self._mended_first(block, x, lattice, kept), lattice)
        parameters, positions = self._parameters(lattice, z), x.double().cpu().numpy()
        expected = _median_volume(parameters, z)
        return [Sample(positions[k], parameters[k], symmetries[k].number, expected) for k in kept]

    def _mended_first(
        self, block: SymmetricBlock, x: Tensor, lattice: Tensor, kept: Collection[int]
    ) -> Tensor:
        """First molecules [B, n, 3] of states, those that are kept replaced by conformers."""
        first = block.collapse(x, lattice)
        molecules = first.double().cpu().numpy()
        for k in kept:
            molecules[k] = self._mended(molecules[k][None])[0]
        return torch.tensor(molecules, dtype=first.dtype, device=first.device)

    def _shape(self, rng: np.random.Generator) -> FloatArray:
        """Noise of one molecule about its centre, [n, 3] in Å."""
        white = rng.standard_normal((self.molecule.n_heavy, 3))
        return np.asarray(BOND_SPREAD * self._factor @ white)

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
        self,
        x: Tensor,
        lattice: Tensor,
        z: int,
        t: float,
        rngs: Sequence[np.random.Generator],
        kept: Collection[int],
    ) -> tuple[Tensor, Tensor]:
        """States at time t on the way from samples with mended molecules to fresh noise.

        Noise and sample are paired as in training, see `packflow_core.model.prior`. Samples that
        are not `kept` stay as they are.
        """
        states = lattice.double().cpu().numpy()
        positions = x.double().cpu().numpy().reshape(len(rngs), z, -1, 3)
        mixed_x, mixed_l = [], []
        members = zip(positions, states, self._parameters(lattice, z), rngs, strict=True)
        for number, (crystal, state, parameters, rng) in enumerate(members):
            if number not in kept:
                mixed_x.append(crystal.reshape(-1, 3))
                mixed_l.append(state)
                continue
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

    def _field(self, z: int) -> Field:
        """Velocity field of crystals with z molecules each."""
        graph, context = self._context(z)
        model = self.model
        volume = torch.full((1, 1), self._volume * z, device=self.device)

        def field(x: Tensor, lattice: Tensor, t: float) -> tuple[Tensor, Tensor]:
            time = x.new_full((1, 1), t)
            with self._autocast():
                if isinstance(model, OpenPackFlow):
                    assert isinstance(context, OpenContext)
                    v_x, v_l = model(x, lattice, time, time, graph, volume, context)
                else:
                    v_x, v_l = model(x, lattice, time, time, graph, context)
            return v_x.to(x.dtype), v_l.to(x.dtype)

        return field

    def _autocast(self) -> AbstractContextManager[object]:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    def _context(self, z: int) -> tuple[GraphBatch, OfficialContext | OpenContext]:
        if z not in self._contexts:
            graph = tile_graph(self._graph, z).to(self.device)
            with self._autocast():
                self._contexts[z] = (graph, self.model.context(graph, self._trunk))
        return self._contexts[z]


def tile_graph(graph: MolecularGraph, z: int) -> GraphBatch:
    """Batch of one: the graph of a cell with z copies of a molecule."""
    return make_graph_batch([graph.tiled(z)])


def _median_volume(parameters: FloatArray, z: int) -> float | None:
    """Å^3 of one molecule, median over cells of parameters [B, 6]; None where none is valid."""
    cells = [parameters_to_cell(p) for p in parameters if is_valid_parameters(p)]
    return float(np.median(np.linalg.det(np.stack(cells)))) / z if cells else None
