"""Clips of small sets are decoded once and kept, shrunk, in memory; of others a few stay open.

N = frames in a clip, n = frames taken, h, w = height and width after shrinking. Frames are uint8 `[n, h, w, 3]`.

Why: a window of 16 frames costs all frames from the last point where decoding may start, at full size. Measured in CPU
time of one core: 25-200 ms a window of clips of 640x272 and 1280x720, 700-1600 ms of 1920x1080 with rare key frames.
Decoding these clips whole and shrinking them to 128 px takes 0.5 s and 7 s once, and a window of what is kept 1 ms.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tok4d.errors import DataError
from tok4d_video.resizing import Resize

CHUNK = 8  # frames of native size in memory at a time
WHOLE = 1024  # longest clip that is decoded whole: about ten seconds of work at 1920x1080
OPEN = 4  # files kept open


class OpenClip(Protocol):
    """What sources need of `tok4d_video.reading.Clip`; generated clips have it too."""

    reader: str

    def __len__(self) -> int: ...
    @property
    def fps(self) -> Fraction: ...
    @property
    def height(self) -> int: ...
    @property
    def width(self) -> int: ...
    @property
    def times(self) -> NDArray[np.float64]: ...
    def stream(
        self, chunk: int, indices: Sequence[int] | NDArray[np.integer[Any]], resize: Resize | None = None
    ) -> Iterator[Tensor]: ...
    def close(self) -> None: ...


@dataclass(frozen=True)
class Facts:
    """What choosing frames needs to know of a clip: seconds at which each is shown `[N]`, rate, and who reads it."""

    times: NDArray[np.float64]
    fps: Fraction
    reader: str

    def __len__(self) -> int:
        return len(self.times)


Opener = Callable[[], OpenClip]
Choice = Callable[[Facts], NDArray[np.int64]]


class ClipStore:
    """Shrunk frames of clips by name; neither what is kept nor what is open changes a pixel.

    A clip of up to `WHOLE` frames is kept while it fits into `limit` bytes, first come, first kept: nothing is dropped
    for another, since a set larger than the limit would then be decoded whole over and over. The store is empty after
    pickling to a worker, and after a fork it opens files anew: processes must not share a place in a file.

    Args:
        limit: bytes of frames kept.
        resize: from frames as decoded to frames as kept.
        open_files: how many of the files used last stay open; 0 where they do not outlive their use.
    """

    def __init__(self, limit: int, resize: Resize, open_files: int = OPEN) -> None:
        self.limit, self.resize, self.open_files = limit, resize, open_files
        self.used = 0
        self._kept: dict[str, tuple[Facts, Tensor]] = {}
        self._damaged: set[str] = set()
        self._open: OrderedDict[str, OpenClip] = OrderedDict()
        self._abandoned: list[Any] = []
        self._process = os.getpid()

    def __reduce__(self) -> tuple[type[ClipStore], tuple[int, Resize, int]]:
        return type(self), (self.limit, self.resize, self.open_files)

    def take(self, name: str, opener: Opener, choose: Choice) -> tuple[Tensor, NDArray[np.int64], Facts]:
        """The frames chosen `[n, h, w, 3]`, their numbers, and the clip's facts.

        Args:
            name: what names the clip here.
            opener: opens it, when it is not kept.
            choose: from the facts to rising frame numbers; called once.

        Raises:
            DataError: when the clip cannot be opened or a chosen frame cannot be decoded.
        """
        if name not in self._kept:
            with self._opened(name, opener) as clip:
                facts = Facts(clip.times, clip.fps, clip.reader)
                if not self._keep(name, clip, facts):
                    numbers = choose(facts)
                    return self._decode(clip, numbers), numbers, facts
        facts, frames = self._kept[name]
        numbers = choose(facts)
        return frames[torch.from_numpy(numbers)], numbers, facts

    def facts(self, name: str, opener: Opener) -> Facts:
        """A clip's facts.

        Raises:
            DataError: when the clip cannot be opened.
        """
        if name in self._kept:
            return self._kept[name][0]
        with self._opened(name, opener) as clip:
            return Facts(clip.times, clip.fps, clip.reader)

    def measure(self, name: str, opener: Opener) -> tuple[Facts, int, int]:
        """A clip's facts, and height and width of the frames that `take` gives.

        Raises:
            DataError: when the clip cannot be opened.
        """
        if name in self._kept:
            facts, frames = self._kept[name]
            return facts, frames.shape[1], frames.shape[2]
        with self._opened(name, opener) as clip:
            return Facts(clip.times, clip.fps, clip.reader), *self.resize.result(clip.height, clip.width)

    @contextmanager
    def _opened(self, name: str, opener: Opener) -> Iterator[OpenClip]:
        """The open clip of a name. It stays open unless it is kept now, or trouble shows."""
        if self._process != os.getpid():
            # Not closed: decoders may wait for threads that this process does not have.
            self._abandoned.append(self._open)
            self._open, self._process = OrderedDict(), os.getpid()
        clip = self._open.pop(name, None)
        clip = opener() if clip is None else clip
        stays = False
        try:
            yield clip
            stays = name not in self._kept
        finally:
            if stays and self.open_files:
                self._open[name] = clip
            else:
                clip.close()
            if len(self._open) > self.open_files:
                self._open.popitem(last=False)[1].close()

    def _keep(self, name: str, clip: OpenClip, facts: Facts) -> bool:
        height, width = self.resize.result(clip.height, clip.width)
        size = len(facts) * height * width * 3
        if len(facts) > WHOLE or self.used + size > self.limit or name in self._damaged:
            return False
        try:
            frames = self._decode(clip, np.arange(len(facts)))
        except DataError:  # a bad frame elsewhere in the file must not spoil this window
            self._damaged.add(name)
            return False
        self._kept[name] = (facts, frames)
        self.used += size
        return True

    def _decode(self, clip: OpenClip, numbers: NDArray[np.int64]) -> Tensor:
        """Frames `[n, h, w, 3]`, in chunks so that few of them are in memory at full size."""
        frames = torch.empty(len(numbers), *self.resize.result(clip.height, clip.width), 3, dtype=torch.uint8)
        place = 0
        for chunk in clip.stream(CHUNK, numbers, self.resize):
            frames[place : place + len(chunk)] = chunk
            place += len(chunk)
        return frames
