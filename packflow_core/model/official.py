"""`preset="official"`: the published PackFlow network, state dict and numbers alike.

Kept to the letter where the published weights need it: raw integer features, bond features in the
published pairing, one attention bias for all layers, times that are not rescaled, lengths in Å.
Source: PackFlow, sections 2.2 and 4.1.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from packflow_core.model.attention import Trunk, TrunkFunction, mlp, time_embedding
from packflow_core.model.batch import GraphBatch


@dataclass(frozen=True)
class OfficialConfig:
    """Shape of a published model (2M: 256/8/4/512, 20M: 320/8/12/1280, 60M: 640/10/12/2560)."""

    d_model: int = 256
    nhead: int = 8
    num_layers: int = 4
    dim_feedforward: int = 512
    time_embed_dim: int = 64


@dataclass(frozen=True)
class OfficialContext:
    """What depends on the graph alone, shared by all candidates of a target.

    Attributes:
        tokens: [B, N, d], B being 1 for one target.
        bias: [B, H, N, N] of all layers, -inf where padded; one target has one, whatever the
            number of its candidates.
        trunk: runs the layers; the model's own when None.
    """

    tokens: Tensor
    bias: Tensor
    trunk: TrunkFunction | None = None


class _BondBias(nn.Module):
    """Per-head logits of a bond, and a per-head constant that softmax cancels."""

    def __init__(self, nhead: int) -> None:
        super().__init__()
        self.head_bias_base = nn.Parameter(torch.zeros(nhead))
        self.edge_to_headlogits = mlp(2, 64, nhead)


class OfficialPackFlow(nn.Module):
    """Vector field of the published models; see `forward`."""

    attn_bias_scale: Tensor

    def __init__(self, config: OfficialConfig) -> None:
        super().__init__()
        d = config.d_model
        self.config = config
        self.register_buffer("attn_bias_scale", torch.tensor(1.0))
        self.cart_coords_embedder = mlp(3, d, d, first_bias=False)
        self.lattice_embedder = mlp(6, d, d, first_bias=False)
        self._node_feat_mlp = mlp(10, d, d, first_bias=False)
        self.attn_bias_builder = _BondBias(config.nhead)
        self.time_cart_embedder = mlp(config.time_embed_dim, d, d)
        self.time_lattice_embedder = mlp(config.time_embed_dim, d, d)
        self.transformer = Trunk(d, config.nhead, config.dim_feedforward, config.num_layers)
        self.cart_coords_output_head = mlp(d, d, 3)
        self.lattice_output_head = mlp(d, d, 6)

    def context(self, graph: GraphBatch, trunk: TrunkFunction | None = None) -> OfficialContext:
        """What depends on the graph alone; compute it once per target.

        Args:
            graph: B graphs, or one graph for all crystals.
            trunk: runs the layers instead of the model's own.
        """
        dtype = self.attn_bias_builder.head_bias_base.dtype
        b, n = graph.mask.shape
        logits = self.attn_bias_builder.edge_to_headlogits(graph.edge_features.to(dtype))
        bonded = torch.zeros(b, n, n, logits.shape[-1], dtype=logits.dtype, device=logits.device)
        bonded = bonded.index_put(tuple(graph.edge_index), logits, accumulate=True)
        bias = self.attn_bias_scale * (self.attn_bias_builder.head_bias_base + bonded)
        bias = bias.permute(0, 3, 1, 2)
        return OfficialContext(
            tokens=self._node_feat_mlp(graph.node_features.to(dtype)),
            bias=bias.masked_fill(~graph.mask[:, None, None, :], float("-inf")).contiguous(),
            trunk=trunk,
        )

    def forward(
        self,
        x: Tensor,
        lattice: Tensor,
        t_x: Tensor,
        t_l: Tensor,
        graph: GraphBatch,
        context: OfficialContext | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Velocities of the flow.

        Args:
            x: [B, N, 3] coordinates in Å, padded.
            lattice: [B, 6] lattice state, see `packflow_core.crystal.lattice.unconstrain`.
            t_x: [B, 1] time of the coordinates, 0 data, 1 noise; [1, 1] for all crystals.
            t_l: [B, 1] or [1, 1] time of the lattice.
            graph: B graphs, or one graph for all crystals.
            context: result of `context(graph)`, to compute it once for many calls.

        Returns:
            Velocities [B, N, 3] of the coordinates (zero where padded) and [B, 6] of the lattice.
        """
        context = context if context is not None else self.context(graph)
        dim = self.config.time_embed_dim
        shared = (
            self.lattice_embedder(lattice)
            + self.time_cart_embedder(time_embedding(t_x, dim))
            + self.time_lattice_embedder(time_embedding(t_l, dim))
        )
        second = cast(nn.Linear, self.cart_coords_embedder[2])
        rest = (context.tokens + (shared + second.bias)[:, None]).flatten(0, 1)
        # The last product of the embedding adds to the rest of the token as it is written.
        h = torch.addmm(rest, self.cart_coords_embedder[:2](x).flatten(0, 1), second.weight.t())
        # Layers add to tokens of full precision, with autocast too.
        h = h.view(*x.shape[:2], -1).to(x.dtype)
        h = (context.trunk or self.transformer)(h, itertools.repeat(context.bias))
        v = self.cart_coords_output_head(h).to(x.dtype)
        if not graph.padded:
            return v, self.lattice_output_head(h.mean(1)).to(x.dtype)
        mask = graph.mask[..., None].to(h.dtype)
        pooled = (h * mask).sum(1) / mask.sum(1)
        return v * mask, self.lattice_output_head(pooled).to(x.dtype)
