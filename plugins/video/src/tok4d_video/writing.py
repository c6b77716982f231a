"""Writing clips frame by frame: exact frame count, size and rate; complete or not at all; memory of a few frames.

n = frames, H = height, W = width.

* `.mp4`, `.m4v`, `.mov`, `.mkv`: H.264; `.webm`: VP9; `.avi`: H.264 without reordered frames (AVI has no
  presentation times). 8 bits, BT.709, limited range, stated in the file. Chroma is halved (4:2:0) where both sides are
  even, which every player shows; H.264 cannot halve odd sides, so these keep full chroma (4:4:4).
* `.gif`: 256 colours a frame, times in 1/100 s.
* a path without suffix: a folder of PNG files, without loss and without a frame rate.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor

from tok4d.errors import ConfigError, DataError, Tok4dError
from tok4d_video.ffmpeg import first_line
from tok4d_video.pixels import to_bytes
from tok4d_video.streams import GifStream, VideoStream

SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".gif", "")
MAX_FPS = 1000
QUALITY = 18  # crf: 0 is nearly lossless, 23 common, 51 worst


class FrameSink(Protocol):
    """What takes frames uint8 `[H, W, 3]` one by one and finishes a file or folder."""

    def add(self, frame_HWC: Tensor) -> None: ...

    def close(self) -> None: ...


class VideoWriter:
    """Writes one clip; use it in a `with` block. What was at `path` before stays until the block ends without error.

        with VideoWriter("out.mp4", fps=25) as writer:
            for chunk in clip.stream():
                writer.write(chunk)

    Args:
        path: its suffix chooses the format, see above.
        fps: frames per second, above 0 and at most 1000 (GIF: 100); a Fraction is kept exactly.
        crf: quality of H.264 and VP9, 0 (best) to 51.

    Raises:
        DataError: for an unknown suffix, a folder that takes no file, or an existing folder for PNG files.
        ConfigError: for a rate or quality out of range.
    """

    def __init__(self, path: str | Path, fps: float | Fraction, *, crf: int = QUALITY) -> None:
        self.path = Path(path)
        self.frames = 0
        self._kind = self.path.suffix.lower()
        if self._kind not in SUFFIXES:
            raise DataError(path, f"unknown video suffix {self.path.suffix!r}; known: {', '.join(SUFFIXES[:-1])}")
        self.fps, self.crf = exact_rate(fps), crf
        if not 0 <= crf <= 51:
            raise ConfigError(f"crf must be in 0..51, got {crf}")
        if self._kind == ".gif" and self.fps > 100:
            raise ConfigError(f"a GIF has at most 100 frames per second, got {float(self.fps):g}")
        if not self.path.absolute().parent.is_dir():
            raise DataError(path, "cannot write: No such file or directory")
        if self.path.is_dir():
            raise DataError(path, "cannot write: there is a folder of this name")
        self._partial = self.path.with_name(f".{self.path.name}.{os.getpid()}.part")
        self._sink: FrameSink | None = None
        self._shape: tuple[int, ...] = ()

    def write(self, frames: Tensor) -> None:
        """Add frames: uint8 `[n, H, W, 3]`, or floats `[n, 3, H, W]` in [-1, 1], which are clamped and rounded here.

        Raises:
            DataError: for another shape or size than before, values that are not finite, or a full disk.
        """
        try:
            pixels = frames if frames.dtype == torch.uint8 else to_bytes(frames)
            if pixels.ndim != 4 or pixels.shape[-1] != 3 or pixels.numel() == 0:
                raise ValueError(f"frames must be [n, height, width, 3] in uint8, got {list(frames.shape)}")
            if self._sink is None:
                self._shape = tuple(pixels.shape[1:])
                self._sink = self._open(*self._shape[:2])
            if tuple(pixels.shape[1:]) != self._shape:
                raise ValueError(f"frames change from {self._shape[:2]} to {tuple(pixels.shape[1:3])} pixels")
            for frame in pixels.contiguous().cpu():
                self._sink.add(frame)
                self.frames += 1
        except Exception as error:
            raise self._failed(error) from None

    def close(self) -> None:
        """Finish the file and put it in its place.

        Raises:
            DataError: when no frame was written, or the file cannot be finished.
        """
        try:
            if self._sink is None:
                raise ValueError("there are no frames")
            self._sink.close()
            os.replace(self._partial, self.path)
        except Exception as error:
            raise self._failed(error) from None
        finally:
            self._sink = None
            _remove(self._partial)

    def abandon(self) -> None:
        """Leave nothing behind."""
        if self._sink is not None:
            with suppress(Exception):  # the encoder may complain about what is thrown away
                self._sink.close()
        self._sink = None
        _remove(self._partial)

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abandon()

    def _open(self, height: int, width: int) -> FrameSink:
        if self._kind == "":
            return PngFolder(self._partial)
        if self._kind == ".gif":
            return GifStream(self._partial, height, width, self.fps)
        return VideoStream(self._partial, self._kind, height, width, self.fps, self.crf)

    def _failed(self, error: Exception) -> Tok4dError:
        self.abandon()
        if isinstance(error, Tok4dError):
            return error
        reason = error.strerror if isinstance(error, OSError) and error.strerror else first_line(error)
        return DataError(self.path, f"cannot write: {reason}")


class PngFolder:
    """Frames as `000000.png`, `000001.png`, ... in a new folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.count = folder, 0
        folder.mkdir()

    def add(self, frame_HWC: Tensor) -> None:
        Image.fromarray(frame_HWC.numpy()).save(self.folder / f"{self.count:06d}.png")
        self.count += 1

    def close(self) -> None:
        pass


def write_clip(frames: Tensor | Iterable[Tensor], path: str | Path, fps: float | Fraction, **options: Any) -> int:
    """Write a whole clip, or chunks of one, as `VideoWriter` does; returns the number of frames.

    Raises:
        DataError: as `VideoWriter`.
    """
    with VideoWriter(path, fps, **options) as writer:
        for chunk in [frames] if isinstance(frames, Tensor) else frames:
            writer.write(chunk)
    return writer.frames


def exact_rate(fps: float | Fraction) -> Fraction:
    """A frame rate as a ratio of small numbers: 29.97002997 is 30000/1001.

    Raises:
        ConfigError: when it is not above 0 and at most 1000.
    """
    if not 0 < fps <= MAX_FPS:
        raise ConfigError(f"fps must be above 0 and at most {MAX_FPS}, got {fps}")
    rate = fps if isinstance(fps, Fraction) else Fraction(fps).limit_denominator(1001)
    return rate or Fraction(fps).limit_denominator(1_000_000)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)
