"""The published network with its bonds told otherwise, or not at all (PackFlow, table 1).

- `none`: the attention has no bias ("No Bonds"); atoms know their features alone.
- `gnn`: layers of graph attention over the bonds change the tokens before the transformer
  ("Bonds-GNN", section 4.1.2), and the attention has no bias.

The paper's third ablation, one time for coordinates and lattice, is a matter of training alone.
Graph attention is GATv2 (Brody et al., How Attentive are Graph Attention Networks?, ICLR 2022) with
self-loops that carry the mean features of an atom's bonds. The paper says "several" layers; three
is what its configuration files name. That a layer adds to the tokens is our choice.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from packflow_core.chem.features import BOND_FEATURE_SIZES
from packflow_core.model.attention import TrunkFunction
from packflow_core.model.batch import GraphBatch
from packflow_core.model.official import OfficialConfig, OfficialContext, OfficialPackFlow

Bonds = Literal["bias", "gnn", "none"]
_SLOPE = 0.2


@dataclass(frozen=True)
class AblatedConfig(OfficialConfig):
    """Shape of a published model whose attention has no bias from bonds.

    Attributes:
        bonds: none or gnn.
        gnn_layers: of graph attention, where there are some.
    """

    bonds: Bonds = "none"
    gnn_layers: int = 3


class BondAttention(nn.Module):
    """One layer of GATv2 on the bonds of a graph.

    Args:
        d_model: width of the states.
        nhead: heads, whose outputs stand side by side.
    """

    def __init__(self, d_model: int, nhead: int) -> None:
        super().__init__()
        self.nhead = nhead
        self.source = nn.Linear(d_model, d_model)
        self.target = nn.Linear(d_model, d_model)
        self.edge = nn.Linear(len(BOND_FEATURE_SIZES), d_model, bias=False)
        self.score = nn.Parameter(torch.empty(nhead, d_model // nhead))
        nn.init.xavier_uniform_(self.score)

    def forward(self, h: Tensor, edges: Tensor, features: Tensor) -> Tensor:
        """Weighted means of the neighbours' states.

        Args:
            h: [M, d] states of atoms.
            edges: [2, E] source and target of every directed bond and self-loop.
            features: [E, 2] of them.

        Returns:
            [M, d].
        """
        m, d = h.shape
        source, target = edges
        values = self.source(h)[source]
        mixed = F.leaky_relu(values + self.target(h)[target] + self.edge(features), _SLOPE)
        logits = (mixed.view(-1, self.nhead, d // self.nhead) * self.score).sum(-1).float()
        rows = target[:, None].expand_as(logits)
        highest = logits.new_full((m, self.nhead), -torch.inf)
        highest = highest.scatter_reduce(0, rows, logits.detach(), "amax")
        weights = torch.exp(logits - highest[target])
        total = logits.new_zeros(m, self.nhead).index_add(0, target, weights)
        weights = (weights / total[target]).to(values.dtype)
        weighted = values.view(-1, self.nhead, d // self.nhead) * weights[..., None]
        return values.new_zeros(m, d).index_add(0, target, weighted.flatten(1))


class AblatedPackFlow(OfficialPackFlow):
    """Vector field of an ablated model; see `OfficialPackFlow.forward`."""

    def __init__(self, config: AblatedConfig) -> None:
        super().__init__(config)
        self.config: AblatedConfig = config
        del self.attn_bias_builder, self.attn_bias_scale
        if config.bonds == "gnn":
            self.bond_gnn = nn.ModuleList(
                BondAttention(config.d_model, config.nhead) for _ in range(config.gnn_layers)
            )

    def context(self, graph: GraphBatch, trunk: TrunkFunction | None = None) -> OfficialContext:
        """What depends on the graph alone; see `OfficialPackFlow.context`."""
        dtype = self.transformer.norm.weight.dtype
        b, n = graph.mask.shape
        bias = torch.zeros(b, self.config.nhead, n, n, dtype=dtype, device=graph.mask.device)
        context = OfficialContext(
            tokens=self._node_feat_mlp(graph.node_features.to(dtype)),
            bias=bias.masked_fill(~graph.mask[:, None, None, :], float("-inf")),
            trunk=trunk,
        )
        if self.config.bonds == "none":
            return context
        layers = trunk or self.transformer
        edges, features = _with_loops(graph, dtype)

        def with_bonds(h: Tensor, biases: Iterable[Tensor]) -> Tensor:
            # One graph may stand for all crystals: each of them has its bonds.
            copies = len(h) // b
            crystal = edges[0] + torch.arange(copies, device=h.device)[:, None] * b
            flat = edges[1:, None] + crystal * n
            states = h.reshape(-1, h.shape[-1])
            for layer in self.bond_gnn:
                told = layer(states, flat.flatten(1), features.repeat(copies, 1))
                states = states + F.silu(told)
            return layers(states.view(h.shape), biases)

        return replace(context, trunk=with_bonds)


def _with_loops(graph: GraphBatch, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Edges [3, E] and features [E, 2] of bonds and of a self-loop for every place, padded or not.

    A loop carries the mean features of the bonds that end at the atom, zeros where there are none.
    """
    b, n = graph.mask.shape
    device = graph.mask.device
    crystal, _, target = graph.edge_index
    features = graph.edge_features.to(dtype)
    place = crystal * n + target
    count = torch.zeros(b * n, dtype=dtype, device=device)
    count = count.index_add(0, place, torch.ones_like(place, dtype=dtype))
    mean = torch.zeros(b * n, features.shape[1], dtype=dtype, device=device)
    mean = mean.index_add(0, place, features) / count.clamp(min=1)[:, None]
    every = torch.arange(b * n, device=device)
    loops = torch.stack([every // n, every % n, every % n])
    return torch.cat([graph.edge_index, loops], 1), torch.cat([features, mean])
