"""Resizing of frames: antialiased.

n = frames, H = height, W = width, h, w = new ones. Frames come as uint8 `[n, H, W, 3]`, as readers give them, and leave
as uint8 `[n, h, w, 3]`. decord's own resizing is never used: it writes rows of the wrong length.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from tok4d.errors import ConfigError, unknown_name

FILTERS = ("bilinear", "bicubic")


@dataclass(frozen=True)
class Resize:
    """How frames come to their size.

    Attributes:
        short: shorter side in pixels, the other in proportion (rounded); 0: no limit. Never enlarged unless `enlarge`.
        size: exact (height, width); frames are stretched to it. At most one of `short` and `size`.
        crop: (height, width) cut from the centre afterwards, at most what there is; None: nothing is cut.
        multiple: sides are then cut (from the centre) to multiples of this.
        filter: `bilinear` or `bicubic`, antialiased when shrinking.
        enlarge: whether `short` also enlarges.
    """

    short: int = 0
    size: tuple[int, int] | None = None
    crop: tuple[int, int] | None = None
    multiple: int = 1
    filter: str = "bilinear"
    enlarge: bool = False

    def __post_init__(self) -> None:
        if self.filter not in FILTERS:
            raise ConfigError(unknown_name("resize filter", self.filter, FILTERS))
        if self.short and self.size:
            raise ConfigError(f"give short or size, not both: got {self.short} and {self.size}")
        sides = [*(self.size or ()), *(self.crop or ()), self.multiple]
        if self.short < 0:
            raise ConfigError(f"the shorter side must be at least 1 pixel, or 0 to keep it: got {self.short}")
        if min(sides) < 1:
            raise ConfigError(f"sizes must be at least 1 pixel: got {sides}")

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """Height and width before cropping."""
        if self.size:
            return self.size
        shorter = min(height, width)
        if not self.short or (shorter <= self.short and not self.enlarge):
            return height, width
        return _proportion(height, self.short, shorter), _proportion(width, self.short, shorter)

    def result(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of what comes out."""
        sides = self.resized(height, width)
        kept = [min(side, limit) for side, limit in zip(sides, self.crop or sides, strict=True)]
        high, wide = (max(side - side % self.multiple, min(side, self.multiple)) for side in kept)
        return high, wide

    def __call__(self, frames_nHWC: Tensor) -> Tensor:
        """The frames in their new size, uint8 `[n, h, w, 3]`."""
        height, width = frames_nHWC.shape[1:3]
        frames = resize(frames_nHWC, self.resized(height, width), self.filter)
        return centre_crop(frames, self.result(height, width))


def resize(frames_nHWC: Tensor, size: tuple[int, int], filter: str = "bilinear") -> Tensor:
    """Frames of any dtype stretched to (height, width); uint8 is rounded and clamped."""
    if tuple(frames_nHWC.shape[1:3]) == tuple(size):
        return frames_nHWC
    planes = frames_nHWC.permute(0, 3, 1, 2)  # channels last in memory, for which torch has fast kernels on bytes
    shrunk = F.interpolate(planes, size=tuple(size), mode=filter, align_corners=False, antialias=True)
    return shrunk.permute(0, 2, 3, 1).contiguous()


def centre_crop(frames_nHWC: Tensor, size: tuple[int, int]) -> Tensor:
    """The middle (height, width) of frames; of an odd remainder the larger part is cut at the bottom and the right."""
    top, left = ((have - want) // 2 for have, want in zip(frames_nHWC.shape[1:3], size, strict=True))
    return frames_nHWC[:, top : top + size[0], left : left + size[1]]


def _proportion(side: int, short: int, shorter: int) -> int:
    return max(1, (2 * side * short + shorter) // (2 * shorter))
