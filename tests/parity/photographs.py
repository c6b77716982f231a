"""Photographs of the recipe as tensors, and what JPEG makes of them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def read(path: Path | io.BytesIO, box: tuple[int, int, int, int] | None = None) -> Tensor:
    """A picture, or a part of it, as `[1, 3, H, W]` in [-1, 1]."""
    with Image.open(path) as opened:
        picture = opened.convert("RGB").crop(box)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 127.5 - 1


def jpeg(image: Tensor, quality: int) -> Tensor:
    """The picture after JPEG."""
    levels = ((image[0] + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).numpy()
    stored = io.BytesIO()
    Image.fromarray(levels).save(stored, "JPEG", quality=quality)
    return read(stored)
