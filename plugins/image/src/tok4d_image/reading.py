"""Reading image files: content decides the format, the header bounds the size, and all failures are one DataError."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image
from torch import Tensor

from tok4d.colours import parse_background
from tok4d.errors import ConfigError, DataError, Tok4dError
from tok4d.options import from_options
from tok4d_image.pixels import RGB, pixels_of
from tok4d_image.quiet import no_native_messages, no_warnings

FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF")  # nothing exotic is ever tried on an untrusted file
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".gif")
MAX_PIXELS = 64_000_000

# A GIF shows its first frame; the further pictures of an MPO (a phone's JPEG) are previews and gain maps.
_FIRST_FRAME = ("GIF", "MPO")
_ORIENTATION_TAG = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_TIFF_SIZE = (256, 257)  # tags of width and height
_SIDEWAYS = [_TURNS[tag] for tag in (5, 6, 7, 8)]


@dataclass(frozen=True)
class ReadOptions:
    """Options of reading an image.

    Attributes:
        max_pixels: largest width * height, checked in the header before anything is decoded. Pillow's own bound
            (`PIL.Image.MAX_IMAGE_PIXELS`, doubled) holds besides.
        background: colour under transparent pixels: a CSS name or `#rrggbb`.
        frame: which frame of an animated or multi-page file, counted from 0. None: the first of a GIF, and an error
            for other files that have several.
    """

    max_pixels: int = MAX_PIXELS
    background: str = "white"
    frame: int | None = None

    def __post_init__(self) -> None:
        if self.max_pixels < 1:
            raise ConfigError(f"max_pixels must be at least 1, got {self.max_pixels}")
        if self.frame is not None and self.frame < 0:
            raise ConfigError(f"frame must be at least 0, got {self.frame}")
        self.colour()

    @classmethod
    def parse(cls, options: Mapping[str, Any]) -> ReadOptions:
        """From keyword arguments; raises `ConfigError` that names an unknown option and the known ones."""
        return from_options(cls, options, "image option")

    def colour(self) -> RGB:
        """`background` as RGB in 0..255."""
        return parse_background(self.background)


def read_size(path: str | Path, options: ReadOptions | None = None) -> tuple[int, int]:
    """Height and width that `read_pixels` gives, from the header alone.

    Raises:
        DataError: when the header cannot be used, with the path and the reason.
    """
    with _stream(path) as stream:
        return measure(stream, str(path), options or ReadOptions())


def measure(stream: BinaryIO, name: str, options: ReadOptions) -> tuple[int, int]:
    """`read_size` from a seekable stream; `name` stands for the path in errors.

    Raises:
        DataError: as `read_size`.
    """
    with no_warnings(), _opened(stream, name, options) as image, _readable(name, "has a damaged image header"):
        _choose_frame(image, name, options)
        _check_size(image, name, options.max_pixels)
        width, height = image.size
        if image.format == "TIFF":  # some versions of Pillow have turned it already, others turn it later
            width, height = (int(image.tag_v2[tag]) for tag in _TIFF_SIZE)  # type: ignore[attr-defined]
        return (width, height) if _TURNS.get(_orientation(image)) in _SIDEWAYS else (height, width)


def read_pixels(path: str | Path, options: ReadOptions | None = None) -> tuple[Tensor, dict[str, Any]]:
    """Pixels `[3, H, W]` (uint8, or float32 in [0, 1]) of a file, and what was found out about it.

    Raises:
        DataError: when the file cannot be used, with the path and the reason.
    """
    with _stream(path) as stream:
        return decode(stream, str(path), options or ReadOptions())


@contextmanager
def _stream(path: str | Path) -> Iterator[BinaryIO]:
    try:
        if Path(path).is_dir():
            raise DataError(path, "is a folder, not an image file")
        if not Path(path).is_file():
            raise DataError(path, "is not a regular file" if Path(path).exists() else "no such file")
        with Path(path).open("rb") as stream:
            yield stream
    except PermissionError:
        raise DataError(path, "permission denied") from None
    except (OSError, ValueError) as error:
        if isinstance(error, Tok4dError):
            raise
        raise DataError(path, f"cannot be opened ({error})") from None  # a name with a NUL byte, a failing disk


def decode(stream: BinaryIO, name: str, options: ReadOptions) -> tuple[Tensor, dict[str, Any]]:
    """`read_pixels` from a seekable stream; `name` stands for the path in errors.

    Raises:
        DataError: as `read_pixels`.
    """
    if not stream.read(1):
        raise DataError(name, "is empty (0 bytes)")
    stream.seek(0)
    with no_warnings(), _opened(stream, name, options) as image, _readable(name, f"is a damaged {image.format}"):
        frames = _choose_frame(image, name, options)
        _check_size(image, name, options.max_pixels)
        with no_native_messages(any(tile[0] == "libtiff" for tile in getattr(image, "tile", ()))):
            image.load()
        upright = _upright(image)
        return pixels_of(upright, options.colour()), {"format": image.format, "frames": frames}


@contextmanager
def _opened(stream: BinaryIO, name: str, options: ReadOptions) -> Iterator[Image.Image]:
    with _readable(name, "has a damaged image header"):
        try:
            image = Image.open(stream, formats=FORMATS)
        except Image.UnidentifiedImageError:
            kinds = ", ".join(FORMATS)
            raise DataError(name, f"is not a readable image: none of {kinds}, no area, or a damaged header") from None
    with image:
        _check_size(image, name, options.max_pixels)
        yield image


def _check_size(image: Image.Image, name: str, limit: int) -> None:
    width, height = image.size
    if width < 1 or height < 1:
        raise DataError(name, f"has no area ({width}x{height} pixels)")
    if width * height > limit:
        size = f"{width}x{height} = {width * height:,} pixels"
        raise DataError(name, f"{size} exceed the limit of {limit:,} (max_pixels)")


def _choose_frame(image: Image.Image, name: str, options: ReadOptions) -> int:
    """Go to the frame asked for; returns how many there are."""
    frames = int(getattr(image, "n_frames", 1))
    wanted = options.frame
    if wanted is None:
        if frames > 1 and image.format not in _FIRST_FRAME:
            raise DataError(name, f"has {frames} frames or pages; choose one with frame=0..{frames - 1}")
        wanted = 0
    if wanted >= frames:
        raise DataError(name, f"has no frame {wanted}, only 0..{frames - 1}")
    image.seek(wanted)
    return frames


def _upright(image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation. Damaged EXIF is no reason to refuse a picture that decodes."""
    turn = _TURNS.get(_orientation(image))
    if turn is None:
        return image
    turned = image.transpose(turn)
    turned.format = image.format
    return turned


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # whatever Pillow's EXIF parser trips over in hostile bytes
        return 1


@contextmanager
def _readable(name: str, doing: str) -> Iterator[None]:
    """Turn whatever a decoder raises into one DataError; Pillow's plugins raise nearly any type on damaged bytes."""
    try:
        yield
    except DataError:
        raise
    except Tok4dError as error:
        raise DataError(name, str(error)) from None
    except Exception as error:
        text = str(error).strip().rstrip(".") or type(error).__name__
        if isinstance(error, Image.DecompressionBombError):
            text = text.split(", could be")[0]
            raise DataError(name, f"is too large: {text}") from None
        what = "is truncated" if "truncated" in text.lower() else doing
        raise DataError(name, f"{what} ({' '.join(text.split())})") from error
