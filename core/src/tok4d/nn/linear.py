"""Linear layers at the ends of the model, kept in the precision of their weights also under autocast."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def exact(linear: nn.Linear, x: Tensor) -> Tensor:
    """`linear(x)` without autocast: pixels and latents lose precision in bf16 that the blocks do not miss."""
    with torch.autocast(x.device.type, enabled=False):
        out: Tensor = linear(x.to(linear.weight.dtype))
    return out


def exact_from(linear: nn.Linear, x: Tensor, columns: int | None) -> Tensor:
    """`exact(linear, x)` of inputs that are zero from column `columns` on, which are not multiplied."""
    if columns is None or columns >= linear.in_features:
        return exact(linear, x)
    with torch.autocast(x.device.type, enabled=False):
        return F.linear(x[:, :columns].to(linear.weight.dtype), linear.weight[:, :columns], linear.bias)


def exact_to(linear: nn.Linear, x: Tensor, rows: int | None) -> Tensor:
    """`exact(linear, x)` with zero from column `rows` on, which is not multiplied either."""
    if rows is None or rows >= linear.out_features:
        return exact(linear, x)
    bias = None if linear.bias is None else linear.bias[:rows]
    with torch.autocast(x.device.type, enabled=False):
        out = F.linear(x.to(linear.weight.dtype), linear.weight[:rows], bias)
    return F.pad(out, (0, linear.out_features - rows))
