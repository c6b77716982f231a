"""4D rotary position embedding (AToken, section 3.1): relative positions along t, x, y and z at once.

T = packed tokens, H = heads, D = head dim, P = D // 2 rotated pairs, r = D // 8 frequencies an axis.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tok4d.errors import Tok4dError
from tok4d.nn.precision import at_least_float32

BASE = 10000.0


def frequencies(head_dim: int, device: torch.device | None = None) -> Tensor:
    """Angular frequencies of one axis, `[r]` float32: f_i = 10000^(-i / D), divided by D and not by r.

    Raises:
        Tok4dError: when the head dim is not divisible by 8 (two channels for each of four axes).
    """
    if head_dim % 8:
        raise Tok4dError(f"4D RoPE needs a head dim divisible by 8, got {head_dim}")
    return BASE ** (-torch.arange(head_dim // 8, dtype=torch.float32, device=device) / head_dim)


def rotations(coords: Tensor, head_dim: int, scale: float = 1.0) -> Tensor:
    """Unit complex numbers that rotate the channel pairs of every token; build once a batch, use in every layer.

    Args:
        coords: `[T, 4]` in the order t, x, y, z.
        head_dim: D.
        scale: factor on the coordinates; a training that starts from a model without RoPE ramps it from 0 to 1.

    Returns:
        complex64 `[T, P]`; pair index = axis * r + i.
    """
    f = frequencies(head_dim, coords.device)
    angles = (coords.to(torch.float32) * scale)[:, :, None] * f
    angles = angles.flatten(1)
    return torch.polar(torch.ones_like(angles), angles)


def rotate(x: Tensor, rotation: Tensor, *, overwrite: bool = False) -> Tensor:
    """Rotate adjacent channel pairs (2j, 2j+1) of `x` `[T, ..., H, D]` by `rotation` `[T, P]`, in float32 at least.

    `overwrite` allows the result to take the place of `x`; not for an `x` that autograd still needs.
    """
    pairs = torch.view_as_complex(at_least_float32(x).unflatten(-1, (-1, 2)))
    factor = rotation.view((len(rotation),) + (1,) * (x.ndim - 2) + (rotation.shape[-1],))
    pairs = pairs.mul_(factor) if overwrite else pairs * factor
    return torch.view_as_real(pairs).flatten(-2).to(x.dtype)
