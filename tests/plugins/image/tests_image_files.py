"""Real files of every format, written by Pillow and by hand, for the tests of the image plugin."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image


def picture(height: int = 23, width: int = 37, seed: int = 0) -> Image.Image:
    """A colourful picture with detail everywhere, so that a lost row shows."""
    rng = np.random.default_rng(seed)
    smooth = np.linspace(0, 200, height * width * 3).reshape(height, width, 3)
    return Image.fromarray((smooth + rng.integers(0, 55, size=(height, width, 3))).astype(np.uint8))


def encoded(kind: str, image: Image.Image | None = None, **options) -> bytes:
    """A file's bytes."""
    stream = io.BytesIO()
    (image or picture()).save(stream, format=kind, **options)
    return stream.getvalue()


VARIANTS = {
    "png": lambda: encoded("PNG"),
    "png-palette": lambda: encoded("PNG", picture().convert("P")),
    "jpeg": lambda: encoded("JPEG", quality=90),
    "jpeg-progressive": lambda: encoded("JPEG", quality=90, progressive=True),
    "webp": lambda: encoded("WEBP", quality=80),
    "webp-lossless": lambda: encoded("WEBP", lossless=True),
    "tiff": lambda: encoded("TIFF"),
    "tiff-lzw": lambda: encoded("TIFF", compression="tiff_lzw"),
    "tiff-deflate": lambda: encoded("TIFF", compression="tiff_deflate"),
    "bmp": lambda: encoded("BMP"),
    "gif": lambda: encoded("GIF", picture().convert("P")),
    "gif-animated": lambda: encoded("GIF", picture(), save_all=True, append_images=[picture(seed=1)], duration=50),
}


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds next to nothing."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(10))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
