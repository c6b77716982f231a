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
from tok4d.modality import CHANNELS
from tok4d_image.pixels import to_signed
from tok4d_image.reading import MAX_PIXELS, ReadOptions

FLIPS = ("horizontal", "vertical", "transpose")
_JITTER_CHANCE = 0.7

Sides = tuple[int, int]  # height, width


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

    @cached_property
    def sizes(self) -> dict[Hashable, Sides]:
        """Height and width of the pictures whose headers were read, by name."""
        return {}

    def size_of(self, key: Hashable, measure: Callable[[], Sides]) -> Sides:
        """Height and width of a picture, measured now if they are not known."""
        if key not in self.sizes:
            self.sizes[key] = measure()
        return self.sizes[key]

    def largest_shape(self) -> tuple[int, ...] | None:
        """Shape of the largest training crop; None without `size`, which leaves pictures as they come."""
        return (CHANNELS, self.size, self.size) if self.size else None

    def present(self, pixels: Tensor, rng: np.random.Generator | None) -> Tensor:
        """The picture of a sample, float32 in [-1, 1]: augmented with `rng`, else whole up to `max_side`."""
        if rng is None:
            longer = max(pixels.shape[1:])
            scale = self.max_side / longer if 0 < self.max_side < longer else 1.0
            return shrink(to_signed(pixels), scale)
        scale = self._draw_scale(min(pixels.shape[1:]), rng)
        image = random_crop(pixels, self.size, scale, rng)
        return jitter_colours(random_flips(image, self.flips, rng), self.jitter, rng)

    def presented(self, size: Sides, rng: np.random.Generator | None) -> tuple[int, int, int]:
        """Shape of what `present` makes of a picture of (height, width), by the same draws."""
        if rng is None:
            longer = max(size)
            return CHANNELS, *shrunk(size, self.max_side / longer if 0 < self.max_side < longer else 1.0)
        scale = self._draw_scale(min(size), rng)
        if "transpose" not in self.flips:  # then nothing that is drawn later changes the shape
            return CHANNELS, *window_sides(size, self.size, scale)[1]
        _, sides = draw_window(size, self.size, scale, rng)
        return CHANNELS, *(sides[::-1] if "transpose" in draw_flips(self.flips, rng) else sides)

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


def shrunk(sides: Sides, scale: float, floor: int = 1) -> Sides:
    """Height and width times a factor up to 1, none below `floor`."""
    if scale >= 1:
        return sides
    return max(floor, round(sides[0] * scale)), max(floor, round(sides[1] * scale))


def shrink(image: Tensor, scale: float, floor: int = 1) -> Tensor:
    """Resize `[3, H, W]` by a factor up to 1, bilinear with antialiasing; no side below `floor`."""
    return image if scale >= 1 else _resized(image, shrunk((image.shape[1], image.shape[2]), scale, floor))


def _resized(image: Tensor, sides: Sides) -> Tensor:
    return F.interpolate(image[None], size=sides, mode="bilinear", align_corners=False, antialias=True)[0]


def window_sides(sides: Sides, size: int, scale: float) -> tuple[Sides, Sides]:
    """Height and width of the part of a picture that a crop cuts out, and of what it is shrunk to.

    Args:
        size: side of the crop after shrinking; 0: everything.
        scale: factor by which the picture is shrunk.
    """
    if size == 0:
        return sides, shrunk(sides, scale)
    height, width = (min(side, max(1, round(size / scale))) for side in sides)
    if scale >= 1:
        return (height, width), (height, width)
    return (height, width), (min(size, max(1, round(height * scale))), min(size, max(1, round(width * scale))))


def draw_window(sides: Sides, size: int, scale: float, rng: np.random.Generator) -> tuple[tuple[slice, slice], Sides]:
    """Where a crop cuts, and the height and width it is shrunk to; arguments as in `window_sides`."""
    spans, after = window_sides(sides, size, scale)
    if size == 0:  # nothing is drawn
        return (slice(None), slice(None)), after
    top, left = (int(rng.integers(side - span + 1)) for side, span in zip(sides, spans, strict=True))
    return (slice(top, top + spans[0]), slice(left, left + spans[1])), after


def random_crop(pixels: Tensor, size: int, scale: float, rng: np.random.Generator) -> Tensor:
    """A random square of `size` out of the picture shrunk by `scale`, float32 in [-1, 1].

    Cut first, then shrunk: only the pixels that are needed are touched.
    """
    (rows, columns), sides = draw_window((pixels.shape[1], pixels.shape[2]), size, scale, rng)
    image = to_signed(pixels[:, rows, columns])
    return image if scale >= 1 else _resized(image, sides)


def draw_flips(flips: list[str], rng: np.random.Generator) -> list[str]:
    """Which of these flips are done: each with probability 1/2."""
    return [name for name in FLIPS if name in flips and rng.random() < 0.5]


def random_flips(image: Tensor, flips: list[str], rng: np.random.Generator) -> Tensor:
    """Each flip with probability 1/2; `transpose` swaps rows and columns."""
    for name in draw_flips(flips, rng):
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
