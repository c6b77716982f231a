"""Dense pictures and clips to tokens and back: an exact, differentiable rearrangement that any plugin may use.

F = frames, T = tokens, C = patch width (pt * ph * pw * 3), N = latent steps, R = patch rows, S = patch columns.
x is the patch ROW and y the patch COLUMN; tokens run step by step, row by row; features are (pt, ph, pw, c) with c
fastest. A still picture is frame 0 of its patch, the other frames are zero; so is what is missing at a clip's end.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from tok4d.errors import ConfigError, Tok4dError, unknown_name
from tok4d.modality import CHANNELS, DEFAULT_PATCH, PatchSize, patch_width
from tok4d.origin import Origin
from tok4d.tokens import TokenSet

FITS = ("pad", "crop")
TAILS = ("pad", "floor")


def check_options(fit: str = "pad", frames: str = "pad") -> None:
    """Refuse options of `patchify` that do not exist.

    Raises:
        ConfigError: naming the value and the choices.
    """
    for name, value, allowed in (("fit", fit, FITS), ("frames", frames, TAILS)):
        if value not in allowed:
            raise ConfigError(unknown_name(name, value, allowed))


def origin_of(
    modality: str,
    shape: Sequence[int],
    patch_size: PatchSize = DEFAULT_PATCH,
    *,
    fit: str = "pad",
    frames: str = "pad",
    fps: float | None = None,
) -> Origin:
    """Origin of a picture (3, H, W) or a clip (F, 3, H, W); arguments as in `patchify`.

    Raises:
        Tok4dError: for another shape, or a picture that cropping to whole patches would leave empty.
    """
    if len(shape) not in (3, 4) or shape[-3] != CHANNELS or min(shape) < 1:
        raise Tok4dError(
            f"a picture must be [3, height, width] and a clip [frames, 3, height, width], none of them zero, "
            f"got {list(shape)}"
        )
    pt, ph, pw = patch_size
    kept = list(shape)
    if fit == "crop":
        kept[-2:] = [shape[-2] // ph * ph, shape[-1] // pw * pw]
        if not min(kept):
            raise Tok4dError(
                f"a picture of {shape[-2]} x {shape[-1]} has no whole patch of {ph} x {pw}; use fit='pad' or enlarge it"
            )
    if frames == "floor" and len(shape) == 4 and shape[0] > pt:
        kept[0] = shape[0] // pt * pt
    count = kept[0] if len(kept) == 4 else 1
    after = [0] * (len(kept) - 3) + [0, -kept[-2] % ph, -kept[-1] % pw]
    if len(kept) == 4:
        after[0] = -count % pt
    return Origin(
        modality=modality,
        shape=tuple(kept),
        grid=(-(-count // pt), -(-kept[-2] // ph), -(-kept[-1] // pw), 1),
        patch=patch_size,
        channels=ph * pw * CHANNELS if count == 1 else patch_width(patch_size),
        padding=tuple((0, added) for added in after),
        fps=fps,
        extra={} if kept == list(shape) else {"cut_from": list(shape)},
    )


def grid_coords(origin: Origin, device: torch.device | None = None) -> Tensor:
    """Coordinates `[T, 4]` int32 (t, x, y, z) of a dense grid, step by step and row by row."""
    steps, rows, columns, _ = origin.grid
    number = torch.arange(steps * rows * columns, dtype=torch.int32, device=device)
    place = number % (rows * columns)
    return torch.stack([number // (rows * columns), place // columns, place % columns, torch.zeros_like(number)], dim=1)


def patchify(
    pixels: Tensor,
    modality: str,
    patch_size: PatchSize = DEFAULT_PATCH,
    *,
    fit: str = "pad",
    frames: str = "pad",
    fps: float | None = None,
) -> TokenSet:
    """Cut a picture `[3, H, W]` or a clip `[F, 3, H, W]` into tokens `[T, C]`.

    Args:
        pixels: floating point, in [-1, 1].
        modality: name for the Origin.
        patch_size: frames, height, width.
        fit: `pad` repeats the edge pixels at the bottom and right; `crop` cuts the centre out (the released models'
            rule), and the cut size is what comes back.
        frames: `pad` fills the last latent step with zero frames and remembers the length; `floor` drops the frames
            beyond the last full step, if there is one (the released models' rule).
        fps: kept in the Origin.

    Raises:
        Tok4dError: when the tensor is not floating point or has another shape.
        ConfigError: for an option that does not exist.
    """
    check_options(fit, frames)
    if not pixels.is_floating_point():
        raise Tok4dError(f"pixels must be floating point in [-1, 1], got {pixels.dtype}")
    origin = origin_of(modality, tuple(pixels.shape), patch_size, fit=fit, frames=frames, fps=fps)
    pt, ph, pw = patch_size
    clip = pixels if pixels.ndim == 4 else pixels[None]
    height, width = origin.shape[-2:]
    top, left = (clip.shape[-2] - height) // 2, (clip.shape[-1] - width) // 2
    count = origin.shape[0] if pixels.ndim == 4 else 1
    clip = clip[:count, :, top : top + height, left : left + width]
    (_, below), (_, right) = origin.padding[-2:]
    if below or right:
        clip = F.pad(clip, (0, right, 0, below), mode="replicate")
    depth = 1 if count == 1 else pt
    clip = rearrange(clip, "f c h w -> f h w c").contiguous()  # then a patch row is one run of memory: twice as fast
    if missing := -count % depth:
        clip = torch.cat([clip, clip.new_zeros(missing, *clip.shape[1:])])
    feats = rearrange(clip, "(n pt) (r ph) (s pw) c -> (n r s) (pt ph pw c)", pt=depth, ph=ph, pw=pw)
    feats = F.pad(feats, (0, patch_width(patch_size) - feats.shape[1]))
    return TokenSet(feats, grid_coords(origin, feats.device), (len(feats),), (origin,))


def unpatchify(feats: Tensor, coords: Tensor, origin: Origin) -> Tensor:
    """Inverse of `patchify` for one sample: `[T, C]` -> pixels of `origin.shape`, differentiable and unclamped.

    Tokens may come in any order; where a token is missing the pixels are zero (grey).

    Raises:
        Tok4dError: when the features are narrower than a patch or a coordinate lies outside of the grid.
    """
    steps, rows, columns, _ = origin.grid
    pt, ph, pw = origin.patch
    depth = 1 if len(origin.shape) == 3 or origin.shape[0] == 1 else pt
    used = depth * ph * pw * CHANNELS
    if feats.shape[1] < used:
        raise Tok4dError(f"these tokens need {used} channels for {depth}x{ph}x{pw} patches, got {feats.shape[1]}")
    patches = _in_grid_order(feats[:, :used], coords, origin)
    sizes = {"n": steps, "r": rows, "s": columns, "pt": depth, "ph": ph, "pw": pw}
    clip = rearrange(patches, "(n r s) (pt ph pw c) -> (n pt) c (r ph) (s pw)", **sizes)
    height, width = origin.shape[-2:]
    clip = clip[:, :, :height, :width]
    return clip[0] if len(origin.shape) == 3 else clip[: origin.shape[0]]


def _in_grid_order(patches: Tensor, coords: Tensor, origin: Origin) -> Tensor:
    """Patches `[N * R * S, C]` in the order of `grid_coords`, without a copy when they already are."""
    dense = grid_coords(origin, coords.device)
    if coords.shape == dense.shape and torch.equal(coords, dense):
        return patches
    extent = torch.tensor(origin.grid, dtype=coords.dtype, device=coords.device)
    if bool(((coords < 0) | (coords >= extent)).any()):
        raise Tok4dError(f"{origin.modality} tokens lie outside of their grid {origin.grid} (t, x, y, z)")
    _, rows, columns, _ = origin.grid
    t, x, y, _ = coords.long().unbind(1)
    blank = patches.new_zeros(len(dense), patches.shape[1])
    return blank.index_copy(0, (t * rows + x) * columns + y, patches)
