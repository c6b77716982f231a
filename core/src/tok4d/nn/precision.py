"""Arithmetic that half precision is too coarse for."""

from __future__ import annotations

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """`x` in float32; float64 stays as it is, so that a float64 model is one throughout."""
    return x if x.dtype == torch.float64 else x.float()
