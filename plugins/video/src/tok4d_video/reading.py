"""Reading clips: one interface over decord and PyAV.

n, N = frames, H = height, W = width. Frames are uint8 `[n, H, W, 3]`, upright, in presentation order; in files with a
varying frame rate frame i is the i-th picture shown, whatever the time between. Pixels are decoded at native size and
resized one frame at a time, so that only the resized ones are kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tok4d.colours import parse_background
from tok4d.errors import ConfigError, DataError, Tok4dError, unknown_name
from tok4d.options import from_options
from tok4d_video.decord_reader import DecordReader, unsuited
from tok4d_video.ffmpeg import MAX_PIXELS
from tok4d_video.indexing import FrameIndex
from tok4d_video.probing import VideoInfo, examine
from tok4d_video.pyav_reader import RGB, PyavReader
from tok4d_video.resizing import Resize

Numbers = Sequence[int] | NDArray[np.integer[Any]]
READERS = ("auto", "decord", "pyav")
CHUNK = 16
MAX_AHEAD = 2**28  # bytes of all frames of a clip that `auto` gives to decord


class FrameReader(Protocol):
    """What a reader does: frames `[H, W, 3]` by rising numbers."""

    name: str

    def read(self, numbers: Sequence[int]) -> Iterator[Tensor]: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class ClipOptions:
    """Options of opening a clip.

    Attributes:
        reader: `decord`, `pyav`, or `auto`: decord, and PyAV where decord is not installed or not suited (some
            formats, and clips whose frames together exceed `MAX_AHEAD`: decord decodes ahead without a bound).
        background: colour under transparent pixels: a CSS name or `#rrggbb`.
        max_pixels: largest width * height of a frame, checked in the header before anything is decoded.
        threads: of the decoder; 0: as many as it likes. Pixels do not depend on it.
    """

    reader: str = "auto"
    background: str = "white"
    max_pixels: int = MAX_PIXELS
    threads: int = 1

    def __post_init__(self) -> None:
        if self.reader not in READERS:
            raise ConfigError(unknown_name("video reader", self.reader, READERS))
        if self.max_pixels < 1 or self.threads < 0:
            raise ConfigError(f"max_pixels must be at least 1, threads 0: got {self.max_pixels} and {self.threads}")
        self.colour()

    @classmethod
    def parse(cls, options: Mapping[str, Any]) -> ClipOptions:
        """From keyword arguments; raises `ConfigError` that names an unknown option and the known ones."""
        return from_options(cls, options, "video option")

    def colour(self) -> RGB:
        """`background` as RGB in 0..255."""
        return parse_background(self.background)


class Clip:
    """An open video file. Use it in a `with` block, or call `close`.

    Attributes:
        path: as it was given.
        info: facts about the file.
        reader: `decord` or `pyav`: which one reads it.
        fallback: why `auto` did not take decord; empty when it did or was not asked to.
    """

    def __init__(
        self, path: str | Path, info: VideoInfo, index: FrameIndex, frames: FrameReader, fallback: str = ""
    ) -> None:
        self.path, self.info, self.fallback = path, info, fallback
        self.reader = frames.name
        self._index, self._frames = index, frames

    def __len__(self) -> int:
        return len(self._index)

    @property
    def fps(self) -> Fraction:
        """Average frames per second."""
        return self.info.fps

    @property
    def height(self) -> int:
        """Rows of an upright frame."""
        return self.info.height

    @property
    def width(self) -> int:
        """Columns of an upright frame."""
        return self.info.width

    @property
    def times(self) -> NDArray[np.float64]:
        """Seconds from the first frame at which each is shown `[N]`."""
        return self._index.times

    def frames(self, indices: Numbers, resize: Resize | None = None) -> Tensor:
        """Frames by number, in any order and as often as wanted: uint8 `[n, H, W, 3]`.

        Args:
            indices: from 0 to N - 1.
            resize: applied to every frame; see `tok4d_video.resizing`.

        Raises:
            DataError: for a number that there is not, or a frame that cannot be decoded.
        """
        numbers = self._checked(indices)
        unique, place = np.unique(numbers, return_inverse=True)
        found = self._gather(self._frames.read(unique.tolist()), len(unique), resize or Resize())
        return found if np.array_equal(unique, numbers) else found[torch.from_numpy(place)]

    def stream(
        self, chunk: int = CHUNK, indices: Numbers | None = None, resize: Resize | None = None
    ) -> Iterator[Tensor]:
        """Frames in chunks, uint8 `[n, H, W, 3]` with n <= chunk: memory does not grow with the clip.

        Args:
            chunk: frames at a time.
            indices: numbers of the frames wanted, rising; default: all.
            resize: applied to every frame; see `tok4d_video.resizing`.

        Raises:
            DataError: as `frames`, while it runs.
        """
        if chunk < 1:
            raise ConfigError(f"chunk must be at least 1 frame, got {chunk}")
        numbers = self._checked(range(len(self)) if indices is None else indices)
        if (np.diff(numbers) <= 0).any():
            raise ConfigError("stream takes rising frame numbers; frames() takes any")
        frames = self._frames.read(numbers.tolist())
        for first in range(0, len(numbers), chunk):
            yield self._gather(frames, min(chunk, len(numbers) - first), resize or Resize())

    def close(self) -> None:
        """Close the file."""
        self._frames.close()

    def __enter__(self) -> Clip:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _gather(self, frames: Iterator[Tensor], count: int, resize: Resize) -> Tensor:
        found = torch.empty(count, *resize.result(self.height, self.width), 3, dtype=torch.uint8)
        for place in range(count):
            found[place] = resize(next(frames)[None])[0]
        return found

    def _checked(self, indices: Numbers) -> NDArray[np.int64]:
        numbers = np.asarray(indices, dtype=np.int64)
        for number in numbers[(numbers < 0) | (numbers >= len(self))][:1]:
            raise DataError(self.path, f"has no frame {number}, only 0..{len(self) - 1}")
        return numbers


def open_clip(path: str | Path, **options: Any) -> Clip:
    """Open a video file; see `ClipOptions` for the options, `reader="pyav"` say.

    Raises:
        DataError: when the file cannot be used, with the path and the reason.
        ConfigError: for an unknown or unusable option.
        Tok4dError: when a library is missing.
    """
    asked = ClipOptions.parse(options)
    info, index = examine(path, asked.max_pixels)
    reason = unsuited(info, index)
    if asked.reader == "auto" and not reason:
        reason = _too_large_for_decord(info)
    if asked.reader == "decord" and reason:
        raise DataError(path, f"{reason}; use reader='auto' or 'pyav'")
    if asked.reader != "pyav" and not reason:
        try:
            return Clip(path, info, index, DecordReader(path, info, index, asked.threads))
        except Tok4dError as error:
            if asked.reader == "decord":
                raise
            reason = error.reason if isinstance(error, DataError) else str(error)
    frames = PyavReader(path, info, index, asked.colour(), asked.max_pixels, asked.threads)
    return Clip(path, info, index, frames, reason if asked.reader == "auto" else "")


def _too_large_for_decord(info: VideoInfo) -> str:
    """decord decodes ahead in a thread of its own, without a bound: a slow reader ends up with all frames in memory."""
    size = info.frames * info.height * info.width * 3
    if size <= MAX_AHEAD:
        return ""
    return f"its frames take {size / 2**30:.1f} GiB, and decord decodes ahead as far as it gets"
