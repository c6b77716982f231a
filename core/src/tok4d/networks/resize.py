"""How networks see pictures of any size.

N = pictures, C = channels, H W = height and width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tok4d.errors import Tok4dError


def short_side(images: Tensor, side: int, mode: str, *, antialias: bool) -> Tensor:
    """The square centre `[N, C, side, side]` of images `[N, C, H, W]` whose short side is resized to `side`.

    Pixels are areas (`align_corners=False`); the long side is rounded to whole pixels. Differentiable.
    """
    height, width = images.shape[-2:]
    scale = side / min(height, width)
    size = (max(side, round(height * scale)), max(side, round(width * scale)))
    if size != (height, width):
        images = F.interpolate(images, size, mode=mode, align_corners=False, antialias=antialias)
    top, left = (size[0] - side) // 2, (size[1] - side) // 2
    return images[..., top : top + side, left : left + side]


def levels(images: Tensor) -> Tensor:
    """What 8 bits keep of images in [-1, 1]: whole numbers from 0 to 255, in the images' type. No gradient passes.

    Raises:
        Tok4dError: for NaN, which 8 bits cannot keep.
    """
    if bool(images.isnan().any()):
        raise Tok4dError(f"images of {list(images.shape)} hold NaN, which 8 bits cannot keep")
    return ((images.detach().clamp(-1, 1) + 1) * 127.5).round()


def like_tensorflow_1(images: Tensor, side: int) -> Tensor:
    """Bilinear to `[N, C, side, side]` as TensorFlow 1 did it, which FID's network was ported with.

    Pixels are points, the first ones of both grids coincide, and nothing is antialiased: output pixel i is read at
    i * H / side.
    """
    rows, columns = (_positions(length, side, images) for length in images.shape[-2:])
    return _mix(_mix(images, -1, *columns), -2, *rows)


def _positions(length: int, side: int, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Lower and upper neighbours of each output position, and how much of the upper one."""
    exact = torch.arange(side, dtype=like.dtype, device=like.device) * (length / side)
    lower = exact.long()
    return lower, (lower + 1).clamp(max=length - 1), exact - lower


def _mix(images: Tensor, axis: int, lower: Tensor, upper: Tensor, share: Tensor) -> Tensor:
    if axis == -2:
        share = share[:, None]
    low, high = images.index_select(axis, lower), images.index_select(axis, upper)
    return low + (high - low) * share
