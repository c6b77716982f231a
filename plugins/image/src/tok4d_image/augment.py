"""Options and augmentations that all image sources share.

H = height, W = width. Pixels are `[3, H, W]`, uint8 or float32 in [0, 1]; pictures that leave here are float32 in
[-1, 1]. Every random draw comes from the generator given: the same generator state gives the same picture.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tok4d.errors import ConfigError, unknown_name
from tok4d_image.pixels import to_signed
from tok4d_image.reading import MAX_PIXELS, ReadOptions

FLIPS = ("horizontal", "vertical", "transpose")
_JITTER_CHANCE = 0.7


@dataclass
class ImageOptions:
    """How pictures are read, augmented for training and limited for evaluation.

    Attributes:
        size: side of the random training crop in pixels; 0 keeps the whole picture. A picture shorter than that stays
            as it is in that direction.
        resolutions: short sides to draw from; the picture is shrunk (antialiased) to the one drawn, never enlarged.
        min_scale: the picture is further shrunk by a factor drawn between this and 1, evenly in its logarithm, as long
            as the crop still fits.
        flips: `horizontal`, `vertical`, `transpose`, each with probability 1/2.
        jitter: strength of the colour jitter in [0, 1]; see `jitter_colours`.
        max_side: evaluation shrinks pictures whose longer side exceeds this; 0: never.
        cache_mb: decoded pictures kept in memory, in megabytes per process.
        max_pixels, background: see `tok4d_image.reading.ReadOptions`.
    """

    size: int = 0
    resolutions: list[int] = field(default_factory=list)
    min_scale: float = 1.0
    flips: list[str] = field(default_factory=list)
    jitter: float = 0.0
    max_side: int = 0
    cache_mb: int = 256
    max_pixels: int = MAX_PIXELS
    background: str = "white"

    def check(self) -> None:
        """Refuse options out of range.

        Raises:
            ConfigError: naming option and value.
        """
        for name in self.flips:
            if name not in FLIPS:
                raise ConfigError(unknown_name("flip", name, FLIPS))
        if not 0 < self.min_scale <= 1:
            raise ConfigError(f"min_scale must be in (0, 1], got {self.min_scale}")
        if not 0 <= self.jitter <= 1:
            raise ConfigError(f"jitter must be in [0, 1], got {self.jitter}")
        if min([self.size, self.max_side, self.cache_mb]) < 0 or min(self.resolutions, default=1) < 1:
            raise ConfigError("size, max_side and cache_mb must be at least 0, resolutions at least 1")
        _ = self.read_options

    @cached_property
    def read_options(self) -> ReadOptions:
        """The options of reading one file."""
        return ReadOptions(max_pixels=self.max_pixels, background=self.background)

    @cached_property
    def cache(self) -> PixelCache:
        """Decoded pictures of this source."""
        return PixelCache(self.cache_mb * 1_000_000)

    def present(self, pixels: Tensor, rng: np.random.Generator | None) -> Tensor:
        """The picture of a sample, float32 in [-1, 1]: augmented with `rng`, else whole up to `max_side`."""
        if rng is None:
            longer = max(pixels.shape[1:])
            scale = self.max_side / longer if 0 < self.max_side < longer else 1.0
            return shrink(to_signed(pixels), scale)
        scale = self._draw_scale(min(pixels.shape[1:]), rng)
        image = random_crop(pixels, self.size, scale, rng)
        return jitter_colours(random_flips(image, self.flips, rng), self.jitter, rng)

    def _draw_scale(self, short: int, rng: np.random.Generator) -> float:
        """Factor in (0, 1] by which a picture with this short side is shrunk."""
        scale = 1.0
        if self.resolutions:
            scale = min(1.0, int(rng.choice(self.resolutions)) / short)
        if self.min_scale < 1:
            scale *= float(np.exp(rng.uniform(np.log(self.min_scale), 0.0)))
            if self.size:
                scale = max(scale, min(1.0, self.size / short))
        return scale


class PixelCache:
    """Least recently used pictures up to a bound in bytes; empty after pickling to a worker."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self._kept: OrderedDict[Hashable, tuple[Tensor, dict[str, Any]]] = OrderedDict()

    def __reduce__(self) -> tuple[type[PixelCache], tuple[int]]:
        return PixelCache, (self.limit,)

    def get(self, key: Hashable, make: Callable[[], tuple[Tensor, dict[str, Any]]]) -> tuple[Tensor, dict[str, Any]]:
        """The picture of a key, made now if it is not kept. It is shared: do not change it in place."""
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        made = make()
        size = made[0].numel() * made[0].element_size()
        if size <= self.limit:
            self._kept[key] = made
            self.used += size
            while self.used > self.limit:
                _, (dropped, _) = self._kept.popitem(last=False)
                self.used -= dropped.numel() * dropped.element_size()
        return made


def shrink(image: Tensor, scale: float, floor: int = 1) -> Tensor:
    """Resize `[3, H, W]` by a factor up to 1, bilinear with antialiasing; no side below `floor`."""
    if scale >= 1:
        return image
    height, width = (max(floor, round(side * scale)) for side in image.shape[1:])
    return F.interpolate(image[None], size=(height, width), mode="bilinear", align_corners=False, antialias=True)[0]


def random_crop(pixels: Tensor, size: int, scale: float, rng: np.random.Generator) -> Tensor:
    """A random square of `size` out of the picture shrunk by `scale`, float32 in [-1, 1].

    Cut first, then shrunk: only the pixels that are needed are touched.
    """
    if size == 0:
        return shrink(to_signed(pixels), scale)
    spans = [min(side, max(1, round(size / scale))) for side in pixels.shape[1:]]
    top, left = (int(rng.integers(side - span + 1)) for side, span in zip(pixels.shape[1:], spans, strict=True))
    image = to_signed(pixels[:, top : top + spans[0], left : left + spans[1]])
    if scale >= 1:
        return image
    height, width = (min(size, max(1, round(span * scale))) for span in spans)
    return F.interpolate(image[None], size=(height, width), mode="bilinear", align_corners=False, antialias=True)[0]


def random_flips(image: Tensor, flips: list[str], rng: np.random.Generator) -> Tensor:
    """Each flip with probability 1/2; `transpose` swaps rows and columns."""
    for name in FLIPS:
        if name in flips and rng.random() < 0.5:
            image = {"horizontal": image.flip(2), "vertical": image.flip(1), "transpose": image.transpose(1, 2)}[name]
    return image.contiguous()


def jitter_colours(image: Tensor, strength: float, rng: np.random.Generator) -> Tensor:
    """With probability 0.7: channels permuted, each scaled, all scaled and lifted; clamped to [-1, 1].

    At strength 1 a channel keeps 50 to 100% of its light, the picture 60 to 100% of that, and up to 0.3 of the range
    [0, 2] is added; strength 0 changes nothing and draws nothing.
    """
    if strength == 0 or rng.random() >= _JITTER_CHANCE:
        return image
    order = rng.permutation(3)
    per_channel = 1 - 0.5 * strength * rng.random(3)
    overall = 1 - 0.4 * strength * rng.random()
    lift = 0.3 * strength * rng.random()
    scale = torch.from_numpy(per_channel * overall).to(image.dtype)[:, None, None]
    return ((image[torch.from_numpy(order)] + 1) * scale + (lift - 1)).clamp(-1, 1)
