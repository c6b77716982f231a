"""Opening files with PyAV (FFmpeg's libraries): local files of known containers only, every failure one DataError."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tok4d.errors import DataError, Tok4dError

# Demuxers by FFmpeg's names. Playlists, still pictures, text art and devices are never tried on an untrusted file.
CONTAINERS = (
    "mov", "matroska", "avi", "gif", "asf", "flv", "mpeg", "mpegts", "mpegvideo", "m4v", "h264", "hevc", "ivf",
    "ogg", "rm", "swf", "yuv4mpegpipe", "apng", "mxf", "nut", "dv",
)  # fmt: skip
SUFFIXES = (
    ".mp4", ".mkv", ".webm", ".mov", ".avi", ".gif", ".m4v", ".3gp", ".3g2", ".f4v", ".flv", ".wmv", ".asf", ".mpg",
    ".mpeg", ".m1v", ".m2v", ".vob", ".ts", ".m2ts", ".ogv", ".rm", ".swf", ".y4m", ".apng",
)  # fmt: skip
MAX_PIXELS = 64_000_000
INSTALL = 'pip install "tok4d[video]"'


def import_av() -> Any:
    """The module `av`.

    Raises:
        Tok4dError: when PyAV is not installed or cannot be loaded.
    """
    try:
        import av
    except ImportError as error:
        raise Tok4dError(f"video files need PyAV ({error}); install it with {INSTALL}") from None
    return av


def open_input(path: str | Path, max_pixels: int = MAX_PIXELS) -> Any:
    """An open `av.container.InputContainer`; the caller closes it.

    Raises:
        DataError: when there is no such file, or it is no video container or has a damaged header.
    """
    av = import_av()
    check_file(path)
    options = {"format_whitelist": ",".join(CONTAINERS), "protocol_whitelist": "file", "max_pixels": str(max_pixels)}
    with readable(path, "is not a readable video: no container that is known here, or a damaged header", words=False):
        # The absolute path, so that a name such as `concat:a|b` is never taken for a protocol.
        return av.open(str(Path(path).absolute()), options=options, metadata_errors="replace")


def check_file(path: str | Path) -> None:
    """Refuse what is not a regular file with content.

    Raises:
        DataError: with path and reason.
    """
    try:
        if Path(path).is_dir():
            raise DataError(path, "is a folder, not a video file")
        if not Path(path).is_file():
            raise DataError(path, "is not a regular file" if Path(path).exists() else "no such file")
        if not Path(path).stat().st_size:
            raise DataError(path, "is empty (0 bytes)")
        if not os.access(path, os.R_OK):
            raise DataError(path, "permission denied")
    except (OSError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(path, f"cannot be opened ({error})") from None  # a name with a NUL byte, a failing disk


def video_stream(container: Any, path: str | Path, max_pixels: int = MAX_PIXELS) -> Any:
    """The main video stream, its size checked against `max_pixels`.

    Raises:
        DataError: when there is none (audio only, cover pictures do not count) or its frames have no or too much area.
    """
    stream = container.streams.best("video")
    if stream is None or stream.disposition & type(stream.disposition).attached_pic:
        kinds = sorted({other.type for other in container.streams} - {"video"})
        raise DataError(path, f"has no video stream, only {' and '.join(kinds)}" if kinds else "has no video stream")
    if stream.codec_context is None:
        raise DataError(path, "has video in a codec that this build of FFmpeg does not decode")
    check_size(path, stream.codec_context.width, stream.codec_context.height, max_pixels)
    return stream


def check_size(path: str | Path, width: int, height: int, max_pixels: int) -> None:
    """Refuse frames without area or beyond the limit.

    Raises:
        DataError: naming the size.
    """
    if width < 1 or height < 1:
        raise DataError(path, f"has no usable frame size ({width}x{height}: none, or more than a decoder takes)")
    if width * height > max_pixels:
        size = f"{width}x{height} = {width * height:,} pixels"
        raise DataError(path, f"frames of {size} exceed the limit of {max_pixels:,} (max_pixels)")


@contextmanager
def readable(path: str | Path, what: str, words: bool = True) -> Iterator[None]:
    """Turn whatever PyAV or a decoder raises into one DataError: `what`, and the error's own words if they help."""
    try:
        yield
    except Tok4dError:
        raise
    except MemoryError:
        raise DataError(path, "needs more memory than there is") from None
    except Exception as error:
        if not Path(path).exists():
            raise DataError(path, "vanished while it was read") from None
        raise DataError(path, f"{what} ({first_line(error)})" if words else what) from None


def first_line(error: BaseException) -> str:
    """The words of a library's error, without file name, stack trace and number."""
    text = str(getattr(error, "strerror", None) or error).strip() or type(error).__name__
    return " ".join(text.splitlines()[0].split()).rstrip(".:")
