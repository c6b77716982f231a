"""Which frames of a file become a sample, and at what size: the options of reading."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from tok4d.errors import ConfigError
from tok4d.options import from_options
from tok4d_video.ffmpeg import MAX_PIXELS
from tok4d_video.reading import Clip, ClipOptions, open_clip
from tok4d_video.resizing import Resize
from tok4d_video.sampling import Indices, at_rate, in_span, uniform


@dataclass(frozen=True)
class ReadOptions:
    """Options of reading a clip; by default all frames at native size.

    Attributes:
        reader, background, max_pixels, threads: see `tok4d_video.reading.ClipOptions`.
        size: shorter side in pixels, the other in proportion; never enlarged; 0: as it is.
        filter: `bilinear` or `bicubic`, antialiased.
        start, end: seconds after the first frame; None: to the end.
        stride: every how many-th frame.
        rate: frames per second to take instead; 0: by stride.
        frames: most frames to take: the first ones, or with `spread` evenly from the first to the last.
        spread: see `frames`.
    """

    reader: str = "auto"
    background: str = "white"
    max_pixels: int = MAX_PIXELS
    threads: int = 1
    size: int = 0
    filter: str = "bilinear"
    start: float = 0.0
    end: float | None = None
    stride: int = 1
    rate: float = 0.0
    frames: int = 0
    spread: bool = False

    def __post_init__(self) -> None:
        self.clip_options()
        self.resize()
        for name, low in (("stride", 1), ("rate", 0), ("frames", 0), ("start", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value < np.inf:
                raise ConfigError(f"video option {name} must be a number of at least {low}, got {value!r}")
        if self.rate and self.stride != 1:
            raise ConfigError(f"give stride or rate, not both: got {self.stride} and {self.rate}")
        if self.end is not None and not self.end > self.start:
            raise ConfigError(f"video option end must be after start, got {self.start} to {self.end} s")

    @classmethod
    def parse(cls, options: Mapping[str, Any]) -> ReadOptions:
        """From keyword arguments; raises `ConfigError` that names an unknown option and the known ones."""
        return from_options(cls, options, "video option")

    def clip_options(self) -> ClipOptions:
        """The part that opens a file."""
        return ClipOptions(self.reader, self.background, self.max_pixels, self.threads)

    def resize(self) -> Resize:
        """The part that sizes frames."""
        return Resize(short=self.size, filter=self.filter)

    def open(self, path: Any) -> Clip:
        """The file; errors as `tok4d_video.reading.open_clip`."""
        part = self.clip_options()
        return open_clip(path, **{field.name: getattr(part, field.name) for field in fields(part)})

    def choose(self, clip: Clip) -> Indices:
        """Numbers of the frames to take, rising, at least one."""
        chosen = np.arange(len(clip))
        if self.start or self.end is not None:
            end = float(clip.times[-1]) + 1e9 if self.end is None else self.end
            chosen = in_span(clip.times, self.start, end)
        if self.rate:
            chosen = chosen[at_rate(clip.times[chosen], self.rate)]
        chosen = chosen[:: self.stride]
        if self.frames and len(chosen) > self.frames:
            chosen = chosen[uniform(len(chosen), self.frames)] if self.spread else chosen[: self.frames]
        return chosen

    def fps(self, clip: Clip, chosen: Indices) -> float:
        """Frames per second of the frames chosen."""
        if self.rate or self.spread:
            span = float(clip.times[chosen[-1]] - clip.times[chosen[0]])
            return (len(chosen) - 1) / span if span > 0 else float(clip.fps)
        return float(clip.fps / self.stride)
