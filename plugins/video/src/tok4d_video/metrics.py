"""Metrics of videos: per frame, and of how frames change. All take a video whole or in consecutive pieces.

F = frames, N = frames of one chunk, H = height, W = width. Videos are `[F, 3, H, W]` in [-1, 1], values outside are
clamped, as they would be when written. Sums are float64 and made frame by frame, so neither pieces nor chunks matter.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tok4d.errors import ConfigError, Tok4dError
from tok4d.metrics import CAP_DB, PieceMean, decibels
from tok4d.ssim import ssim

__all__ = ["VideoFramePSNR", "VideoPerceptual", "VideoSSIM", "VideoSeamFlicker", "VideoTemporal"]

CHUNK_VALUES = 2**19  # taken at once, or one frame where that is more: larger tensors cost a fresh page each 4 kB
GREY_LEVELS = 127.5  # 8-bit levels per unit of [-1, 1]


class _VideoMean(PieceMean):
    """A `PieceMean` that gets its frames in small chunks, clamped.

    A subclass implements `take` and `result`, and extends `begin`.
    """

    frames: int

    def begin(self) -> None:
        self.frames = 0

    @abstractmethod
    def take(self, reconstruction: Tensor, target: Tensor) -> None:
        """Take in the next frames `[N, 3, H, W]`; `self.frames` came before them."""

    @abstractmethod
    def result(self) -> float:
        """Score of the frames taken in; there is at least one."""

    @torch.no_grad()
    def more(self, reconstruction: Tensor, target: Tensor) -> None:
        if target.ndim != 4:
            raise Tok4dError(f"{self.field} must be [frames, 3, height, width], got {list(target.shape)}")
        size = self.chunk(target[0].numel())
        for a, b in zip(reconstruction.split(size), target.split(size), strict=True):
            self.take(a.clamp(-1, 1), b.clamp(-1, 1))
            self.frames += len(b)

    def chunk(self, values: int) -> int:
        """How many frames of that many values to take at once."""
        return max(1, CHUNK_VALUES // values)

    def end(self) -> float:
        if self.frames == 0:
            raise Tok4dError(f"{type(self).__name__} has no frames to score; call piece before close")
        return self.result()


class _FrameMean(_VideoMean):
    """Mean over samples of the mean over a sample's frames of a score per frame."""

    def begin(self) -> None:
        super().begin()
        self.sum = 0.0

    @abstractmethod
    def scores(self, reconstruction: Tensor, target: Tensor) -> list[float]:
        """Score of each of the frames `[N, 3, H, W]`."""

    def take(self, reconstruction: Tensor, target: Tensor) -> None:
        for score in self.scores(reconstruction, target):
            self.sum += score

    def result(self) -> float:
        return self.sum / self.frames


class VideoFramePSNR(_FrameMean):
    """Mean over samples of the mean over frames of the PSNR in dB of every frame: data range 2, each at most `CAP_DB`.

    Never below `SamplePSNR`, which pools the error of all frames (the mean of logarithms is at most that of the
    mean), unless a frame is capped; the two agree when all frames are equally wrong.

    Args:
        field: key of the video `[F, 3, H, W]` in `Sample.data`.
    """

    def scores(self, reconstruction: Tensor, target: Tensor) -> list[float]:
        errors = (reconstruction.double() - target.double()).square_().flatten(1).mean(1)
        return [decibels(mse) for mse in errors.tolist()]


class VideoSSIM(_FrameMean):
    """Mean over samples of the mean over frames of SSIM, at most 1; see `tok4d.ssim.ssim` for the definition.

    Args:
        field: key of the video `[F, 3, H, W]` in `Sample.data`.
    """

    def scores(self, reconstruction: Tensor, target: Tensor) -> list[float]:
        values: list[float] = ssim(reconstruction, target).tolist()
        return values


class VideoPerceptual(_FrameMean):
    """Mean over samples of the mean over frames of a distance between frames, such as LPIPS. Lower is better.

    Args:
        field: key of the video `[F, 3, H, W]` in `Sample.data`.
        distance: `distance(a, b)` gives the distances `[N]` of frames `[N, 3, H, W]` in [-1, 1], in their own dtype
            and on their device. A module moves with the metric.
        frames_at_once: at most that many frames a call; a distance must not depend on the frames beside it.

    Raises:
        ConfigError: when `frames_at_once` is less than 1.
        Tok4dError: from `update` and `piece`, when the distances are not `[N]` or not finite.
    """

    higher_is_better = False

    def __init__(
        self, field: str, distance: Callable[[Tensor, Tensor], Tensor], frames_at_once: int = 8, **kwargs: Any
    ) -> None:
        if frames_at_once < 1:
            raise ConfigError(f"frames_at_once is {frames_at_once}; it must be at least 1")
        super().__init__(field, **kwargs)
        self.distance = distance
        self.frames_at_once = frames_at_once

    def chunk(self, values: int) -> int:
        return self.frames_at_once

    def scores(self, reconstruction: Tensor, target: Tensor) -> list[float]:
        found = self.distance(reconstruction, target)
        if found.shape != target.shape[:1]:
            raise Tok4dError(
                f"the distance of {self.field} must be [{len(target)}], one a frame; got {list(found.shape)}"
            )
        if not torch.isfinite(found).all():
            raise Tok4dError(f"the distance of {self.field} is not finite: {found.tolist()}")
        values: list[float] = found.tolist()
        return values


