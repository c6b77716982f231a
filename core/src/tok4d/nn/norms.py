"""Normalisations: computed in float32 at least, whatever the dtype of the stream.

T = packed tokens, C = channels, H = heads, D = head dim.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tok4d.nn.precision import at_least_float32

EPS = 1e-6


class LayerNorm(nn.Module):
    """Affine LayerNorm with bias, eps 1e-6. The kernel accumulates in float32 also for half-precision input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """`[T, C] -> [T, C]`, same dtype."""
        return F.layer_norm(x, self.weight.shape, self.weight.to(x.dtype), self.bias.to(x.dtype), EPS)


class RMSNorm(nn.Module):
    """RMSNorm with weight, eps 1e-6."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """`[T, C] -> [T, C]`, same dtype."""
        y = at_least_float32(x)
        mean_square = torch.linalg.vector_norm(y, dim=-1, keepdim=True).square() / x.shape[-1]
        y = y * torch.rsqrt(mean_square + EPS)
        return y.mul_(self.weight).to(x.dtype)  # in place: fresh memory costs more than the product


class HeadNorm(nn.Module):
    """Query/key norm: `x / max(|x|, 1e-12) * gamma[head, dim] * sqrt(D)`."""

    def __init__(self, heads: int, head_dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(heads, head_dim))

    def forward(self, x_THD: Tensor) -> Tensor:
        """`[T, H, D] -> [T, H, D]`, float32 at least."""
        x = at_least_float32(x_THD)
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp_min(1e-12)
        y: Tensor = x * (x.shape[-1] ** 0.5 / length)
        return y.mul_(at_least_float32(self.gamma))


def make_norm(kind: str, width: int) -> LayerNorm | RMSNorm:
    """`layer` or `rms` (checked by the config)."""
    return LayerNorm(width) if kind == "layer" else RMSNorm(width)
