"""Decoding texture images from untrusted bytes: few formats, size bounded by the header, 8-bit RGBA."""

from __future__ import annotations

import io
import warnings

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tok4d_mesh3d.assets import AssetError

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "TGA")
MAX_PIXELS = 1 << 26
MAX_SIDE = 2048  # a render of some hundred pixels shows no more


def decode_texture(content: bytes, max_pixels: int = MAX_PIXELS, max_side: int = MAX_SIDE) -> Tensor:
    """uint8 `[H, W, 4]`; a picture with a side beyond `max_side` is scaled down to it.

    Raises:
        AssetError: when it is no picture in a format of `FORMATS`, is damaged, or has more than `max_pixels` pixels.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                width, height = image.size
                if not 0 < width * height <= max_pixels:
                    raise AssetError(f"has {width}x{height} pixels, the limit is {max_pixels:,}")
                shrink = max(width, height) / max_side
                if shrink > 1:
                    size = max(1, round(width / shrink)), max(1, round(height / shrink))
                    image.draft("RGB", size)  # a JPEG decodes at a fraction of its size at once
                    return _rgba(image.convert("RGBA").resize(size, Image.Resampling.BOX))
                return _rgba(image.convert("RGBA"))
    except AssetError:
        raise
    except Image.UnidentifiedImageError:
        raise AssetError(f"is no picture in any of {', '.join(FORMATS)}") from None
    except Image.DecompressionBombError as error:
        raise AssetError(f"has too many pixels ({error})") from None
    except Exception as error:  # Pillow's decoders raise nearly any type on damaged bytes
        raise AssetError(f"is a damaged picture ({' '.join(str(error).split())})") from None


def _rgba(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image))


def with_alpha(texture: Tensor, mask: Tensor) -> Tensor:
    """`texture` with the alpha of a separate picture: its own alpha where it has one, else its brightness."""
    alpha = mask[..., 3] if bool((mask[..., 3] < 255).any()) else mask[..., :3].float().mean(-1).to(torch.uint8)
    if alpha.shape != texture.shape[:2]:
        resized = Image.fromarray(alpha.numpy()).resize((texture.shape[1], texture.shape[0]))
        alpha = torch.from_numpy(np.array(resized))
    return torch.cat([texture[..., :3], alpha[..., None]], dim=-1)


def has_alpha(texture: Tensor) -> bool:
    """Whether any texel is not opaque."""
    return bool((texture[..., 3] < 255).any())
