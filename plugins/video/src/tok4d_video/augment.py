"""Options of all video sources: which frames of a clip are taken, and how they are cut and augmented.

N = frames in a clip, n = frames taken, H = height, W = width. Frames are uint8 `[n, H, W, 3]` until the last step;
samples are float32 `[n, 3, H, W]` in [-1, 1]. Every random draw comes from the generator given: the same state gives
the same clip, whoever loads it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from tok4d.errors import ConfigError, unknown_name
from tok4d.modality import CHANNELS, Sample
from tok4d_video.decoded import OPEN, ClipStore, Facts, Opener
from tok4d_video.ffmpeg import MAX_PIXELS
from tok4d_video.pixels import to_signed
from tok4d_video.reading import Clip, ClipOptions, open_clip
from tok4d_video.resizing import Resize, resize
from tok4d_video.sampling import at_rate, consecutive, uniform

FIELD = "video"
FLIPS = ("horizontal", "vertical", "transpose", "time")
POLICIES = ("stride", "uniform", "fps")

Indices = NDArray[np.int64]
Span = Callable[[Facts], Indices]


def whole(facts: Facts) -> Indices:
    """The span that is the whole clip."""
    return np.arange(len(facts))


@dataclass
class VideoOptions:
    """How clips are sampled, augmented for training, and presented for evaluation.

    A clip shorter than asked is taken whole. Evaluation takes the middle of the clip at the smallest stride, the
    largest of `resolutions`, and the middle of the picture.

    Attributes:
        frames: frames a sample.
        longest: of the policy `stride`: training draws the number of frames evenly from `frames` to this; 0: `frames`.
        policy: `stride`: consecutive frames at a stride from `strides`, from a random place; `uniform`: spread evenly
            from the first to the last; `fps`: `fps` frames a second, up to `max_frames`, fewer a second of a longer
            clip.
        strides: smallest and largest stride, both drawn too. One that does not fit into the clip is lowered.
        fps, max_frames: of the policy `fps`.
        resolutions: short sides to draw from, in pixels; frames are shrunk (antialiased), never enlarged; empty: native
            size.
        size: side of the square that is cut out, at random in training; 0 keeps whole frames. Frames shorter than that
            stay as they are in that direction.
        flips: `horizontal`, `vertical`, `transpose`, `time`, each with probability 1/2. A caption that tells a
            direction is no longer true then.
        cache_mb: decoded clips, shrunk to the largest resolution, kept in memory, in megabytes per process.
        reader, background, max_pixels, threads: see `tok4d_video.reading.ClipOptions`.
    """

    frames: int = 16
    longest: int = 0
    policy: str = "stride"
    strides: list[int] = field(default_factory=lambda: [1, 3])
    fps: float = 1.0
    max_frames: int = 64
    resolutions: list[int] = field(default_factory=list)
    size: int = 0
    flips: list[str] = field(default_factory=list)
    cache_mb: int = 256
    reader: str = "auto"
    background: str = "white"
    max_pixels: int = MAX_PIXELS
    threads: int = 1

    def check(self) -> None:
        """Refuse options out of range.

        Raises:
            ConfigError: naming option and value.
        """
        if self.policy not in POLICIES:
            raise ConfigError(unknown_name("frame policy", self.policy, POLICIES))
        for name in self.flips:
            if name not in FLIPS:
                raise ConfigError(unknown_name("flip", name, FLIPS))
        if len(self.strides) != 2 or not 1 <= self.strides[0] <= self.strides[1]:
            raise ConfigError(f"strides must be [smallest, largest] with 1 <= smallest, got {list(self.strides)}")
        if self.frames < 1 or self.max_frames < 1:
            raise ConfigError(f"frames and max_frames must be at least 1, got {self.frames} and {self.max_frames}")
        if self.longest and (self.longest < self.frames or self.policy != "stride"):
            raise ConfigError(
                f"longest goes with policy: stride and is at least frames, got longest {self.longest}, frames "
                f"{self.frames}, policy {self.policy!r}"
            )
        if not self.fps > 0:
            raise ConfigError(f"fps must be above 0, got {self.fps}")
        if min(self.size, self.cache_mb) < 0 or min(self.resolutions, default=1) < 1:
            raise ConfigError(
                f"size and cache_mb must be at least 0, resolutions at least 1: got {self.size}, {self.cache_mb}, "
                f"{list(self.resolutions)}"
            )
        _ = self.clip_options

    @cached_property
    def clip_options(self) -> dict[str, Any]:
        """Keyword arguments of `open_clip`."""
        names = ("reader", "background", "max_pixels", "threads")
        options = {name: getattr(self, name) for name in names}
        ClipOptions.parse(options)
        return options

    @cached_property
    def store(self) -> ClipStore:
        """Decoded and open clips of this source."""
        return self.make_store(self.cache_mb * 1_000_000, OPEN)

    def make_store(self, limit: int, open_files: int) -> ClipStore:
        """A store of so many bytes and files; sources whose clips are no lasting files ask for less."""
        return ClipStore(limit, Resize(short=max(self.resolutions, default=0)), open_files)

    def opener(self, path: str | Path) -> Callable[[], Clip]:
        """Opens a file with these options."""
        return lambda: open_clip(path, **self.clip_options)

    def present(
        self, sample: Sample, name: str, opener: Opener, rng: np.random.Generator | None, span: Span = whole
    ) -> Sample:
        """Fill a sample with frames out of a span of a clip, augmented where there is a generator.

        `fps` becomes the rate of the frames taken; `meta` says which those are (`frame_numbers`), how many the clip has
        (`clip_frames`), and who read it (`reader`).

        Args:
            name: names the clip in the cache.
            opener: opens the clip.
            span: the numbers of the frames that may be taken, consecutive.

        Raises:
            DataError: when the clip cannot be used.
        """
        frames, numbers, facts = self.store.take(name, opener, lambda facts: self._choose(facts, span(facts), rng))
        sample.data[FIELD] = to_signed(self._crop(frames, rng))
        distance = int(numbers[-1] - numbers[0])
        sample.fps = float(facts.fps) * (len(numbers) - 1) / distance if distance else float(facts.fps)
        sample.meta |= {"reader": facts.reader, "clip_frames": len(facts), "frame_numbers": numbers.tolist()}
        return sample

    def _choose(self, facts: Facts, allowed: Indices, rng: np.random.Generator | None) -> Indices:
        if self.policy == "uniform":
            return allowed[uniform(len(allowed), self.frames)]
        if self.policy == "fps":
            return allowed[at_rate(facts.times[allowed], self.fps, self.max_frames)]
        if rng is None:
            return allowed[middle(len(allowed), self.frames, self.strides[0])]
        count = self.frames if not self.longest else int(rng.integers(self.frames, self.longest + 1))
        return allowed[consecutive(len(allowed), count, (self.strides[0], self.strides[1]), rng)]

    @property
    def most_frames(self) -> int:
        """Frames of the longest training sample."""
        return self.max_frames if self.policy == "fps" else max(self.frames, self.longest)

    def largest_shape(self) -> tuple[int, ...] | None:
        """Shape of the largest training sample; None without `size`, which leaves frames as they come."""
        return (self.most_frames, CHANNELS, self.size, self.size) if self.size else None

    def presented(
        self, name: str, opener: Opener, rng: np.random.Generator | None, span: Span = whole
    ) -> tuple[int, int, int, int]:
        """Shape of what `present` gives for the same arguments, by the same draws and without decoding.

        A clip is opened once to be measured.

        Raises:
            DataError: when the clip cannot be opened.
        """
        if name not in self._measured:
            self._measured[name] = self.store.measure(name, opener)
        facts, height, width = self._measured[name]
        count = len(self._choose(facts, span(facts), rng))
        high, wide, *sides = self._sides(height, width, rng)
        if rng is not None and "transpose" in self.flips:
            _corner(height - high, width - wide, rng)
            if "transpose" in _drawn(self.flips, rng):
                sides.reverse()
        return count, CHANNELS, sides[0], sides[1]

    @cached_property
    def _measured(self) -> dict[str, tuple[Facts, int, int]]:
        return {}

    def _crop(self, frames_nHWC: Tensor, rng: np.random.Generator | None) -> Tensor:
        """Frames at a resolution drawn, cut and flipped. Cut first, then shrunk: only the pixels needed are touched."""
        height, width = frames_nHWC.shape[1:3]
        high, wide, *sides = self._sides(height, width, rng)
        top, left = _corner(height - high, width - wide, rng)
        frames = resize(frames_nHWC[:, top : top + high, left : left + wide], (sides[0], sides[1]))
        return frames if rng is None else _flipped(frames, self.flips, rng)

    def _sides(self, height: int, width: int, rng: np.random.Generator | None) -> tuple[int, int, int, int]:
        """Height and width of the part that is cut out, and of what it is shrunk to."""
        scale = 1.0
        if self.resolutions:
            short = max(self.resolutions) if rng is None else int(rng.choice(self.resolutions))
            scale = min(1.0, short / min(height, width))
        limit = self.size or max(height, width)
        high, wide = (min(side, max(1, round(limit / scale))) for side in (height, width))
        return high, wide, _shrunk(high, scale, limit), _shrunk(wide, scale, limit)


def _shrunk(side: int, scale: float, limit: int) -> int:
    return min(limit, max(1, round(side * scale)))


def middle(total: int, count: int, stride: int) -> Indices:
    """`count` of `total` frames at a stride, from the middle; as `tok4d_video.sampling.consecutive` without chance."""
    if total <= count:
        return np.arange(total)
    if count > 1:
        stride = min(stride, (total - 1) // (count - 1))
    return (total - 1 - (count - 1) * stride) // 2 + stride * np.arange(count)


def _corner(below: int, right: int, rng: np.random.Generator | None) -> tuple[int, int]:
    """Where a part of the frames begins that leaves so many rows and columns out: at random, or in the middle."""
    if rng is None:
        return below // 2, right // 2
    return int(rng.integers(below + 1)), int(rng.integers(right + 1))


def _drawn(flips: list[str], rng: np.random.Generator) -> list[str]:
    """Which of these flips are done: each with probability 1/2."""
    return [name for name in FLIPS if name in flips and rng.random() < 0.5]


def _flipped(frames_nHWC: Tensor, flips: list[str], rng: np.random.Generator) -> Tensor:
    for name in _drawn(flips, rng):
        if name == "transpose":
            frames_nHWC = frames_nHWC.transpose(1, 2)
        else:
            frames_nHWC = frames_nHWC.flip({"time": 0, "vertical": 1, "horizontal": 2}[name])
    return frames_nHWC
