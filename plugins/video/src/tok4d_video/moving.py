"""Generated clips: a coloured shape that moves over a background, with a caption that says how.

n = frames, H = height, W = width (equal here). Nothing but (seed, number, length, side) decides what a clip looks like.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tok4d.colours import COLOURS
from tok4d.data.source import GeneratedSource
from tok4d.errors import ConfigError, DataError
from tok4d.modality import Sample
from tok4d_video.augment import VideoOptions
from tok4d_video.decoded import ClipStore
from tok4d_video.resizing import Resize

FPS = Fraction(24)
SHAPES = ("disc", "square", "triangle", "ring")
MOTIONS = {
    "left": "moves left",
    "right": "moves right",
    "up": "moves up",
    "down": "moves down",
    "grows": "grows",
    "shrinks": "shrinks",
    "circles": "moves in a circle",
    "rests": "rests",
}
GROUNDS = ("plain", "shaded", "striped", "chequered")

_Plane = NDArray[np.float64]


@dataclass
class VideoMoving(VideoOptions, GeneratedSource):
    """Generated clips with captions, for smoke tests and where there are no files at all; the label is the motion.

    Attributes:
        side: height and width in pixels.
        length: frames of a whole clip, at 24 a second.
    """

    series: ClassVar[str] = "moving"
    side: int = 64
    length: int = 48

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check()
        if min(self.count, self.side, self.length) < 1:
            raise ConfigError(
                f"count, side and length must be at least 1, got {self.count}, {self.side} and {self.length}"
            )

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(MOTIONS.values())

    @cached_property
    def store(self) -> ClipStore:
        """Keeps nothing: drawing a frame costs no more than looking it up."""
        return self.make_store(0, 0)

    def shape(self, index: int, rng: np.random.Generator | None = None) -> tuple[int, ...]:
        # All clips of the set are alike in length and size.
        return self.presented("any", lambda: MovingClip(self.seed, 0, self.length, self.side), rng)

    def load(self, index: int, rng: np.random.Generator | None = None) -> Sample:
        """Frames of one clip, float32 `[n, 3, H, W]` in [-1, 1], with its caption."""
        if not 0 <= index < len(self):
            raise DataError("moving", f"has {len(self)} clips, no number {index}")
        clip = MovingClip(self.seed, self.numbers[index], self.length, self.side)
        sample = Sample(self.modality, {}, caption=clip.caption, label=clip.label, key=self.key(index))
        return self.present(sample, sample.key, lambda: clip, rng)


class MovingClip:
    """One generated clip, read like a file.

    Attributes:
        caption: what happens in it.
        label: index of the motion in `MOTIONS`.
    """

    reader = "drawn"

    def __init__(self, seed: int, number: int, length: int, side: int) -> None:
        rng = np.random.default_rng([seed, number])
        self.length, self.height, self.width = length, side, side
        self.label = number % len(MOTIONS)
        self._motion = list(MOTIONS)[self.label]
        self._shape = str(rng.choice(SHAPES))
        ink, paper, second = rng.choice(list(COLOURS), size=3, replace=False)
        self._radius = float(rng.uniform(0.1, 0.25))
        self._lane, self._phase = float(rng.uniform(self._radius, 1 - self._radius)), float(rng.uniform(0, 2 * np.pi))
        ground = str(rng.choice(GROUNDS))
        self._ink = np.array(COLOURS[ink], dtype=np.float64)
        self._ground = _mixed(_GROUNDS[ground](*_grid(side)), COLOURS[paper], COLOURS[second])
        size = "small" if self._radius < 0.17 else "large"
        behind = f"plain {paper}" if ground == "plain" else f"{ground} {paper} and {second}"
        self.caption = f"a {size} {ink} {self._shape} {MOTIONS[self._motion]} over a {behind} background"

    def __len__(self) -> int:
        return self.length

    @property
    def fps(self) -> Fraction:
        """Frames per second."""
        return FPS

    @property
    def times(self) -> NDArray[np.float64]:
        """Seconds at which each frame is shown."""
        return np.arange(self.length) / float(FPS)

    def stream(
        self, chunk: int, indices: Sequence[int] | NDArray[np.integer[Any]], resize: Resize | None = None
    ) -> Iterator[Tensor]:
        """Frames in chunks, uint8 `[n, H, W, 3]`, resized."""
        for first in range(0, len(indices), chunk):
            frames = [self._draw(int(number)) for number in indices[first : first + chunk]]
            made = torch.from_numpy(np.stack(frames))
            yield made if resize is None else resize(made)

    def close(self) -> None:
        """Nothing is open."""

    def _draw(self, number: int) -> NDArray[np.uint8]:
        row, column, radius = self._place(number / max(1, self.length - 1))
        rows, columns = _grid(self.height)
        inside = _SHAPES[self._shape](rows - row, columns - column, radius)
        mask = np.clip(inside * self.height + 0.5, 0, 1)[..., None]  # the rim is one pixel wide
        return np.rint(mask * self._ink + (1 - mask) * self._ground).astype(np.uint8)

    def _place(self, done: float) -> tuple[float, float, float]:
        """Row, column and radius when this share of the clip has passed; the shape stays inside the picture."""
        radius, lane = self._radius, self._lane
        along = radius + done * (1 - 2 * radius)
        turn = self._phase + 2 * np.pi * done
        orbit = 0.5 - radius
        places = {
            "left": (lane, 1 - along, radius),
            "right": (lane, along, radius),
            "up": (1 - along, lane, radius),
            "down": (along, lane, radius),
            "grows": (0.5, 0.5, radius * (0.5 + 1.5 * done)),
            "shrinks": (0.5, 0.5, radius * (2 - 1.5 * done)),
            "circles": (0.5 + orbit * np.sin(turn), 0.5 + orbit * np.cos(turn), radius),
            "rests": (lane, 1 - lane, radius),
        }
        return places[self._motion]


def _grid(side: int) -> tuple[_Plane, _Plane]:
    """Row and column of every pixel's middle, in (0, 1)."""
    axis = (np.arange(side) + 0.5) / side
    row, column = np.meshgrid(axis, axis, indexing="ij")
    return row, column


def _mixed(share_HW: _Plane, first: tuple[int, ...], second: tuple[int, ...]) -> _Plane:
    share = share_HW[..., None]
    return (1 - share) * np.array(first, dtype=np.float64) + share * np.array(second, dtype=np.float64)


# Distance inside the rim of a shape around the origin, in parts of the picture; negative outside.
_SHAPES: dict[str, Callable[[_Plane, _Plane, float], _Plane]] = {
    "disc": lambda y, x, r: r - np.hypot(y, x),
    "square": lambda y, x, r: r * 0.85 - np.maximum(abs(y), abs(x)),
    "triangle": lambda y, x, r: r / 2 - np.maximum(y, abs(x) * np.sqrt(0.75) - y / 2),
    "ring": lambda y, x, r: r / 4 - abs(np.hypot(y, x) - r * 0.75),
}

# Share of the second colour.
_GROUNDS: dict[str, Callable[[_Plane, _Plane], _Plane]] = {
    "plain": lambda y, x: np.zeros_like(y),
    "shaded": lambda y, x: (y + x) / 2,
    "striped": lambda y, x: np.clip(np.sin(2 * np.pi * 4 * (y + x)) * 3 + 0.5, 0, 1),
    "chequered": lambda y, x: (np.floor(y * 6) + np.floor(x * 6)) % 2,
}
