"""The trunk for inference on a CPU: the same function with fewer passes over memory.

On a CPU the matrix products of a layer are as fast as they get; what is left to save is everything
around them. Biases of the keys cancel in the softmax and those of the values go into the output
bias, GELU(tanh) is evaluated in place, in pieces that stay in the cache, its constants hidden in
the weights, and products add to the residual stream directly.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from packflow_core.model.attention import TransformerLayer, Trunk, TrunkFunction

#: GELU(tanh) of y is y / 2 (1 + tanh(s y + c (s y)^3)) with this s and c.
_GELU_SCALE = math.sqrt(2 / math.pi)
_GELU_CUBIC = 0.044715 / _GELU_SCALE**2
#: Numbers of a hidden layer that are activated together; a megabyte with the scratch space.
_TILE = 1 << 17


def inference_trunk(trunk: Trunk) -> TrunkFunction:
    """What to call instead of `trunk` without gradients: itself, or its copy for CPUs.

    The copy holds the weights as they are now.
    """
    return CpuTrunk(trunk) if trunk.norm.weight.device.type == "cpu" else trunk


class CpuTrunk:
    """Callable like a `Trunk` whose weights, on the CPU, will not change."""

    def __init__(self, trunk: Trunk) -> None:
        self._norm = copy.deepcopy(trunk.norm)
        with torch.no_grad():
            self._layers = [
                _prepared(layer) for layer in trunk.layers if isinstance(layer, TransformerLayer)
            ]

    @torch.no_grad()
    def __call__(self, h: Tensor, biases: Iterable[Tensor]) -> Tensor:
        """Run all layers, see `Trunk.forward`. h [B, N, d] is used up."""
        b, n, d = h.shape
        stream = h.reshape(b * n, d)
        width = max(layer.hidden_bias.shape[0] for layer in self._layers)
        qkv, hidden = h.new_empty(b * n, 3 * d), h.new_empty(b * n, width)
        for layer, bias in zip(self._layers, biases, strict=False):
            _attend(layer, stream, bias, qkv, b)
            _feed_forward(layer, stream, hidden)
        return self._norm(stream).view(b, n, d)


@dataclass(frozen=True)
class _Layer:
    """Weights of a layer, transposed [inputs, outputs], which the products read fastest."""

    nhead: int
    norm1: nn.LayerNorm
    qkv: Tensor
    query_bias: Tensor
    out: Tensor
    out_bias: Tensor
    norm2: nn.LayerNorm
    hidden: Tensor
    hidden_bias: Tensor
    down: Tensor
    down_bias: Tensor


def _prepared(layer: TransformerLayer) -> _Layer:
    mha = layer.mha
    d = mha.out_proj.weight.shape[0]
    return _Layer(
        nhead=mha.nhead,
        norm1=copy.deepcopy(layer.norm1),
        qkv=mha.in_proj_weight.t().contiguous(),
        query_bias=mha.in_proj_bias[:d].clone(),
        out=mha.out_proj.weight.t().contiguous(),
        # The weights of an atom's attention sum to one, so a bias of the values is a constant.
        out_bias=mha.out_proj.bias + mha.out_proj.weight @ mha.in_proj_bias[2 * d :],
        norm2=copy.deepcopy(layer.norm2),
        hidden=_GELU_SCALE * layer.linear1.weight.t().contiguous(),
        hidden_bias=_GELU_SCALE * layer.linear1.bias,
        down=layer.linear2.weight.t().contiguous(),
        down_bias=layer.linear2.bias.clone(),
    )


def _attend(layer: _Layer, stream: Tensor, bias: Tensor, qkv: Tensor, b: int) -> None:
    """Add the attention to stream [B N, d]; qkv [B N, 3 d] is scratch space."""
    rows, d = stream.shape
    torch.mm(layer.norm1(stream), layer.qkv, out=qkv)
    # A bias of the keys would add the same number to a whole row of logits: softmax drops it.
    qkv[:, :d].add_(layer.query_bias)
    q, k, v = qkv.view(b, rows // b, 3, layer.nhead, d // layer.nhead).permute(2, 0, 3, 1, 4)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    stream.add_(layer.out_bias).addmm_(out.transpose(1, 2).reshape(rows, d), layer.out)


def _feed_forward(layer: _Layer, stream: Tensor, hidden: Tensor) -> None:
    """Add the feed-forward block to stream [B N, d]; hidden [B N, ff] is scratch space."""
    torch.mm(layer.norm2(stream), layer.hidden, out=hidden)
    tile = max(1, _TILE // hidden.shape[1])
    scratch = torch.empty_like(hidden[:tile])
    for part in hidden.split(tile):
        # part = y (1 + tanh(y + c y^3)) with y = s x: GELU times 2 s.
        work = scratch[: len(part)]
        part.add_(layer.hidden_bias)
        torch.mul(part, part, out=work)
        torch.addcmul(part, work, part, value=_GELU_CUBIC, out=work)
        work.tanh_()
        torch.addcmul(part, part, work, out=part)
    stream.add_(layer.down_bias).addmm_(hidden, layer.down, alpha=0.5 / _GELU_SCALE)
