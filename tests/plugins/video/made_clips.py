"""Real clips in every container and codec that PyAV's build can write, for the tests of the video plugin.

n = frames, H = height, W = width.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

HEIGHT, WIDTH, COUNT = 48, 64, 24
_ONE = 1 << 16


def picture(number: int, height: int = HEIGHT, width: int = WIDTH, channels: int = 3) -> NDArray[np.uint8]:
    """Frame `number`: a gradient that moves, a red block that walks, no two frames alike, no symmetry."""
    y, x = np.mgrid[:height, :width]
    planes = [(x * 4 + number * 9) % 256, (y * 5 + number * 3) % 256, ((x + y) * 3 + number * 17) % 256]
    made = np.stack([plane // 8 * 8 for plane in planes], -1)
    left = 3 * number % max(1, width - 10)
    made[4:14, left : left + 10] = [250, 20, 30]
    if channels == 4:
        made = np.concatenate([made, ((x * 8 + number * 5) % 256)[..., None]], -1)
    return made.astype(np.uint8)


def make(
    path: Path,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    *,
    frames: Sequence[NDArray[np.uint8]] | None = None,
    count: int = COUNT,
    height: int = HEIGHT,
    width: int = WIDTH,
    rate: Fraction | int = 25,
    options: dict[str, str] | None = None,
    group: int | None = None,
    stamps: Sequence[int] | None = None,
    setup: Callable[[Any], None] | None = None,
    format: str | None = None,
) -> Path:
    """Write a clip; `stamps` are times in milliseconds, `group` the distance of key frames."""
    alpha = pixels in ("yuva420p", "bgra", "rgba", "argb")
    if frames is None:
        frames = [picture(i, height, width, 4 if alpha else 3) for i in range(count)]
    with av.open(str(path), "w", format=format) as container:
        stream = container.add_stream(codec, rate=rate, options=options or {})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pixels
        if group:
            stream.codec_context.gop_size = group
        if stamps:
            stream.codec_context.time_base = Fraction(1, 1000)
        if setup:
            setup(stream.codec_context)
        for number, frame in enumerate(frames):
            picked = av.VideoFrame.from_ndarray(frame, format="rgba" if frame.shape[2] == 4 else "rgb24")
            if stamps:
                picked.pts, picked.time_base = stamps[number], Fraction(1, 1000)
            container.mux(stream.encode(picked))
        container.mux(stream.encode(None))
    return path


def exact(path: Path, **options: Any) -> Path:
    """H.264 without loss in RGB: what is read must equal `picture` to the last bit."""
    return make(path, "libx264rgb", "rgb24", **{"options": {"qp": "0"}, **options})


def _colours(matrix: int, range_: int) -> Callable[[Any], None]:
    def setup(context: Any) -> None:
        context.colorspace, context.color_range = matrix, range_

    return setup


_QUIET = {"x265-params": "log-level=0"}
VARIANTS: dict[str, dict[str, Any]] = {
    "plain.mp4": {"group": 8},
    "odd.mp4": {"pixels": "yuv444p", "height": 47, "width": 63},
    "narrow.mp4": {"width": 48},
    "fragments.mp4": {"group": 8, "options": {"movflags": "frag_keyframe"}},
    "open-groups.mp4": {"options": {"x264-params": "open-gop=1:bframes=3:keyint=8"}},
    "intra-refresh.mp4": {"options": {"x264-params": "intra-refresh=1:keyint=8"}},
    "ten-bits.mp4": {"pixels": "yuv420p10le"},
    "full-range.mp4": {"pixels": "yuvj420p"},
    "bt709.mp4": {"setup": _colours(1, 1)},
    "bt709-full.mp4": {"setup": _colours(1, 2)},
    "bt601.mp4": {"setup": _colours(5, 1)},
    "rgb.mp4": {"codec": "libx264rgb", "pixels": "rgb24"},
    "hevc.mp4": {"codec": "libx265", "options": _QUIET},
    "hevc-ten-bits.mp4": {"codec": "libx265", "pixels": "yuv420p10le", "options": _QUIET},
    "h264.mov": {"group": 8},
    "prores.mov": {"codec": "prores_ks", "pixels": "yuv422p10le"},
    "png-alpha.mov": {"codec": "png", "pixels": "rgba"},
    "h264.mkv": {"group": 8},
    "h264-422.mkv": {"pixels": "yuv422p"},
    "ffv1.mkv": {"codec": "ffv1"},
    "ffv1-alpha.mkv": {"codec": "ffv1", "pixels": "bgra"},
    "late.mkv": {"stamps": [5000 + 40 * i for i in range(COUNT)]},
    "vp8.webm": {"codec": "libvpx", "options": {"deadline": "realtime", "cpu-used": "8"}},
    "vp8-alpha.webm": {"codec": "libvpx", "pixels": "yuva420p", "options": {"auto-alt-ref": "0", "cpu-used": "8"}},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"cpu-used": "8", "deadline": "realtime"}},
    "vp9-odd.webm": {"codec": "libvpx-vp9", "height": 47, "width": 63, "options": {"cpu-used": "8"}},
    "mpeg4.avi": {"codec": "mpeg4", "group": 8},
    "mpeg4-b-frames.avi": {"codec": "mpeg4", "group": 8, "options": {"bf": "2"}},
    "h264.avi": {"group": 8},
    "mjpeg.avi": {"codec": "mjpeg", "pixels": "yuvj420p"},
    "raw.avi": {"codec": "rawvideo", "pixels": "bgr24"},
    "h264.flv": {"group": 8},
    "h264.ts": {"group": 8},
    "mpeg2.mpg": {"codec": "mpeg2video", "group": 8, "options": {"bf": "2"}},
    "wmv2.wmv": {"codec": "wmv2", "group": 8},
    "frames.gif": {"codec": "gif", "pixels": "rgb8"},
    "frames.apng": {"codec": "apng", "pixels": "rgba"},
    "raw.y4m": {"codec": "wrapped_avframe"},
    "av1.mp4": {"codec": "libsvtav1", "height": 64, "options": {"preset": "12"}},
}


def variant(folder: Path, name: str) -> Path:
    """The clip of this name in `VARIANTS`."""
    return make(folder / name, **VARIANTS[name])


def turned(source: Path, degrees: int, mirrored: bool = False) -> Path:
    """A copy of an MP4 that asks to be turned clockwise, after being mirrored left to right."""
    data = bytearray(source.read_bytes())
    place = data.find(b"tkhd") + 4
    matrix = place + 4 + (32 if data[place] else 20) + 16
    a, b, c, d = {0: (1, 0, 0, 1), 90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}[degrees]
    if mirrored:
        a, b = -a, -b
    data[matrix : matrix + 36] = struct.pack(">9i", a * _ONE, b * _ONE, 0, c * _ONE, d * _ONE, 0, 0, 0, 1 << 30)
    copy = source.with_name(f"turned-{degrees}{'-mirrored' if mirrored else ''}.mp4")
    copy.write_bytes(data)
    return copy
