"""Encoders behind `tok4d_video.writing`: one frame in, a growing file out. H = height, W = width."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from tok4d.errors import Tok4dError
from tok4d_video.ffmpeg import import_av

_MUXERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm", ".avi": "avi"}
_BT709, _LIMITED = 1, 1  # FFmpeg's numbers (ISO/IEC 23091-2): matrix, primaries, transfer; range
_GIF_CLOCK = 100


class VideoStream:
    """H.264 or VP9 through PyAV.

    Args:
        path: file to write; `kind` chooses its format, whatever it is called.
        kind: suffix with the dot.
        fps, crf: see `tok4d_video.writing.VideoWriter`.
    """

    def __init__(self, path: Path, kind: str, height: int, width: int, fps: Fraction, crf: int) -> None:
        av = import_av()
        codec, options = "libx264", {"crf": str(crf)}
        if kind == ".webm":
            codec, options = "libvpx-vp9", {"crf": str(crf), "b": "0", "row-mt": "1", "cpu-used": "4"}
        if codec not in av.codecs_available:
            raise Tok4dError(f"this build of PyAV has no encoder {codec}, which {kind} needs")
        if kind == ".avi":
            options["bf"] = "0"
        if codec == "libx264":
            # The macroblock tree looks at memory beyond the picture: with it, equal frames give other bytes every time.
            options["x264-params"] = "mbtree=0"
        odd = height % 2 or width % 2
        self._format = "yuv444p" if odd and codec == "libx264" else "yuv420p"
        self._fps, self._count = fps, 0
        self._container = av.open(str(path), "w", format=_MUXERS[kind])
        self._stream: Any = self._container.add_stream(codec, rate=fps, options=options)
        self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, self._format
        context = self._stream.codec_context
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        context.color_range = _LIMITED
        context.thread_count = 1  # the file does not depend on the machine
        self._graph = _to_bt709(av, height, width, self._format)

    def add(self, frame_HWC: Tensor) -> None:
        frame = import_av().VideoFrame.from_ndarray(frame_HWC.numpy(), format="rgb24")
        frame.pts, frame.time_base = self._count, 1 / self._fps
        self._graph.push(frame)
        converted = self._graph.pull()
        converted.pts, converted.time_base = self._count, 1 / self._fps
        converted.pict_type = 0  # the encoder decides
        self._container.mux(self._stream.encode(converted))
        self._count += 1

    def close(self) -> None:
        try:
            self._container.mux(self._stream.encode(None))
        finally:
            self._container.close()


def _to_bt709(av: Any, height: int, width: int, format: str) -> Any:
    graph = av.filter.Graph()
    graph.threads = 1
    source = graph.add_buffer(width=width, height=height, format="rgb24", time_base=Fraction(1, 1000))
    scale = graph.add("scale", "out_color_matrix=bt709:out_range=tv:flags=bicubic+accurate_rnd+full_chroma_int")
    wanted = graph.add("format", format)
    sink = graph.add("buffersink")
    for before, after in ((source, scale), (scale, wanted), (wanted, sink)):
        before.link_to(after)
    graph.configure()
    return graph


class GifStream:
    """GIF with a palette of its own for every frame, chosen by Pillow, encoded by PyAV.

    Pillow's own writer keeps all frames in memory and joins equal ones, which changes their number.
    """

    def __init__(self, path: Path, height: int, width: int, fps: Fraction) -> None:
        av = import_av()
        self._fps, self._count = fps, 0
        self._container = av.open(str(path), "w", format="gif")
        self._stream: Any = self._container.add_stream("gif", rate=_GIF_CLOCK)
        self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, "pal8"
        self._stream.codec_context.time_base = Fraction(1, _GIF_CLOCK)

    def add(self, frame_HWC: Tensor) -> None:
        picture = Image.fromarray(frame_HWC.numpy()).quantize(256, dither=Image.Dither.FLOYDSTEINBERG)
        colours = np.zeros((256, 3), dtype=np.uint8)
        listed = np.array(picture.getpalette() or [], dtype=np.uint8).reshape(-1, 3)
        colours[: len(listed)] = listed
        opaque = np.concatenate([np.full((256, 1), 255, dtype=np.uint8), colours], axis=1)
        frame = import_av().VideoFrame.from_ndarray((np.asarray(picture), opaque), format="pal8")
        start, end = (round(count * _GIF_CLOCK / self._fps) for count in (self._count, self._count + 1))
        frame.pts, frame.time_base = start, Fraction(1, _GIF_CLOCK)
        for packet in self._stream.encode(frame):
            packet.duration = end - start
            self._container.mux(packet)
        self._count += 1

    def close(self) -> None:
        try:
            self._container.mux(self._stream.encode(None))
        finally:
            self._container.close()
