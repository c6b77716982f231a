"""From a decoded Pillow image to pixel values, whatever its mode: the one place that knows the ranges.

H = height, W = width. Pixels are `[3, H, W]`, either uint8 or float32 in [0, 1]; `to_signed` maps both to [-1, 1].
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from tok4d.errors import Tok4dError

RGB = tuple[int, int, int]
_DIRECT = ("1", "L", "P", "PA", "LA", "La", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV")
_ALPHA = ("PA", "LA", "La", "RGBA", "RGBa")

# Wide formats do not say what white is. The smallest bound that holds every value is taken; nothing else is guessed.
_INTEGER_WHITES = (255.0, 65535.0)
_FLOAT_WHITES = (1.0, 255.0)


def to_signed(pixels: Tensor) -> Tensor:
    """uint8, or float32 in [0, 1], to float32 in [-1, 1]. Every 8-bit value survives the way there and back."""
    if pixels.dtype == torch.uint8:
        return pixels.float().div_(127.5).sub_(1)  # in place: a large picture's cost is memory
    return pixels * 2 - 1


def to_bytes(image: Tensor) -> Tensor:
    """float in [-1, 1] to uint8, clamped and rounded."""
    return ((image.detach().float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def pixels_of(image: Image.Image, background: RGB) -> Tensor:
    """Pixels `[3, H, W]` of a loaded image: uint8 where eight bits hold them, else float32 in [0, 1].

    Grey is repeated, palettes are resolved, alpha is composited over `background`. 16-bit grey is divided by 65535.
    32-bit integers must lie in [0, 255] or [0, 65535] and floats in [0, 1] or [0, 255]: the smallest range that holds
    the whole picture is its scale. Colour profiles are not applied.

    Raises:
        Tok4dError: for values that are not finite or out of these ranges, and for an unknown mode.
    """
    if image.mode.startswith("I;16"):
        return _grey((np.asarray(image) / 65535).astype(np.float32))
    if image.mode == "I":
        whites = (65535.0,) if image.format == "PNG" else _INTEGER_WHITES  # an older Pillow's 16-bit PNG
        return _grey(_scaled(np.asarray(image), whites))
    if image.mode == "F":
        return _grey(_scaled(np.asarray(image), _FLOAT_WHITES))
    if image.mode not in _DIRECT:
        raise Tok4dError(f"pixel mode {image.mode} is not supported; save it as 8-bit RGB")
    if image.mode in _ALPHA or "transparency" in image.info:
        return _composited(np.asarray(_rgba(image)), background)
    return _planes(np.array(image if image.mode == "RGB" else image.convert("RGB")))


def _rgba(image: Image.Image) -> Image.Image:
    """To RGBA; Pillow has no direct way from the two-channel grey modes that are premultiplied."""
    if image.mode == "La":
        image = image.convert("LA")
    return image.convert("RGBA")


def _planes(pixels_HWC: NDArray[np.generic]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(pixels_HWC.transpose(2, 0, 1)))  # torch takes twice as long for bytes


def _grey(pixels_HW: NDArray[np.float32]) -> Tensor:
    return torch.from_numpy(pixels_HW)[None].repeat(3, 1, 1)


def _composited(rgba_HWC: NDArray[np.uint8], background: RGB) -> Tensor:
    """Alpha over the background; stays uint8 where nothing is translucent, so that opaque RGBA equals RGB."""
    alpha = rgba_HWC[..., 3:]
    paper = np.array(background, dtype=np.uint8)
    opaque = alpha == 255
    if opaque.all():
        return _planes(rgba_HWC[..., :3])
    if (opaque | (alpha == 0)).all():
        return _planes(np.where(opaque, rgba_HWC[..., :3], paper))
    weight = alpha.astype(np.float32) / 255
    over = rgba_HWC[..., :3].astype(np.float32) * weight + paper.astype(np.float32) * (1 - weight)
    return _planes(np.clip(over / 255, 0, 1))


def _scaled(values_HW: NDArray[np.generic], whites: tuple[float, ...]) -> NDArray[np.float32]:
    """Values over the smallest of `whites` that holds them all."""
    wide = values_HW.astype(np.float64)
    finite = np.isfinite(wide)
    if not finite.all():
        raise Tok4dError(f"{int((~finite).sum())} of {wide.size} pixel values are not finite (NaN or infinite)")
    low, high = float(wide.min()), float(wide.max())
    for white in whites:
        if low >= 0 and high <= white:
            return (wide / white).astype(np.float32)
    ranges = " or ".join(f"[0, {white:g}]" for white in whites)
    raise Tok4dError(f"pixel values span [{low:g}, {high:g}]; expected {ranges}: rescale the file")
