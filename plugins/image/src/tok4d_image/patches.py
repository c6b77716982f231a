"""Images to tokens and back: an exact, differentiable rearrangement.

T = tokens, C = patch width (frames * ph * pw * 3), R = patch rows, S = patch columns.
x is the patch ROW and y the patch COLUMN; tokens run row by row; features are (pt, ph, pw, c) with c fastest.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from tok4d.errors import Tok4dError
from tok4d.modality import CHANNELS, DEFAULT_PATCH, PatchSize, patch_width
from tok4d.origin import Origin
from tok4d.tokens import TokenSet


def origin_of(modality: str, shape: Sequence[int], patch_size: PatchSize = DEFAULT_PATCH) -> Origin:
    """Origin of an image of `shape` (3, H, W), padded at the bottom and right to multiples of the patch.

    Raises:
        Tok4dError: for a shape that is not (3, H, W) with H and W at least 1.
    """
    if len(shape) != 3 or shape[0] != CHANNELS or min(shape) < 1:
        raise Tok4dError(f"an image must be [3, height, width] with at least one pixel, got {list(shape)}")
    _, ph, pw = patch_size
    _, height, width = shape
    below, right = -height % ph, -width % pw
    return Origin(
        modality=modality,
        shape=(CHANNELS, height, width),
        grid=(1, (height + below) // ph, (width + right) // pw, 1),
        patch=patch_size,
        channels=ph * pw * CHANNELS,
        padding=((0, 0), (0, below), (0, right)),
    )


def grid_coords(origin: Origin, device: torch.device | None = None) -> Tensor:
    """Coordinates `[T, 4]` int32 (t, x, y, z) of a dense image grid, row by row."""
    _, rows, columns, _ = origin.grid
    number = torch.arange(rows * columns, dtype=torch.int32, device=device)
    zero = torch.zeros_like(number)
    return torch.stack([zero, number // columns, number % columns, zero], dim=1)


def patchify(image: Tensor, modality: str = "image", patch_size: PatchSize = DEFAULT_PATCH) -> TokenSet:
    """Cut one image `[3, H, W]` into tokens `[T, patch width]`.

    The edge pixels are repeated into the padding. An image is frame 0 of its patch: the other frames are zero.

    Raises:
        Tok4dError: when the tensor is not a floating-point `[3, H, W]`.
    """
    if not image.is_floating_point():
        raise Tok4dError(f"an image must be floating point in [-1, 1], got {image.dtype}")
    origin = origin_of(modality, tuple(image.shape), patch_size)
    _, ph, pw = patch_size
    (_, below), (_, right) = origin.padding[1:]
    if below or right:
        image = F.pad(image[None], (0, right, 0, below), mode="replicate")[0]
    pixels = rearrange(image, "c h w -> h w c").contiguous()  # then a patch row is one run of memory: twice as fast
    patches = rearrange(pixels, "(r ph) (s pw) c -> (r s) (ph pw c)", ph=ph, pw=pw)
    feats = F.pad(patches, (0, patch_width(patch_size) - patches.shape[1]))
    return TokenSet(feats, grid_coords(origin, feats.device), (len(feats),), (origin,))


def unpatchify(feats: Tensor, coords: Tensor, origin: Origin) -> Tensor:
    """Inverse of `patchify` for one sample: `[T, patch width]` -> `[3, H, W]`, differentiable and unclamped.

    Tokens may come in any order; where a token is missing the image is zero (grey).

    Raises:
        Tok4dError: when the features are narrower than a patch or a coordinate lies outside of the grid.
    """
    _, rows, columns, _ = origin.grid
    _, ph, pw = origin.patch
    used = ph * pw * CHANNELS
    if feats.shape[1] < used:
        raise Tok4dError(f"image tokens need {used} channels for {ph}x{pw} patches, got {feats.shape[1]}")
    patches = _in_grid_order(feats[:, :used], coords, origin)
    image = rearrange(patches, "(r s) (ph pw c) -> c (r ph) (s pw)", r=rows, s=columns, ph=ph, pw=pw)
    _, height, width = origin.shape
    return image[:, :height, :width]


def _in_grid_order(patches: Tensor, coords: Tensor, origin: Origin) -> Tensor:
    """Patches `[R * S, C]` row by row, without a copy when they already are."""
    dense = grid_coords(origin, coords.device)
    if coords.shape == dense.shape and torch.equal(coords, dense):
        return patches
    extent = torch.tensor(origin.grid, dtype=coords.dtype, device=coords.device)
    if bool(((coords < 0) | (coords >= extent)).any()):
        raise Tok4dError(f"image tokens lie outside of their grid {origin.grid} (t, x, y, z)")
    place = coords[:, 1].long() * origin.grid[2] + coords[:, 2].long()
    blank = patches.new_zeros(len(dense), patches.shape[1])
    return blank.index_copy(0, place, patches)
