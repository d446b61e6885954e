"""`preset="official"`: the published PackFlow network, state dict and numbers alike.

Kept to the letter where the published weights need it: raw integer features, bond features in the
published pairing, one attention bias for all layers, times that are not rescaled, lengths in Å.
Source: PackFlow, sections 2.2 and 4.1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from packflow_core.model.attention import Trunk, mlp, time_embedding
from packflow_core.model.batch import GraphBatch


@dataclass(frozen=True)
class OfficialConfig:
    """Shape of a published model (2M: 256/8/4/512, 20M: 320/8/12/1280, 60M: 640/10/12/2560)."""

    d_model: int = 256
    nhead: int = 8
    num_layers: int = 4
    dim_feedforward: int = 512
    time_embed_dim: int = 64


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

    def context(self, graph: GraphBatch) -> tuple[Tensor, Tensor]:
        """What depends on the graph alone: node tokens [B, N, d] and attention bias [B, H, N, N].

        Candidates of one target share it: compute it once and broadcast over the batch.
        """
        dtype = self.attn_bias_builder.head_bias_base.dtype
        b, n = graph.mask.shape
        logits = self.attn_bias_builder.edge_to_headlogits(graph.edge_features.to(dtype))
        bonded = torch.zeros(b, n, n, logits.shape[-1], dtype=logits.dtype, device=logits.device)
        bonded = bonded.index_put(tuple(graph.edge_index), logits, accumulate=True)
        bias = self.attn_bias_scale * (self.attn_bias_builder.head_bias_base + bonded)
        bias = bias.permute(0, 3, 1, 2)
        bias = bias.masked_fill(~graph.mask[:, None, None, :], float("-inf"))
        return self._node_feat_mlp(graph.node_features.to(dtype)), bias

    def forward(
        self,
        x: Tensor,
        lattice: Tensor,
        t_x: Tensor,
        t_l: Tensor,
        graph: GraphBatch,
        context: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Velocities of the flow.

        Args:
            x: [B, N, 3] coordinates in Å, padded.
            lattice: [B, 6] lattice state, see `packflow_core.crystal.lattice.unconstrain`.
            t_x: [B, 1] time of the coordinates, 0 data, 1 noise.
            t_l: [B, 1] time of the lattice.
            graph: B graphs, or one graph for all crystals.
            context: result of `context(graph)`, to compute it once for many calls.

        Returns:
            Velocities [B, N, 3] of the coordinates (zero where padded) and [B, 6] of the lattice.
        """
        tokens, bias = context if context is not None else self.context(graph)
        dim = self.config.time_embed_dim
        shared = (
            self.lattice_embedder(lattice)
            + self.time_cart_embedder(time_embedding(t_x, dim))
            + self.time_lattice_embedder(time_embedding(t_l, dim))
        )
        h = self.transformer(self.cart_coords_embedder(x) + tokens + shared[:, None], [bias])
        mask = graph.mask[..., None].to(h.dtype)
        pooled = (h * mask).sum(1) / mask.sum(1)
        return self.cart_coords_output_head(h) * mask, self.lattice_output_head(pooled)
