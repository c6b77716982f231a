"""Writing images: clamped and rounded here, complete or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from PIL import Image
from torch import Tensor

from tok4d.errors import DataError
from tok4d_image.pixels import to_bytes

_FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    ".png": ("PNG", {}),
    ".jpg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".jpeg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".webp": ("WEBP", {"lossless": True}),
    ".bmp": ("BMP", {}),
    ".tif": ("TIFF", {"compression": "tiff_deflate"}),
    ".tiff": ("TIFF", {"compression": "tiff_deflate"}),
}


def to_picture(image: Tensor) -> Image.Image:
    """An 8-bit RGB picture of `[3, H, W]` in [-1, 1]; values outside are clamped.

    Raises:
        ValueError: for another shape, an empty image or values that are not finite.
    """
    if image.ndim != 3 or image.shape[0] != 3 or image.numel() == 0:
        raise ValueError(f"an image must be [3, height, width] with at least one pixel, got {list(image.shape)}")
    if bad := int((~torch.isfinite(image)).sum()):
        raise ValueError(f"{bad} of {image.numel()} values are not finite; nothing was written")
    return Image.fromarray(to_bytes(image).permute(1, 2, 0).contiguous().cpu().numpy())


def write_image(image: Tensor, path: str | Path) -> None:
    """Write `[3, H, W]` in [-1, 1] in the format of the suffix: JPEG at quality 95, all others without loss.

    Raises:
        DataError: for an unknown suffix, an image that cannot be written, or a folder that takes no file. A file that
            was there before stays as it was.
    """
    target = Path(path)
    if target.suffix.lower() not in _FORMATS:
        raise DataError(path, f"unknown image suffix {target.suffix!r}; known: {', '.join(_FORMATS)}")
    kind, options = _FORMATS[target.suffix.lower()]
    unfinished = target.with_name(f".{uuid4().hex}.part")
    try:
        picture = to_picture(image)
        with unfinished.open("xb") as stream:
            picture.save(stream, format=kind, **options)
        unfinished.replace(target)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise DataError(path, f"cannot write: {reason}") from None
    finally:
        unfinished.unlink(missing_ok=True)
