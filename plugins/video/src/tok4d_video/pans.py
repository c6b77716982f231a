"""Clips made of pictures: a window that glides and zooms over a still. Camera motion, with real content, for nothing.

F = frames, H = height, W = width of the picture, S = side of the window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tok4d.data.build import build_source
from tok4d.data.source import Source
from tok4d.errors import ConfigError, DataError
from tok4d.modality import CHANNELS, Sample


@dataclass
class VideoPans(Source):
    """Windows that move over the pictures of another source, which decides the split.

    Few clips teach a small model those clips; the pictures at hand teach it what motion looks like.

    Attributes:
        source: name of the source of pictures, `image/photos` say; its samples have one tensor `[3, H, W]`.
        options: of that source; `split`, `folds` and `fold` are handed on.
        frames: frames a clip.
        size: side of the square window, in pixels of the result.
        speed: largest step of the window from frame to frame, in pixels; a clip's own is drawn evenly from 0 to this.
        zoom: largest change of the window's side from the first frame to the last, as a factor.
    """

    source: str = "image/photos"
    options: dict[str, Any] = field(default_factory=dict)
    frames: int = 16
    size: int = 128
    speed: float = 4.0
    zoom: float = 1.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.frames, self.size) < 1 or not self.speed >= 0 or not self.zoom >= 1:
            raise ConfigError(
                f"pans need frames and size of at least 1, speed of at least 0 and zoom of at least 1, "
                f"got {self.frames}, {self.size}, {self.speed} and {self.zoom}"
            )

    @cached_property
    def pictures(self) -> Source:
        """The source of pictures, on the same side of the split."""
        from tok4d.config.schema import TaskConfig

        shared = {"split": self.split, "folds": self.folds, "fold": self.fold}
        return build_source(TaskConfig(source=self.source, options={**shared, **self.options}))

    @property
    def class_names(self) -> Sequence[str]:
        return self.pictures.class_names

    def __len__(self) -> int:
        return len(self.pictures)

    def key(self, index: int) -> str:
        return f"pan over {self.pictures.key(index)}"

    def shape(self, index: int, rng: np.random.Generator | None = None) -> tuple[int, ...]:
        return self.largest_shape()

    def largest_shape(self) -> tuple[int, ...]:
        return self.frames, CHANNELS, self.size, self.size

    def load(self, index: int, rng: np.random.Generator | None = None) -> Sample:
        """One clip, float32 `[F, 3, S, S]` in [-1, 1]; without a generator the path depends on the index alone."""
        taken = self.pictures.load(index, rng)
        picture = taken.data.get(self.pictures.host.field)
        if picture is None or picture.ndim != 3:
            raise DataError(self.pictures.key(index), f"a pan needs a picture [3, H, W], {self.source} gives none")
        chosen = np.random.default_rng(index) if rng is None else rng
        video = glide(picture, self.path(chosen, picture.shape[-2], picture.shape[-1]), self.size)
        return Sample(self.modality, {"video": video}, 24.0, taken.caption, taken.label, self.key(index))

    def path(self, rng: np.random.Generator, height: int, width: int) -> np.ndarray:
        """Centre row, centre column and side of the window in every frame, float64 `[F, 3]`; inside the picture.

        The motion is even: a drawn speed in a drawn direction, as far as the picture allows, and a drawn zoom.
        """
        limit = min(height, width)
        end = float(np.exp(rng.uniform(-1, 1) * np.log(self.zoom)))
        start_side = min(self.size, limit) / max(1.0, end)
        sides = np.linspace(start_side, start_side * end, self.frames)
        angle, speed = rng.uniform(0, 2 * np.pi), rng.uniform(0, self.speed)
        shift = np.array([np.sin(angle), np.cos(angle)]) * speed * (self.frames - 1)
        room = np.array([height, width]) - sides.max()
        shift = np.clip(shift, -room, room)
        low, high = np.maximum(0, -shift), room - np.maximum(0, shift)
        corner = low + rng.random(2) * np.maximum(0, high - low)
        centres = corner + sides.max() / 2 + np.linspace(0, 1, self.frames)[:, None] * shift
        return np.concatenate([centres, sides[:, None]], axis=1)


def glide(picture: Tensor, path: np.ndarray, size: int) -> Tensor:
    """Windows of a picture `[3, H, W]` along a path `[F, 3]`, bilinear: `[F, 3, size, size]`.

    Path rows are centre row, centre column and side, in pixels from the picture's upper left corner.
    """
    height, width = picture.shape[-2:]
    place = (torch.arange(size, dtype=torch.float64) + 0.5) / size - 0.5
    steps = torch.from_numpy(path)
    rows = (steps[:, :1] + place * steps[:, 2:]) / height * 2 - 1
    columns = (steps[:, 1:2] + place * steps[:, 2:]) / width * 2 - 1
    grid = torch.stack(
        [columns[:, None, :].expand(-1, size, -1), rows[:, :, None].expand(-1, -1, size)], dim=-1
    ).float()
    source = picture[None].expand(len(path), -1, -1, -1)
    return F.grid_sample(source, grid, mode="bilinear", padding_mode="border", align_corners=False)
