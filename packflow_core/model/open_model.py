"""`preset="open"`: our network. The same idea as the published one, with better-posed inputs.

What differs from `official` and why:
- categorical features are embedded instead of fed as numbers; bond features sit on their bonds;
- every layer has a bias of its own, from the relation of two atoms (bond type, 1-3, 1-4, ...) and
  from their distance in the current state, periodic between molecules, whole inside a molecule;
- coordinates enter also as periodic functions of the fractional coordinates;
- lengths are logarithms relative to the cell volume expected from the atoms: always positive;
- times are scaled, and coordinates are in units in which their spread is about one;
- the velocity has a part along the vectors to other atoms, which sharpens bonds and contacts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from packflow_core.chem.features import ATOM_FEATURE_SIZES
from packflow_core.crystal.lattice import constrain, unconstrain
from packflow_core.model.attention import Trunk, TrunkFunction, mlp, time_embedding
from packflow_core.model.batch import N_PAIR_CODES, GraphBatch

FloatArray = NDArray[np.float64]

#: Unit of the coordinates inside the network, in Å.
LENGTH_UNIT = 3.0
#: One unit of the lattice state is this much in the logarithm of a length.
LOG_LENGTH_UNIT = 0.35
_TIME_SCALE = 1000.0
#: Radial functions: fine ones where bonds are, coarse ones up to the cutoff (Å).
_N_FINE, _N_COARSE, _RADIAL_CUTOFF = 12, 8, 9.0
_N_PAIR_FEATURES = N_PAIR_CODES + _N_FINE + 2 * _N_COARSE
#: Bias that silences a padded atom; finite, so that padded rows stay finite too.
_MASKED = -1e4
#: Distance in Å at which every radial function is zero, in half precision too.
_FAR = 1e3


@dataclass(frozen=True)
class OpenConfig:
    """Shape of an open model, and the unit of its cells.

    Attributes:
        volume_scale: factor of the volume that atoms usually take (`expected_volume`), to which
            cells are relative; other than 1 where a model was calibrated after an alignment.
    """

    d_model: int = 256
    nhead: int = 8
    num_layers: int = 6
    dim_feedforward: int = 768
    time_embed_dim: int = 64
    pair_dim: int = 32
    volume_scale: float = 1.0


@dataclass(frozen=True)
class OpenContext:
    """What depends on the graph alone, shared by all candidates of a target.

    Attributes:
        tokens: [B, N, d], B being 1 for one target.
        pairs: [B, P, N N], what relation and atoms give to the hidden layer of the pairs.
        padded: [B, 1, 1, N] bool, padded keys; None where there are none.
        same_molecule: [B, 1, N, N] bool.
        trunk: runs the layers; the model's own when None.
    """

    tokens: Tensor
    pairs: Tensor
    padded: Tensor | None
    same_molecule: Tensor
    trunk: TrunkFunction | None = None


def decode_cell(lattice: Tensor, volume: Tensor) -> Tensor:
    """Cell matrices [B, 3, 3] in Å (c along z) of lattice states [B, 6], in torch.

    Args:
        lattice: log(length / cbrt(volume)) / LOG_LENGTH_UNIT, then logit((angle - 60) / 60).
        volume: [B, 1] expected cell volume in Å^3.

    The angles of a noisy state may close no cell; the determinant is then bounded from below, so
    that the matrix stays invertible. Final cells are checked elsewhere.
    """
    lengths = torch.exp(LOG_LENGTH_UNIT * lattice[:, :3].clamp(-6, 6)) * volume ** (1 / 3)
    angles = torch.deg2rad(60.0 + 60.0 * torch.sigmoid(lattice[:, 3:]))
    cos_a, cos_b, cos_g = angles.cos().unbind(-1)
    sin_a, sin_b = angles[:, 0].sin(), angles[:, 1].sin()
    cos_gs = ((cos_a * cos_b - cos_g) / (sin_a * sin_b)).clamp(-0.95, 0.95)
    sin_gs = (1 - cos_gs**2).sqrt()
    zero = torch.zeros_like(cos_a)
    a, b, c = lengths.unbind(-1)
    rows = [
        torch.stack([a * sin_b, zero, a * cos_b], -1),
        torch.stack([-b * sin_a * cos_gs, b * sin_a * sin_gs, b * cos_a], -1),
        torch.stack([zero, zero, c], -1),
    ]
    return torch.stack(rows, -2)


def encode_lattice(parameters: FloatArray, volume: FloatArray | float) -> FloatArray:
    """Lattice states [..., 6] of parameters [..., 6] (Å, degrees); see `decode_cell`.

    Args:
        parameters: a, b, c in Å and angles in degrees, angles strictly between 60 and 120.
        volume: [...] expected cell volume in Å^3.
    """
    state = unconstrain(parameters)
    scale = np.cbrt(np.asarray(volume, dtype=np.float64))[..., None]
    state[..., :3] = np.log(state[..., :3] / scale) / LOG_LENGTH_UNIT
    return state


def decode_lattice(state: FloatArray, volume: FloatArray | float) -> FloatArray:
    """Inverse of `encode_lattice`: parameters [..., 6] in Å and degrees; lengths are positive."""
    parameters = constrain(state)
    scale = np.cbrt(np.asarray(volume, dtype=np.float64))[..., None]
    parameters[..., :3] = np.exp(LOG_LENGTH_UNIT * parameters[..., :3]) * scale
    return parameters


class OpenPackFlow(nn.Module):
    """Vector field of the open models; see `forward`."""

    def __init__(self, config: OpenConfig) -> None:
        super().__init__()
        d, heads = config.d_model, config.nhead
        self.config = config
        # A bias for every layer and head, then logits and gates of the heads along vectors.
        self.n_pair_outputs = (config.num_layers + 2) * heads
        self.atom_embeddings = nn.ModuleList(nn.Embedding(s, d) for s in ATOM_FEATURE_SIZES)
        # Pairs: relation and distance, plus the two atoms -> hidden -> outputs. Plain matrices
        # instead of Linear layers, because pairs keep their channels in front (see `_pairs`).
        self.pair_in = nn.Parameter(torch.randn(config.pair_dim, _N_PAIR_FEATURES) * 0.3)
        self.pair_atoms = nn.Linear(d, 2 * config.pair_dim)
        self.pair_out = nn.Parameter(
            torch.randn(self.n_pair_outputs, config.pair_dim) * config.pair_dim**-0.5
        )
        self.coordinate_mlp = mlp(3 + 12, d, d)
        self.lattice_mlp = mlp(6 + 9, d, d)
        self.size_mlp = mlp(4, d, d)
        self.time_x_mlp = mlp(config.time_embed_dim, d, d)
        self.time_l_mlp = mlp(config.time_embed_dim, d, d)
        self.trunk = Trunk(d, heads, config.dim_feedforward, config.num_layers)
        self.coordinate_head = mlp(d, d, 3)
        self.lattice_head = mlp(d, d, 6)
        self.vector_qk = nn.Linear(d, 2 * d)
        self.vector_gate = nn.Linear(d, heads)
        self._initialise()

    def _initialise(self) -> None:
        for embedding in self.atom_embeddings.parameters():
            nn.init.normal_(embedding, std=0.3)
        # Velocities start at zero.
        for layer in (self.coordinate_head[-1], self.lattice_head[-1], self.vector_gate):
            for parameter in layer.parameters():
                nn.init.zeros_(parameter)

    def context(self, graph: GraphBatch, trunk: TrunkFunction | None = None) -> OpenContext:
        """What depends on the graph alone; compute it once per target.

        Args:
            graph: B graphs, or one graph for all crystals.
            trunk: runs the layers instead of the model's own.
        """
        tokens = sum(
            (e(graph.node_features[..., k]) for k, e in enumerate(self.atom_embeddings)),
            torch.zeros((), device=graph.mask.device),
        )
        b, n = graph.mask.shape
        relation = torch.nn.functional.one_hot(graph.pair_code, N_PAIR_CODES)
        relation = relation.permute(0, 3, 1, 2).reshape(b, -1, n * n).to(_half(tokens))
        first, second = self.pair_atoms(tokens).transpose(1, 2).chunk(2, dim=1)
        weight = self.pair_in[:, :N_PAIR_CODES].expand(b, -1, -1)
        atoms = (first[..., None] + second[:, :, None]).flatten(2)
        return OpenContext(
            tokens=tokens,
            pairs=torch.baddbmm(atoms, weight, relation),
            padded=~graph.mask[:, None, None, :] if graph.padded else None,
            same_molecule=graph.pair_code[:, None] > 0,
            trunk=trunk,
        )

    def forward(
        self,
        x: Tensor,
        lattice: Tensor,
        t_x: Tensor,
        t_l: Tensor,
        graph: GraphBatch,
        volume: Tensor,
        context: OpenContext | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Velocities of the flow.

        Args:
            x: [B, N, 3] coordinates in Å, padded, mean zero.
            lattice: [B, 6] lattice state, see `decode_cell`.
            t_x: [B, 1] time of the coordinates, 0 data, 1 noise; [1, 1] for all crystals.
            t_l: [B, 1] or [1, 1] time of the lattice.
            graph: B graphs, or one graph for all crystals.
            volume: [B, 1] expected cell volume in Å^3.
            context: result of `context(graph)`.

        Returns:
            Velocities [B, N, 3] in Å (mean zero, zero where padded) and [B, 6].
        """
        config = self.config
        context = context if context is not None else self.context(graph)
        cell = decode_cell(lattice, volume)
        with torch.autocast(x.device.type, enabled=False):  # half precision would lose 0.05 Å
            fractional = x @ torch.linalg.inv_ex(cell).inverse
            vectors, distance = _pair_vectors(x, fractional, cell, context.same_molecule[:, 0])
        pair = self._pairs(distance.to(_half(x)), context)  # but is plenty for a bias

        angle = 2 * torch.pi * fractional
        waves = [angle.sin(), angle.cos(), (2 * angle).sin(), (2 * angle).cos()]
        dim = config.time_embed_dim
        z = graph.z.to(x.dtype)[:, None].expand(len(graph.z), 1)
        atoms = graph.mask.sum(1, keepdim=True).to(x.dtype)
        size = torch.cat([z / 4, z.log2(), atoms / 40, (atoms / z) / 12], -1)
        shared = (
            self.lattice_mlp(torch.cat([lattice, cell.flatten(1) / 10.0], -1))
            + self.size_mlp(size)
            + self.time_x_mlp(time_embedding(t_x, dim, _TIME_SCALE))
            + self.time_l_mlp(time_embedding(t_l, dim, _TIME_SCALE))
        )
        own = self.coordinate_mlp(torch.cat([x / LENGTH_UNIT, *waves], -1))
        h = own + (context.tokens + shared[:, None])
        layers = range(config.num_layers)
        h = (context.trunk or self.trunk)(h, (pair(layer) for layer in layers))
        v = self.coordinate_head(h).to(x.dtype) * LENGTH_UNIT
        logits, gate = pair(config.num_layers), pair(config.num_layers + 1)
        v = v + self._along_vectors(h, vectors, logits, gate)
        if graph.padded:
            mask = graph.mask[..., None].to(v.dtype)
            count = mask.sum(1, keepdim=True)
            v = v * mask
            v = (v - v.sum(1, keepdim=True) / count) * mask
            pooled = (h.to(x.dtype) * mask).sum(1) / count[:, 0]
        else:
            v = v - v.mean(1, keepdim=True)
            pooled = h.to(x.dtype).mean(1)
        return v, self.lattice_head(pooled.to(h.dtype)).to(x.dtype)

    def _pairs(self, distance: Tensor, context: OpenContext) -> Callable[[int], Tensor]:
        """Outputs of the pairs, [B, H, N, N] each: number k is the attention bias of layer k.

        The last two are the logits and gates of the vectors. Each is made when it is asked for,
        so one at a time is in memory. Channels stay in front of the two atom axes from here to
        the attention, so nothing is transposed; bmm, not matmul, which would fold the batch and
        copy.

        Args:
            distance: [B, 1, N, N] Å.
            context: of the graphs.
        """
        b, _, n, _ = distance.shape
        radial = _radial(distance, context.same_molecule).view(b, -1, n * n)
        weight = self.pair_in[:, N_PAIR_CODES:].expand(b, -1, -1)
        hidden = torch.baddbmm(context.pairs, weight, radial)
        hidden = torch.nn.functional.silu(hidden, inplace=not hidden.requires_grad)
        heads = self.config.nhead

        def output(number: int) -> Tensor:
            weight = self.pair_out[number * heads : (number + 1) * heads]
            out = torch.bmm(weight.expand(b, -1, -1), hidden).view(b, heads, n, n)
            if context.padded is None or number > self.config.num_layers:
                return out
            return out.masked_fill(context.padded, _MASKED)

        return output

    def _along_vectors(self, h: Tensor, vectors: Tensor, bias: Tensor, gate: Tensor) -> Tensor:
        """[B, N, 3] Å: per head a weighted sum of the vectors to other atoms, gated.

        The weight of a pair is attention times a bounded gate of the pair, so that an atom can be
        drawn to one neighbour and pushed from another.
        """
        b, n, d = h.shape
        heads = self.config.nhead
        q, k = self.vector_qk(h).view(b, n, 2, heads, d // heads).permute(2, 0, 3, 1, 4)
        logits = (q @ k.transpose(-1, -2)) * (d // heads) ** -0.5 + bias
        gates = self.vector_gate(h).to(vectors.dtype)
        with torch.autocast(h.device.type, enabled=False):
            weights = logits.to(vectors.dtype).softmax(-1) * torch.tanh(gate.to(vectors.dtype))
            # [B, H, N, N] x [B, N, N, 3]: one small product per atom
            mean = torch.einsum("bhij,bijc->bihc", weights, vectors)
            return torch.einsum("bihc,bih->bic", mean, gates)


def _half(x: Tensor) -> torch.dtype:
    """Type in which autocast multiplies on the device of x, or the type of x without it."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def _pair_vectors(
    x: Tensor, fractional: Tensor, cell: Tensor, same_molecule: Tensor
) -> tuple[Tensor, Tensor]:
    """Vectors [B, N, N, 3] in Å between atoms, and their lengths [B, 1, N, N].

    Vector (i, j) points from atom i to atom j. Inside a molecule the plain vector, between
    molecules the one to the nearest image (by rounding: exact for reduced cells up to half a
    cell).
    """
    plain = x[:, None, :] - x[:, :, None]
    step = fractional[:, None, :] - fractional[:, :, None]
    step = step - step.round()
    nearest = torch.einsum("bijc,bcd->bijd", step, cell)
    vectors = torch.where(same_molecule[..., None], plain, nearest)
    distance = (vectors.square().sum(-1) + 1e-8).sqrt()
    return vectors, distance[:, None]


def _radial(distance: Tensor, same_molecule: Tensor) -> Tensor:
    """Radial functions [B, R, N, N] of distances [B, 1, N, N] in Å.

    Fine ones and coarse ones inside a molecule, then coarse ones between molecules; where a
    distance does not count it is taken for so long that they vanish.
    """
    inside = distance.masked_fill(~same_molecule, _FAR)
    between = distance.masked_fill(same_molecule, _FAR)
    fine, coarse = (0.4, 3.4, _N_FINE), (2.5, _RADIAL_CUTOFF, _N_COARSE)
    parts = []
    for length, (start, end, count) in ((inside, fine), (inside, coarse), (between, coarse)):
        width = (end - start) / (count - 1)
        centres = torch.linspace(start, end, count, device=distance.device)[:, None, None]
        parts.append(torch.exp(-0.5 * ((length - centres.to(length.dtype)) / width).square()))
    return torch.cat(parts, 1)
