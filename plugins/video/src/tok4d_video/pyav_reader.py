"""Frames through PyAV: every container and pixel format, alpha, turned pictures; memory of a few frames.

H = height, W = width. Frames are uint8 `[H, W, 3]`, upright.

Colours come from FFmpeg's filter graph, as decord's do: matrix, range and chroma position as the frame states them
(BT.601, limited, when it is silent), bicubic chroma. So both readers give the same values where both can read.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tok4d.errors import DataError
from tok4d_video.ffmpeg import check_size, import_av, open_input, readable, video_stream
from tok4d_video.indexing import FrameIndex, decoded
from tok4d_video.probing import VideoInfo, has_hidden_alpha

RGB = tuple[int, int, int]
_DAMAGED = "has damaged video data"
_ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}  # FFmpeg's own decoders of these overlook alpha


class PyavReader:
    """One open file; frames in rising order are decoded once, others by seeking.

    Args:
        path, info, index: the file and what `tok4d_video.probing.examine` found out about it.
        background: RGB in 0..255 under transparent pixels.
        max_pixels: bound of a frame.
        threads: of the decoder; 0: as many as FFmpeg likes.
    """

    name = "pyav"

    def __init__(
        self, path: str | Path, info: VideoInfo, index: FrameIndex, background: RGB, max_pixels: int, threads: int
    ) -> None:
        self.path, self.info, self.index = path, info, index
        self.background, self.max_pixels, self.threads = background, max_pixels, threads
        self._container: Any = None
        self._open()

    def close(self) -> None:
        """Close the file."""
        if self._container is not None:
            self._container.close()
            self._container = None

    def read(self, numbers: Sequence[int]) -> Iterator[Tensor]:
        """Frames of these numbers, which must rise.

        Raises:
            DataError: when a frame is missing or cannot be decoded.
        """
        if self._container is None or self._process != os.getpid():  # a fork shares the place in the file
            self._open()
        for number in numbers:
            start = self.index.start_before(number)
            if not (self._position <= number and start <= self._position):
                self._start_at(start)
            while self._position < number:
                self._next()
            yield self._pixels(self._next())

    def _open(self) -> None:
        self.close()
        self._process = os.getpid()
        self._container = open_input(self.path, self.max_pixels)
        self._stream = video_stream(self._container, self.path, self.max_pixels)
        self._decoder = self._stream.codec_context
        if self.info.alpha and has_hidden_alpha(self._stream):
            self._decoder = self._alpha_decoder()
        self._decoder.thread_type = "NONE" if self.threads == 1 else "AUTO"
        if self.threads:
            self._decoder.thread_count = self.threads
        self._frames = self._decode()
        self._position = 0
        self._held: Any = None
        self._converter = _Converter(self.info.alpha)

    def _alpha_decoder(self) -> Any:
        av = import_av()
        name = _ALPHA_DECODERS[self._decoder.codec.canonical_name]
        if name not in av.codecs_available:
            raise DataError(self.path, f"has alpha that only the decoder {name} reads, which this PyAV lacks")
        return av.CodecContext.create(name, "r")

    def _decode(self) -> Iterator[Any]:
        for packet in self._container.demux(self._stream):
            yield from decoded(self._decoder, packet)

    def _start_at(self, number: int) -> None:
        """Make `number` the next frame; where seeking lands elsewhere, begin at the beginning."""
        if number:
            with readable(self.path, _DAMAGED):
                self._container.seek(int(self.index.stamps[number]), stream=self._stream, backward=True)
                self._decoder.flush_buffers()
                self._frames = self._decode()
                self._held = next(self._frames, None)
            found = None if self._held is None else self.index.number_of(self._held.pts)
            if found is not None and found <= number:
                self._position = found
                return
        self._open()

    def _next(self) -> Any:
        """The frame at the current position, which moves on."""
        frame, self._held = self._held, None
        if frame is None:
            with readable(self.path, _DAMAGED):
                frame = next(self._frames, None)
        if frame is None:
            raise DataError(
                self.path, f"ends after {self._position} of {len(self.index)} frames: it is truncated or damaged"
            )
        if frame.is_corrupt:
            raise DataError(self.path, f"frame {self._position} is damaged")
        self._position += 1
        return frame

    def _pixels(self, frame: Any) -> Tensor:
        check_size(self.path, frame.width, frame.height, self.max_pixels)
        with readable(self.path, _DAMAGED):
            pixels = self.info.turn.apply(over(self._converter(frame), self.background))
        if pixels.shape[:2] != (self.info.height, self.info.width):
            sizes = f"from {self.info.width}x{self.info.height} to {pixels.shape[1]}x{pixels.shape[0]}"
            raise DataError(self.path, f"changes its frame size {sizes} at frame {self._position - 1}")
        return pixels


class _Converter:
    """From decoded frames of any format to RGB, or RGBA where there is alpha."""

    def __init__(self, alpha: bool) -> None:
        self.format = "rgba" if alpha else "rgb24"
        self._shape: Any = None

    def __call__(self, frame: Any) -> Tensor:
        shape = (frame.width, frame.height, frame.format.name, frame.colorspace, frame.color_range)
        if shape != self._shape:
            self._graph, self._shape = self._build(frame), shape
        self._graph.push(frame)
        return torch.from_numpy(self._graph.pull().to_ndarray())

    def _build(self, frame: Any) -> Any:
        graph = import_av().filter.Graph()
        graph.threads = 1
        source = graph.add_buffer(
            width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base
        )
        wanted = graph.add("format", self.format)
        sink = graph.add("buffersink")
        source.link_to(wanted)
        wanted.link_to(sink)
        graph.configure()
        return graph


def over(pixels_HWC: Tensor, background: RGB) -> Tensor:
    """RGBA uint8 composited over a colour, rounded; RGB stays as it is."""
    if pixels_HWC.shape[2] == 3:
        return pixels_HWC
    alpha = pixels_HWC[..., 3:].int()
    paper = torch.tensor(background, dtype=torch.int32)
    return ((pixels_HWC[..., :3].int() * alpha + paper * (255 - alpha) + 127) // 255).to(torch.uint8)
