"""What a video file holds, from its packets and its first frame."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from tok4d_video.containers import check_whole
from tok4d_video.ffmpeg import MAX_PIXELS, check_file, check_size, open_input, video_stream
from tok4d_video.indexing import FrameIndex, scan
from tok4d_video.turns import Turn, turn_of

_FALLBACK_RATE = Fraction(25)  # a single frame that says nothing about time
_SAME_RATE = 0.005  # a header's rate within this of the measured one is taken: stamps are rounded, 30000/1001 is not
_MICROSECONDS = 1_000_000  # a container's clock in FFmpeg
_EVEN = 0.5  # a gap further off than this many frames makes the rate vary


@dataclass(frozen=True)
class VideoInfo:
    """Facts about one video.

    Attributes:
        container: FFmpeg's name (`mov`, `matroska`, `avi`, ...).
        codec: codec of the main video stream.
        pixel_format: FFmpeg's name of the stored format.
        bit_depth: bits per channel as stored; frames are read as 8 bits.
        alpha: whether frames have an alpha channel.
        height, width: in pixels, after `turn`. Pixels are not stretched where they are not square.
        pixel_aspect: width over height of a pixel.
        turn: how stored frames become upright ones.
        fps: average frames per second, counted.
        varying: whether frames are unevenly spaced in time.
        frames: how many there are, counted.
        duration: seconds.
        has_audio: whether there is an audio stream besides.
        honest: whether the lengths that headers state, where they do, are at most twice what was counted.
    """

    container: str
    codec: str
    pixel_format: str
    bit_depth: int
    alpha: bool
    height: int
    width: int
    pixel_aspect: Fraction
    turn: Turn
    fps: Fraction
    varying: bool
    frames: int
    duration: float
    has_audio: bool
    honest: bool


def probe(path: str | Path, max_pixels: int = MAX_PIXELS) -> VideoInfo:
    """Facts about a file; its packets are read, one frame is decoded.

    Raises:
        DataError: when it cannot be used, with the path and the reason.
    """
    return examine(path, max_pixels)[0]


def examine(path: str | Path, max_pixels: int = MAX_PIXELS) -> tuple[VideoInfo, FrameIndex]:
    """`probe`, and the index of the frames.

    Raises:
        DataError: as `probe`.
    """
    check_file(path)
    check_whole(path)
    with open_input(path, max_pixels) as container:
        stream = video_stream(container, path, max_pixels)
        stream.thread_type = "NONE"
        index, frame = scan(container, stream, path)
        check_size(path, frame.width, frame.height, max_pixels)
        return _describe(container, stream, frame, index), index


def has_hidden_alpha(stream: Any) -> bool:
    """Whether a WebM stream has its alpha beside the picture, where common decoders overlook it."""
    return stream.metadata.get("alpha_mode") == "1" and stream.codec_context.name in ("vp8", "vp9")


def _describe(container: Any, stream: Any, frame: Any, index: FrameIndex) -> VideoInfo:
    turn = turn_of(frame)
    shape = (frame.height, frame.width)
    rate = _rate(stream, index)
    gaps = np.diff(index.times) * float(rate)
    components = frame.format.components
    return VideoInfo(
        container=container.format.name.split(",")[0],
        codec=stream.codec_context.codec.canonical_name,
        pixel_format=frame.format.name,
        bit_depth=max(component.bits for component in components),
        alpha=any(component.is_alpha for component in components) or has_hidden_alpha(stream),
        height=shape[1 if turn.transpose else 0],
        width=shape[0 if turn.transpose else 1],
        pixel_aspect=Fraction(stream.sample_aspect_ratio or 1),
        turn=turn,
        fps=rate,
        varying=bool((np.abs(gaps - 1) > _EVEN).any()),
        frames=len(index),
        duration=float(len(index) / rate) if not index.duration else float(index.duration),
        has_audio=bool(container.streams.audio),
        honest=_honest(container, stream, index),
    )


def _honest(container: Any, stream: Any, index: FrameIndex) -> bool:
    end = float(index.duration + max(0, int(index.stamps[0])) * index.unit)
    seconds = end + 1  # one more is no lie in a short clip
    claims = (float((stream.duration or 0) * stream.time_base), (container.duration or 0) / _MICROSECONDS)
    return stream.frames <= 2 * len(index) and max(claims) <= 2 * seconds


def _rate(stream: Any, index: FrameIndex) -> Fraction:
    """Frames per second as counted, or the rate of the header that it rounds to."""
    claimed = [Fraction(rate) for rate in (stream.average_rate, stream.guessed_rate, stream.base_rate) if rate]
    if len(index) == 1 or index.duration <= 0:
        return next((rate for rate in claimed if 0 < rate <= 1000), _FALLBACK_RATE)
    counted = len(index) / index.duration
    rounding = 3 * float(index.unit)  # of the first stamp, the last, and the gap taken for the last frame's length
    for rate in claimed:
        if abs(float(len(index) / rate - index.duration)) <= max(float(index.duration) * _SAME_RATE, rounding):
            return rate
    return counted.limit_denominator(1001)
