"""Attention pooling: one learned probe reads all tokens of a sample; long samples are read tile by tile.

T = packed tokens, B = samples, C = channels, H = heads, D = head dim.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tok4d.config.schema import StackConfig
from tok4d.nn.attention import attend
from tok4d.nn.block import MLP
from tok4d.nn.norms import LayerNorm
from tok4d.nn.precision import at_least_float32
from tok4d.seqs import Seqs


@dataclass(frozen=True)
class PoolState:
    """Running softmax over the tokens seen so far: constant memory however long the sample (float32 at least).

    `peak [B, H]` largest logit, `mass [B, H]` sum of exp(logit - peak), `value [B, H, D]` weighted sum of values.
    """

    peak: Tensor
    mass: Tensor
    value: Tensor

    def merge(self, other: PoolState) -> PoolState:
        """State of both sets of tokens together; exact up to rounding, in any order."""
        peak = torch.maximum(self.peak, other.peak)
        mine, theirs = _rescale(self.peak, peak), _rescale(other.peak, peak)
        return PoolState(
            peak,
            self.mass * mine + other.mass * theirs,
            self.value * mine[..., None] + other.value * theirs[..., None],
        )


def _rescale(old: Tensor, new: Tensor) -> Tensor:
    """exp(old - new), with exp(-inf - -inf) = 0: no token seen on either side."""
    return torch.where(old.isneginf(), 0.0, (old - new).exp())


class _ProbeAttention(nn.Module):
    def __init__(self, width: int, bias: bool) -> None:
        super().__init__()
        self.to_q = nn.Linear(width, width, bias=bias)
        self.to_kv = nn.Linear(width, 2 * width, bias=bias)
        self.to_out = nn.Linear(width, width, bias=bias)


class AttentionPool(nn.Module):
    """`r = to_out(attn(probe, tokens)); out = r + mlp(layernorm(r))`: no probe residual, no RoPE."""

    def __init__(self, config: StackConfig) -> None:
        super().__init__()
        self.heads, self.head_dim = config.heads, config.width // config.heads
        self.probe = nn.Parameter(torch.randn(config.width) * 0.02)
        self.attention = _ProbeAttention(config.width, bias=True)
        self.layernorm = LayerNorm(config.width)
        self.mlp = MLP(config.width, config.mlp, bias=True)

    def forward(self, features: Tensor, seqs: Seqs) -> Tensor:
        """Features `[T, C]` after the encoder's last norm -> pooled `[B, C]`; zeros for empty samples."""
        q_HD, k, v = self._project(features)
        probes = Seqs((1,) * len(seqs), seqs.device)
        out_BC = attend(q_HD.expand(len(seqs), -1, -1), k, v, probes, seqs).flatten(1)
        return self._finish(out_BC, torch.tensor(seqs.lengths, device=out_BC.device) > 0)

    def partial(self, features: Tensor, seqs: Seqs) -> PoolState:
        """Contribution of some tokens of every sample (a temporal tile, say), to be merged and finished."""
        q_HD, k, v = (at_least_float32(x) for x in self._project(features))
        logits_TH = (k * q_HD).sum(-1) * q_HD.shape[-1] ** -0.5
        index_TH = seqs.index[:, None].expand_as(logits_TH)
        peak = logits_TH.new_full((len(seqs), self.heads), float("-inf"))
        peak = peak.scatter_reduce(0, index_TH, logits_TH, "amax")
        weight_TH = (logits_TH - peak[seqs.index]).exp()
        mass = torch.zeros_like(peak).index_add(0, seqs.index, weight_TH)
        value = v.new_zeros(len(seqs), *v.shape[1:]).index_add(0, seqs.index, weight_TH[..., None] * v)
        return PoolState(peak, mass, value)

    def _project(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The probe's query `[H, D]`, keys and values `[T, H, D]`."""
        q_HD = self.attention.to_q(self.probe.to(features.dtype)).view(self.heads, self.head_dim)
        k, v = self.attention.to_kv(features).view(len(features), 2, self.heads, self.head_dim).unbind(1)
        return q_HD, k, v

    def finish(self, state: PoolState) -> Tensor:
        """Pooled `[B, C]` of everything merged into `state`."""
        seen = (state.mass > 0).all(1)
        out = torch.where(seen[:, None, None], state.value / state.mass.clamp_min(1e-38)[..., None], 0.0)
        return self._finish(out.flatten(1).to(self.probe.dtype), seen)

    def _finish(self, out_BC: Tensor, seen_B: Tensor) -> Tensor:
        r = self.attention.to_out(out_BC)
        pooled: Tensor = r + self.mlp(self.layernorm(r))
        return torch.where(seen_B[:, None], pooled, torch.zeros_like(pooled))
