"""Clips through AV1 (libsvtav1 or libaom, whichever PyAV's FFmpeg has): the floor for video.

F = frames, H, W = height and width.
"""

from __future__ import annotations

import io
import os
from fractions import Fraction
from typing import Any

import numpy as np

from tok4d.errors import ConfigError, unknown_name
from tok4d_bench.subjects.codecs import Codec, Pixels

ENCODERS = ("libsvtav1", "libaom-av1")
FPS = 25  # of the coded file; the rate is per pixel, so it decides nothing
SMALLEST = 64  # sides below it are padded: not every encoder takes them


class Av1(Codec):
    """AV1 in an IVF file (44 bytes of header, 12 a frame), 8-bit 4:2:0, one key frame at the start.

    Args:
        crf: 1 (best) to 63. (FFmpeg takes 0 for "not given".)
        bpp: bits per pixel; every clip then gets the lowest crf whose file fits.
        preset: effort of SVT-AV1, 0 (slow, small) to 13; libaom's `cpu-used` at most 8.
        encoder: `libsvtav1` or `libaom-av1`; default: the first that is there.

    Raises:
        ConfigError: where PyAV is not installed or its FFmpeg has no AV1 encoder.
    """

    kind, setting = "av1", "crf"
    lowest, highest, low_is_best = 1, 63, True

    def __init__(
        self,
        source: str = "",
        *,
        device: str = "cpu",
        dtype: str = "float32",
        crf: int | None = None,
        bpp: float | None = None,
        preset: int = 8,
        encoder: str | None = None,
    ) -> None:
        if preset not in range(14):
            raise ConfigError(f"av1: preset must be 0 to 13, got {preset!r}")
        self.encoder = _encoder(encoder)
        super().__init__(source, crf, bpp, 35, preset=preset, encoder=self.encoder)

    def versions(self) -> str:
        import av

        return f"av {av.__version__}, libavcodec {'.'.join(map(str, av.library_versions['libavcodec']))}"

    def encode(self, levels: Pixels, quality: int) -> bytes:
        import av

        os.environ.setdefault("SVT_LOG", "1")  # else the encoder writes twenty lines a clip on stderr
        clip = _padded(levels if levels.ndim == 4 else levels[None])
        out = io.BytesIO()
        with av.open(out, "w", format="ivf") as container:
            stream: Any = container.add_stream(self.encoder, rate=FPS, options=self._options(quality, len(clip)))
            stream.height, stream.width = clip.shape[1:3]
            stream.pix_fmt, stream.time_base, stream.thread_count = "yuv420p", Fraction(1, FPS), 1
            for number, frame in enumerate(clip):
                picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), "rgb24")
                planes = picture.reformat(format="yuv420p", dst_colorspace="ITU709", interpolation="AREA")
                planes.pts = number
                container.mux(stream.encode(planes))
            container.mux(stream.encode())
        return out.getvalue()

    def decode(self, coded: bytes, shape: tuple[int, ...]) -> Pixels:
        import av

        with av.open(io.BytesIO(coded), "r", format="ivf") as container:
            frames = [
                frame.reformat(format="rgb24", src_colorspace="ITU709", interpolation="BICUBIC").to_ndarray()
                for frame in container.decode(video=0)
            ]
        clip = np.stack(frames)[:, : shape[-3], : shape[-2]]
        return clip if len(shape) == 4 else clip[0]

    def _options(self, crf: int, frames: int) -> dict[str, str]:
        """One thread and one key frame: the same file on every machine, and nothing spent on seeking."""
        preset = int(self.settings["preset"])
        if self.encoder == "libsvtav1":
            return {"crf": str(crf), "preset": str(preset), "g": str(max(frames, 2)), "svtav1-params": "lp=1"}
        speed = str(min(preset, 8))
        return {"crf": str(crf), "b": "0", "cpu-used": speed, "g": str(max(frames, 2)), "row-mt": "0"}


def _encoder(wanted: str | None) -> str:
    try:
        import av
    except ImportError as error:
        raise ConfigError('baseline av1 needs the package av; pip install "tok4d[video]"') from error
    there = [name for name in ENCODERS if _can_encode(av, name)]
    if wanted is not None and wanted not in ENCODERS:
        raise ConfigError(unknown_name("AV1 encoder", wanted, ENCODERS))
    if not there or (wanted is not None and wanted not in there):
        raise ConfigError(
            f"baseline av1: FFmpeg of av {av.__version__} has no {wanted or ' or '.join(ENCODERS)}"
            f"{' but ' + ', '.join(there) if there else ''}; its wheels from the package index have libsvtav1"
        )
    return wanted or there[0]


def _can_encode(av: Any, name: str) -> bool:
    try:
        return bool(av.Codec(name, "w").is_encoder)
    except Exception:  # PyAV's errors of unknown codecs have changed their class over versions
        return False


def _padded(clip: Pixels) -> Pixels:
    """Frames of even sides of at least `SMALLEST`, edges repeated at the bottom and right."""
    below, right = (max(SMALLEST, side + side % 2) - side for side in clip.shape[1:3])
    return np.pad(clip, ((0, 0), (0, below), (0, right), (0, 0)), mode="edge") if below or right else clip
