"""Linear layers at the ends of the model, kept in the precision of their weights also under autocast."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def exact(linear: nn.Linear, x: Tensor) -> Tensor:
    """`linear(x)` without autocast: pixels and latents lose precision in bf16 that the blocks do not miss."""
    with torch.autocast(x.device.type, enabled=False):
        out: Tensor = linear(x.to(linear.weight.dtype))
    return out
