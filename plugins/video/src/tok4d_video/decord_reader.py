"""Frames through decord. H = height, W = width; frames are uint8 `[H, W, 3]`.

decord is used for what it was seen to do rightly: decoding frame by frame at native size. Its own way to a frame is
wrong in files with open groups of pictures or guessed time stamps, its batches copy every frame twice, mirrored frames
stay mirrored, alpha is dropped, and a damaged frame is replaced by its neighbour unless it is told not to. `unsuited`
names the files that are not for it; PyAV reads them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor

from tok4d.errors import DataError, Tok4dError
from tok4d_video.ffmpeg import INSTALL, check_file, first_line
from tok4d_video.indexing import FrameIndex
from tok4d_video.probing import VideoInfo

_CONTAINERS = ("mov", "matroska", "avi", "flv")  # where its frames were found to be those that PyAV gives
_NO_REPLACED_FRAMES = 1e-9  # share of frames that may be copies of their neighbours


def import_decord() -> Any:
    """The module `decord` (package `decord2`), its messages silenced.

    Raises:
        Tok4dError: when it is not installed or cannot be loaded on this machine.
    """
    try:
        import decord
    except (ImportError, OSError, RuntimeError) as error:
        raise Tok4dError(f"decord is not installed or cannot be loaded ({first_line(error)}); {INSTALL}") from None
    decord.logging.set_level(decord.logging.QUIET)
    return decord


def unsuited(info: VideoInfo, index: FrameIndex) -> str:
    """Why decord should not read such a file; empty when it may."""
    if info.container not in _CONTAINERS:
        return f"decord does not count or find frames reliably in {info.container} files"
    if not info.honest:
        return "the file's header states a wrong length, on which decord may end the process"
    if info.alpha:
        return "decord drops alpha"
    if info.turn.mirrors:
        return "decord leaves mirrored frames mirrored"
    if not index.exact:
        return "the file's time stamps are missing or not unique"
    return ""


class DecordReader:
    """One open file; frames in rising order are decoded once, others from a clean start on.

    Args:
        path, info, index: the file and what `tok4d_video.probing.examine` found out about it.
        threads: of the decoder; 0: as many as it likes.

    Raises:
        DataError: when decord cannot open the file or counts other frames.
    """

    name = "decord"

    def __init__(self, path: str | Path, info: VideoInfo, index: FrameIndex, threads: int) -> None:
        self.path, self.info, self.index, self.threads = path, info, index, threads
        self._video: Any = None
        self._open()
        _readers.add(self)

    def close(self) -> None:
        """Close the file."""
        self._video = None

    def read(self, numbers: Sequence[int]) -> Iterator[Tensor]:
        """Frames of these numbers, which must rise. A frame given is overwritten when the next is asked for.

        Raises:
            DataError: when a frame is missing or cannot be decoded.
        """
        if self._video is None:  # closed, or left to the process that this one was forked from
            self._open()
        for number in numbers:
            start = self.index.start_before(number)
            if not (self._position <= number and start <= self._position):
                self._start_at(start)
            while self._position < number:
                self._next()  # its skip_frames loses count
            yield self._next()

    def _open(self) -> None:
        decord = import_decord()
        check_file(self.path)
        try:
            self._video = decord.VideoReader(
                str(Path(self.path).absolute()), num_threads=self.threads, fault_tol=_NO_REPLACED_FRAMES
            )
        except Exception as error:  # its errors have no common base
            raise DataError(self.path, f"cannot be read by decord ({_reason(error)})") from None
        if len(self._video) != len(self.index):
            raise DataError(self.path, f"decord counts {len(self._video)} frames, there are {len(self.index)}")
        self._position = 0

    def _start_at(self, number: int) -> None:
        if number == 0:
            self._open()  # seeking back to the start keeps frames that were decoded ahead
            return
        try:
            self._video.seek_accurate(number)
        except Exception as error:
            raise DataError(self.path, f"decord cannot find frame {number} ({_reason(error)})") from None
        self._position = number

    def _next(self) -> Tensor:
        try:
            frame = torch.from_dlpack(self._video.next().to_dlpack())
        except StopIteration:
            frame = torch.empty(0)
        except Exception as error:
            raise DataError(self.path, f"frame {self._position} cannot be decoded ({_reason(error)})") from None
        if frame.shape[:2] == (self.info.height, self.info.width):
            # Where rows are padded by whole pixels' worth of bytes, decord counts the padding as channels.
            frame = frame.flatten(1)[:, : 3 * self.info.width].unflatten(1, (self.info.width, 3))
        else:
            raise DataError(self.path, f"frame {self._position} of {len(self.index)} is missing or of another size")
        self._position += 1
        return frame


_readers: WeakSet[DecordReader] = WeakSet()


def _forget_files() -> None:
    """In a process just forked: its decoding threads stayed behind, and freeing a file would wait for them forever."""
    for reader in _readers:
        if reader._video is not None:
            reader._video._handle = None
            reader._video = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_files)


def _reason(error: BaseException) -> str:
    """decord's message without time, source file and stack trace."""
    return first_line(error).split("] ")[-1][:160] or type(error).__name__
