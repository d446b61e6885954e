"""The transformer trunk that both presets share: pre-norm layers with a bias on the attention.

Module names follow the published checkpoints (`layers.{l}.mha`, `linear1`, `norm1`, ...), so that
their state dicts load as they are. Source: PackFlow, section 4.1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: What runs the layers: (tokens [B, N, d], a bias for each layer) -> [B, N, d]. The tokens given
#: may be overwritten.
TrunkFunction = Callable[[Tensor, Iterable[Tensor]], Tensor]


class BiasedAttention(nn.Module):
    """Multi-head self-attention with an additive bias [B or 1, H, N, N] on the logits."""

    def __init__(self, d_model: int, nhead: int) -> None:
        super().__init__()
        self.nhead = nhead
        self.in_proj_weight = nn.Parameter(torch.empty(3 * d_model, d_model))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * d_model))
        self.out_proj = nn.Linear(d_model, d_model)
        nn.init.xavier_uniform_(self.in_proj_weight)

    def forward(self, h: Tensor, bias: Tensor) -> Tensor:
        """Attend. h: [B, N, d]; bias: broadcastable to [B, H, N, N], -inf where masked."""
        b, n, d = h.shape
        qkv = F.linear(h, self.in_proj_weight, self.in_proj_bias)
        q, k, v = qkv.view(b, n, 3, self.nhead, d // self.nhead).permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype))
        return self.out_proj(out.transpose(1, 2).reshape(b, n, d))


class TransformerLayer(nn.Module):
    """One pre-norm layer: attention, then a GELU(tanh) feed-forward block."""

    def __init__(self, d_model: int, nhead: int, dim_feedforward: int) -> None:
        super().__init__()
        self.mha = BiasedAttention(d_model, nhead)
        self.linear1 = nn.Linear(d_model, dim_feedforward)
        self.linear2 = nn.Linear(dim_feedforward, d_model)
        self.norm1 = nn.LayerNorm(d_model)
        self.norm2 = nn.LayerNorm(d_model)

    def forward(self, h: Tensor, bias: Tensor) -> Tensor:
        """h: [B, N, d] -> [B, N, d]."""
        h = h + self.mha(self.norm1(h), bias)
        return h + self.linear2(F.gelu(self.linear1(self.norm2(h)), approximate="tanh"))


class Trunk(nn.Module):
    """A stack of layers and a final LayerNorm."""

    def __init__(self, d_model: int, nhead: int, dim_feedforward: int, num_layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            TransformerLayer(d_model, nhead, dim_feedforward) for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(d_model)

    def forward(self, h: Tensor, biases: Iterable[Tensor]) -> Tensor:
        """Run all layers.

        Args:
            h: [B, N, d].
            biases: one for each layer, see `BiasedAttention`; taken one at a time, so a generator
                keeps a single one of them in memory. `itertools.repeat` shares one.
        """
        # The biases may be endless: they come last, so that none is made in vain.
        for layer, bias in zip(self.layers, biases, strict=False):
            h = layer(h, bias)
        return self.norm(h)


def mlp(inputs: int, hidden: int, outputs: int, *, first_bias: bool = True) -> nn.Sequential:
    """Linear, SiLU, Linear."""
    return nn.Sequential(
        nn.Linear(inputs, hidden, bias=first_bias),
        nn.SiLU(inplace=True),
        nn.Linear(hidden, outputs),
    )


def time_embedding(t: Tensor, dim: int, scale: float = 1.0) -> Tensor:
    """Sinusoidal embedding [B, dim] of times t [B, 1]: sines, then cosines, of scale * t * w_k.

    w_k = 10000^(-k / (dim / 2)); the published models use scale 1.
    """
    half = dim // 2
    w = torch.exp(-math.log(1e4) * torch.arange(half, device=t.device, dtype=t.dtype) / half)
    angle = scale * t * w
    return torch.cat([angle.sin(), angle.cos()], dim=-1)
