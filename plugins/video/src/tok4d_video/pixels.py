"""Between the bytes of frames and the values of samples. n = frames, H = height, W = width."""

from __future__ import annotations

import torch
from torch import Tensor


def to_signed(frames_nHWC: Tensor) -> Tensor:
    """uint8 `[n, H, W, 3]` to float32 `[n, 3, H, W]` in [-1, 1]; every 8-bit value survives the way there and back."""
    planes = frames_nHWC.permute(0, 3, 1, 2).contiguous()
    return planes.float().div_(127.5).sub_(1)


def to_bytes(video_nCHW: Tensor) -> Tensor:
    """float `[n, 3, H, W]` in [-1, 1] to uint8 `[n, H, W, 3]`, clamped and rounded.

    Raises:
        ValueError: for another shape, no frames or values that are not finite.
    """
    if video_nCHW.ndim != 4 or video_nCHW.shape[1] != 3 or video_nCHW.numel() == 0:
        raise ValueError(f"a clip must be [frames, 3, height, width], none of them zero, got {list(video_nCHW.shape)}")
    values = video_nCHW.detach()
    if bad := int((~torch.isfinite(values)).sum()):
        raise ValueError(f"{bad} of {values.numel()} values are not finite; nothing was written")
    scaled = (values.float().clamp(-1, 1) + 1) * 127.5
    return scaled.round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu()