class _PairMean(_VideoMean):
    """A score of consecutive frames, also across the border of two chunks or pieces.

    Both look at (r[i+1] - r[i]) - (t[i+1] - t[i]) of a reconstruction r and its target t: how wrong a change is. It
    equals e[i+1] - e[i] with e = r - t, so one frame of e is all that is remembered.
    """

    last: Tensor | None

    def begin(self) -> None:
        super().begin()
        self.last = None

    @abstractmethod
    def pair(self, index: int, error: Tensor) -> None:
        """Take in the pair of frames `index` and `index + 1`; `error` `[3, H, W]` is float64 in [-4, 4]."""

    def take(self, reconstruction: Tensor, target: Tensor) -> None:
        if self.last is not None and self.last.shape != target.shape[1:]:
            shapes = f"{list(target.shape[1:])} after {list(self.last.shape)}"
            raise Tok4dError(f"pieces of one {self.field} differ in shape: frames of {shapes}")
        for index, frame in enumerate(reconstruction.double() - target.double(), start=self.frames - 1):
            if self.last is not None:
                self.pair(index, frame - self.last)
            self.last = frame
        assert self.last is not None
        self.last = self.last.clone()  # a view would keep the whole chunk


class VideoTemporal(_PairMean):
    """Temporal consistency: mean over samples of the PSNR in dB of frame differences, without any warping.

    The mean squared error is that of r[i+1] - r[i] against t[i+1] - t[i], over all values of all consecutive pairs of
    a video, pooled. The peak is 2, that of the frames, though a difference lies in [-2, 2]: so the value compares with
    the PSNR of the frames. An error that stays the same over time costs nothing; independent noise in every frame
    costs twice its power, so 3 dB less than the PSNR. At most `CAP_DB`; a video of one frame has no pairs and no
    change to get wrong: it scores `CAP_DB`.

    Args:
        field: key of the video `[F, 3, H, W]` in `Sample.data`.
    """

    def begin(self) -> None:
        super().begin()
        self.squares, self.values = 0.0, 0

    def pair(self, index: int, error: Tensor) -> None:
        self.squares += float(error.square().sum())
        self.values += error.numel()

    def result(self) -> float:
        return decibels(self.squares / self.values) if self.values else CAP_DB


class VideoSeamFlicker(_PairMean):
    """Flicker at tile seams, mean over samples, in 8-bit grey levels. Best at 0: seams do not show.

    The mean absolute error of frame differences (see `VideoTemporal`; times 127.5) over the pairs that cross a seam,
    frames (nk - 1, nk) of tiles of n frames, minus that mean over all other pairs. From -510 to 510; negative when
    the seams change less wrongly than the rest. Exactly 0 for a video of at most one tile, which has no seam.

    Args:
        field: key of the video `[F, 3, H, W]` in `Sample.data`.
        tile_frames: frames of a temporal tile.

    Raises:
        ConfigError: when `tile_frames` is less than 2: then all pairs would be seams.
    """

    higher_is_better = None

    def __init__(self, field: str, tile_frames: int = 16, **kwargs: Any) -> None:
        if tile_frames < 2:
            raise ConfigError(f"tile_frames is {tile_frames}; a tile must have at least 2 frames")
        super().__init__(field, **kwargs)
        self.tile_frames = tile_frames

    def begin(self) -> None:
        super().begin()
        self.seams, self.others = _Mean(), _Mean()

    def pair(self, index: int, error: Tensor) -> None:
        group = self.seams if (index + 1) % self.tile_frames == 0 else self.others
        group.add(float(error.abs().mean()))

    def result(self) -> float:
        return GREY_LEVELS * (self.seams.mean - self.others.mean) if self.seams.count else 0.0


class _Mean:
    """A running mean of numbers."""

    def __init__(self) -> None:
        self.sum, self.count = 0.0, 0

    def add(self, value: float) -> None:
        self.sum += value
        self.count += 1

    @property
    def mean(self) -> float:
        return self.sum / self.count
