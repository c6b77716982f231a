"""The pre-norm transformer block of encoder and decoder.

T = packed tokens, S = packed keys, C = channels, H = heads, D = head dim, P = D // 2.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tok4d.config.schema import StackConfig
from tok4d.nn.attention import attend
from tok4d.nn.norms import HeadNorm, make_norm
from tok4d.nn.rope import rotate
from tok4d.seqs import Seqs


@dataclass(frozen=True)
class Context:
    """What all blocks of one pass share, built once a batch: boundaries and rotations.

    Attributes:
        seqs: boundaries of the attention segments.
        rotation: complex `[T, P]`, or None for a model without RoPE.
        key_order: which token each key comes from, int64 `[S]`; None: every segment sees its own tokens only.
        key_seqs, key_rotation: boundaries and rotations `[S, P]` of the keys, when there is a `key_order`.
        softcap: of the attention logits, see `attend`; None: none.
    """

    seqs: Seqs
    rotation: Tensor | None
    key_order: Tensor | None = None
    key_seqs: Seqs | None = None
    key_rotation: Tensor | None = None
    softcap: float | None = None


class KeyMemory:
    """Keys (after q/k norm, before RoPE) and values that one layer keeps from one call to the next.

    Attributes:
        keep: which rows of (remembered + new) to keep of the coming call, int64; set before every call.
    """

    def __init__(self) -> None:
        self.keep: Tensor | None = None
        self._held: tuple[Tensor, Tensor] | None = None

    def extend(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Remembered keys and values `[M, H, D]`, then the new ones `[T, H, D]`."""
        assert self.keep is not None, "keep is set before every call"
        if self._held is not None:
            k, v = torch.cat([self._held[0], k]), torch.cat([self._held[1], v])
        self._held = k[self.keep], v[self.keep]
        return k, v


class SelfAttention(nn.Module):
    """Multi-head self-attention with optional q/k norm and RoPE."""

    def __init__(self, config: StackConfig) -> None:
        super().__init__()
        self.heads, self.head_dim = config.heads, config.width // config.heads
        self.to_qkv = nn.Linear(config.width, 3 * config.width, bias=config.bias)
        self.to_out = nn.Linear(config.width, config.width, bias=config.bias)
        self.q_rms_norm = HeadNorm(self.heads, self.head_dim) if config.qk_norm else None
        self.k_rms_norm = HeadNorm(self.heads, self.head_dim) if config.qk_norm else None

    def forward(self, x: Tensor, context: Context, memory: KeyMemory | None = None) -> Tensor:
        """`[T, C] -> [T, C]`; with a memory, `key_order` counts remembered keys first."""
        qkv_T3HD = self.to_qkv(x).view(len(x), 3, self.heads, self.head_dim)
        q, k, v = qkv_T3HD.unbind(1)
        if self.q_rms_norm is not None and self.k_rms_norm is not None:
            q, k = self.q_rms_norm(q), self.k_rms_norm(k)
        if memory is not None:
            k, v = memory.extend(k, v)
        key_rotation = context.rotation
        if context.key_order is not None:
            k, v, key_rotation = k[context.key_order], v[context.key_order], context.key_rotation
        if context.rotation is not None and key_rotation is not None:
            free = not q.requires_grad  # without gradients nobody reads q and k again
            q, k = rotate(q, context.rotation, overwrite=free), rotate(k, key_rotation, overwrite=free)
        out_THD = attend(q.to(v.dtype), k.to(v.dtype), v, context.seqs, context.key_seqs, softcap=context.softcap)
        out: Tensor = self.to_out(out_THD.flatten(1))
        return out


class GELU(nn.Module):
    """Tanh-GELU; overwrites its input when no gradient is asked for, as the hidden layer is a pass's largest tensor."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape, same dtype."""
        if x.requires_grad:
            return F.gelu(x, approximate="tanh")
        out: Tensor = torch.ops.aten.gelu_(x, approximate="tanh")
        return out


class MLP(nn.Module):
    """Linear, tanh-GELU, Linear."""

    def __init__(self, width: int, hidden: int, bias: bool) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(width, hidden, bias=bias), GELU(), nn.Linear(hidden, width, bias=bias))

    def forward(self, x: Tensor) -> Tensor:
        """`[T, C] -> [T, C]`."""
        out: Tensor = self.mlp(x)
        return out


class Block(nn.Module):
    """`x += attn(norm1(x)); x += mlp(norm2(x))`."""

    def __init__(self, config: StackConfig) -> None:
        super().__init__()
        self.norm1 = make_norm(config.norm, config.width)
        self.norm2 = make_norm(config.norm, config.width)
        self.attn = SelfAttention(config)
        self.mlp = MLP(config.width, config.mlp, config.bias)

    def forward(self, x: Tensor, context: Context, memory: KeyMemory | None = None) -> Tensor:
        """`[T, C] -> [T, C]`."""
        x = x + self.attn(self.norm1(x), context, memory)
        out: Tensor = x + self.mlp(self.norm2(x))
        return out
