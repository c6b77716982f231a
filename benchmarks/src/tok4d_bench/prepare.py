"""How samples come to the size that a protocol asks for: pictures and clips, as 8-bit values.

F = frames, H = height, W = width, h, w = new ones. Pictures are `[3, H, W]` and clips `[F, 3, H, W]`, float32 in
[-1, 1]. What leaves here holds 8-bit levels exactly, as a file would: 0..255 mapped to [-1, 1].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from tok4d.errors import ConfigError, DataError, unknown_name
from tok4d.modality import Sample
from tok4d.options import from_options
from tok4d.plugins.registry import modality

FILTERS = ("bilinear", "bicubic", "lanczos", "area")
_PILLOW = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "area": Image.Resampling.BOX,
}
_ONE, _HALF = np.float32(1), np.float32(127.5)
Sides = tuple[int, int]  # height, width


@dataclass(frozen=True)
class Prepare:
    """The sizes of a protocol. Resizing and cropping follow torchvision's rules on Pillow images.

    Attributes:
        short: shorter side in pixels, the longer one in proportion (rounded down); 0: as it is.
        size: exact (height, width) instead; pictures are stretched to it.
        crop: side of a square, or (height, width), cut from the centre afterwards; 0: nothing is cut.
        filter: `bilinear`, `bicubic`, `lanczos` or `area` (Pillow's box filter).
        antialias: with it Pillow resizes, whose filters widen as they shrink; without it torch does, whose `bilinear`
            and `bicubic` look at the nearest pixels only and whose `area` takes means of whole pixels.
        enlarge: whether smaller pictures are enlarged to `short`.
        frames: of a clip, spread evenly: frame i * (N - 1) / (frames - 1), rounded down; 0: all.
        stride: of a clip every how many-th frame, before `frames`.
        fps: frames a second to take instead of by stride; 0: all.
        round: whether reconstructions are clamped and rounded to 8 bits before they are measured.
    """

    short: int = 0
    size: tuple[int, int] | None = None
    crop: int | tuple[int, int] = 0
    filter: str = "bicubic"
    antialias: bool = True
    enlarge: bool = True
    frames: int = 0
    stride: int = 1
    fps: float = 0.0
    round: bool = True

    def __post_init__(self) -> None:
        if self.filter not in FILTERS:
            raise ConfigError(unknown_name("resize filter", self.filter, FILTERS))
        if self.filter == "lanczos" and not self.antialias:
            raise ConfigError("the filter lanczos has no form without antialias; choose bicubic, or antialias: true")
        if self.short and self.size:
            raise ConfigError(f"prepare: give short or size, not both: got {self.short} and {self.size}")
        for name, value in (("short", self.short), ("frames", self.frames), ("stride", self.stride - 1)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise ConfigError(f"prepare: {name} is {getattr(self, name)!r}; it must be a whole number of pixels")
        if self.stride != 1 and self.fps:
            raise ConfigError(f"prepare: give stride or fps, not both: got {self.stride} and {self.fps}")
        if not 0 <= self.fps < 10_000:
            raise ConfigError(f"prepare: fps must be at least 0, got {self.fps}")
        for name in ("size", "crop"):
            value = getattr(self, name)
            pair = value if isinstance(value, tuple) else (value, value)
            if value and (len(pair) != 2 or not all(isinstance(side, int) and side > 0 for side in pair)):
                raise ConfigError(f"prepare: {name} must be pixels or [height, width], got {value!r}")

    @classmethod
    def parse(cls, options: Mapping[str, Any]) -> Prepare:
        """From a suite file.

        Raises:
            ConfigError: for an unknown option, with the nearest, or values that cannot be used.
        """
        tuples = {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}
        return from_options(cls, tuples, "option of prepare")

    def protocol(self) -> dict[str, Any]:
        """What enters a fingerprint."""
        rules = {
            "resizer": "pillow" if self.antialias else "torch",
            "proportion": "floor",
            "range": "8 bits in [-1, 1]",
        }
        return asdict(self) | rules

    @property
    def sizes(self) -> bool:
        """Whether anything is resized or cropped."""
        return bool(self.short or self.size or self.crop)

    def resized(self, height: int, width: int) -> Sides:
        """Height and width before cropping."""
        if self.size:
            return self.size
        short, long = min(height, width), max(height, width)
        if not self.short or short == self.short or (short < self.short and not self.enlarge):
            return height, width
        other = max(1, self.short * long // short)
        return (self.short, other) if height <= width else (other, self.short)

    def cropped(self) -> Sides | None:
        """Height and width of the crop."""
        return self.crop if isinstance(self.crop, tuple) else (self.crop, self.crop) if self.crop else None

    def apply(self, sample: Sample) -> Sample:
        """The sample as the protocol wants it: 8-bit levels, resized and cropped.

        Raises:
            ConfigError: for sizes of something that is no picture and no clip.
            DataError: for a picture that is smaller than the crop.
        """
        field = modality(sample.modality).field
        values = sample.data[field]
        if not is_pictures(values):
            if self.sizes:
                raise ConfigError(
                    f"prepare can resize pictures and clips; {sample.modality}.{field} is {list(values.shape)}: "
                    "leave out short, size and crop, and choose the size by the source's options"
                )
            return sample
        size = self.resized(*values.shape[-2:])
        if size == tuple(values.shape[-2:]):
            crop = self.cropped()
            made = quantized(values if crop is None else centre_crop(values, crop, sample.key))
        else:
            frames = to_levels(values[None] if values.ndim == 3 else values)
            sized = from_levels(torch.stack([self._frame(frame, size, sample.key) for frame in frames]))
            made = sized if values.ndim == 4 else sized[0]
        return replace(sample, data={**sample.data, field: made})

    def rounded(self, sample: Sample) -> Sample:
        """A reconstruction as it would come back from a file, where `round` says so and it is pictures."""
        field = modality(sample.modality).field
        if not self.round or field not in sample.data or not is_pictures(sample.data[field]):
            return sample
        return replace(sample, data={**sample.data, field: quantized(sample.data[field])})

    def _frame(self, frame_3HW: Tensor, size: Sides, key: str) -> Tensor:
        resized = resize(frame_3HW, size, self.filter, self.antialias)
        return resized if (crop := self.cropped()) is None else centre_crop(resized, crop, key)


def is_pictures(values: Tensor) -> bool:
    """Whether a tensor is a picture `[3, H, W]` or a clip `[F, 3, H, W]`."""
    return values.is_floating_point() and values.ndim in (3, 4) and values.shape[-3] == 3


def to_levels(values: Tensor) -> Tensor:
    """uint8 of values in [-1, 1], clamped and rounded to the nearest level.

    Raises:
        DataError: for values that are not finite: they have no level.
    """
    return torch.from_numpy(_levels(values).astype(np.uint8))


def quantized(values: Tensor) -> Tensor:
    """Values in [-1, 1] clamped and rounded to 8-bit levels, float32: what `from_levels(to_levels(values))` gives."""
    levels = _levels(values)
    levels /= _HALF
    levels -= _ONE
    return torch.from_numpy(levels)


def _levels(values: Tensor) -> NDArray[np.float32]:
    """Levels as float32 in an array of its own, by few passes: a run spends its own time here."""
    given = values.numpy(force=True).astype(np.float32, copy=False)
    least, most = (given.min(), given.max()) if given.size else (_ONE, _ONE)
    if not np.isfinite([least, most]).all():  # NaN is passed on
        raise DataError("sample", "has values that are not finite")
    levels = given + _ONE if least >= -1 and most <= 1 else np.clip(given, -1, 1) + _ONE
    levels *= _HALF
    return np.rint(levels, out=levels)


def from_levels(levels: Tensor) -> Tensor:
    """float32 in [-1, 1] of uint8."""
    return levels.float().div_(127.5).sub_(1)


def resize(frame_3HW: Tensor, size: Sides, filter: str, antialias: bool) -> Tensor:
    """A picture uint8 `[3, H, W]` stretched to (h, w), uint8 `[3, h, w]`."""
    if antialias:
        picture = Image.fromarray(frame_3HW.permute(1, 2, 0).contiguous().numpy())
        resized = picture.resize((size[1], size[0]), _PILLOW[filter])
        return torch.from_numpy(np.array(resized)).permute(2, 0, 1)
    align = None if filter == "area" else False
    wide = F.interpolate(frame_3HW[None].float(), size, mode=filter, align_corners=align, antialias=False)
    return wide[0].round_().clamp_(0, 255).to(torch.uint8)


def centre_crop(frame_3HW: Tensor, size: Sides, key: str = "") -> Tensor:
    """The middle (h, w) of a picture; an odd rest is halved to the even side, as torchvision does.

    Raises:
        DataError: when the picture is smaller.
    """
    height, width = frame_3HW.shape[1:]
    if height < size[0] or width < size[1]:
        raise DataError(key or "sample", f"{height} x {width} pixels are too small for a crop of {size[0]} x {size[1]}")
    top, left = round((height - size[0]) / 2), round((width - size[1]) / 2)
    return frame_3HW[:, top : top + size[0], left : left + size[1]]
