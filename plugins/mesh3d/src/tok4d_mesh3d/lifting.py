"""Back-projection: from pictures with depth to sparse voxels with the pixels that show them.

V = views, H, W = height and width, T = occupied voxels, R = voxels along an axis, p = side of a patch in pixels.
Features of a voxel are the p x p x 3 pixels of one view, in the order (row, column, colour).

Two modes:
* `visible` (ours): among the views that see the voxel's middle, the nearest; the p x p pixels round its projection,
  bilinear, pixel centres at half-integers.
* `compat`: what the released AToken models were fed (their packing script): the view with the least depth, whether or
  not anything stands before the voxel; that view is cut into a fixed grid of p x p patches, of which the one is taken
  that `grid_sample(mode="nearest", align_corners=True)` picks; depth pixel (i, j) lies at (j / W, i / H), not at its
  centre. (The release draws 500,000 depth points at random where there are more; here all count.)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from tok4d.errors import ConfigError, Tok4dError, unknown_name
from tok4d_mesh3d.cameras import Cameras
from tok4d_mesh3d.rendering import Views
from tok4d_mesh3d.voxels import centers, occupied

MODES = ("visible", "compat")
_CHUNK = 8192  # voxels whose patches are cut at once


@dataclass(frozen=True)
class Lifted:
    """Sparse voxels of one object.

    Attributes:
        coords: int32 `[T, 3]`, x, y, z in [0, R), sorted in that order.
        features: float32 `[T, p * p * 3]` in [0, 1].
        view: int64 `[T]`, the view that a voxel's features come from.
        unseen: how many voxels no view sees (always 0 in `compat`, which does not ask).
    """

    coords: Tensor
    features: Tensor
    view: Tensor
    unseen: int


def lift(
    views: Views,
    cameras: Cameras,
    resolution: int = 64,
    mode: str = "visible",
    patch: int = 16,
    *,
    surface: Tensor | None = None,
) -> Lifted:
    """Voxels that hold a depth point (or a point of `surface`), each with a patch of the nearest view.

    Args:
        resolution: voxels along each axis of the unit cube.
        surface: points `[P, 3]` of the surface itself (`Mesh.surface_points`) for what no camera sees.

    Raises:
        ConfigError: for a mode, resolution or patch that is not possible.
        Tok4dError: when views and cameras do not fit, or no view shows anything.
    """
    _check(views, cameras, resolution, mode, patch)
    points = depth_points(views.depth, cameras, half_pixel=mode == "visible")
    if surface is not None:
        points = torch.cat([points, surface])
    coords = occupied(points, resolution)
    if not len(coords):
        raise Tok4dError("no view shows anything of the object: there is nothing to make voxels of")
    uv, depth = cameras.project(centers(coords, resolution))
    if mode == "compat":
        chosen, unseen = depth.argmin(0), 0
        cut = _grid_patches
    else:
        chosen, unseen = nearest_visible(views.depth, uv, depth, 1 / resolution)
        cut = _centred_patches
    position = uv.gather(0, chosen[None, :, None].expand(1, -1, 2))[0]
    features = [
        cut(views.rgb, chosen[start : start + _CHUNK], position[start : start + _CHUNK], patch)
        for start in range(0, len(coords), _CHUNK)
    ]
    return Lifted(coords, torch.cat(features), chosen, unseen)


def _check(views: Views, cameras: Cameras, resolution: int, mode: str, patch: int) -> None:
    if mode not in MODES:
        raise ConfigError(unknown_name("back-projection mode", mode, MODES))
    if not 1 <= resolution <= 512:
        raise ConfigError(f"resolution must be in 1..512 voxels, got {resolution}")
    if patch < 1 or (mode == "compat" and any(side % patch for side in views.depth.shape[1:])):
        raise ConfigError(f"pictures of {list(views.depth.shape[1:])} pixels cannot be cut into patches of {patch}")
    if len(cameras) != len(views.rgb):
        raise Tok4dError(f"{len(views.rgb)} pictures need as many cameras, got {len(cameras)}")


def depth_points(depth: Tensor, cameras: Cameras, half_pixel: bool = True) -> Tensor:
    """World points `[P, 3]` of all pixels that show something; `half_pixel` places them at the pixels' centres."""
    count, height, width = depth.shape
    shift = 0.5 if half_pixel else 0.0
    y, x = (torch.arange(height) + shift) / height, (torch.arange(width) + shift) / width
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).view(-1, 2)
    points = cameras.unproject(grid, depth.view(count, -1))
    return points[depth.view(count, -1) > 0]


def nearest_visible(depth_maps: Tensor, uv: Tensor, depth: Tensor, tolerance: float) -> tuple[Tensor, int]:
    """For every voxel the nearest view that sees it `[T]`, and how many voxels none sees.

    A view sees a voxel when its middle is in the picture and no surface in its pixel lies more than `tolerance` before
    it. A voxel that none sees gets the nearest view that has it in the picture, and failing that the nearest.

    Args:
        uv, depth: of the voxels' middles, `[V, T, 2]` normalised and `[V, T]`.
    """
    count, height, width = depth_maps.shape
    column, row = (uv[..., 0] * width).floor(), (uv[..., 1] * height).floor()
    inside = (depth > 0) & (column >= 0) & (column < width) & (row >= 0) & (row < height)
    pixel = row.clamp(0, height - 1).long() * width + column.clamp(0, width - 1).long()
    surface = depth_maps.view(count, -1).gather(1, pixel)
    seen = inside & ((surface == 0) | (depth <= surface + tolerance))
    rank = torch.where(seen, 0.0, torch.where(inside, 1e3, 1e6)) + depth
    return rank.argmin(0), int((~seen.any(0)).sum())


def _centred_patches(rgb: Tensor, view: Tensor, uv: Tensor, patch: int) -> Tensor:
    """Patches `[T, p * p * 3]` whose middle is the image position `uv`, bilinear; the border's pixels go on outside.

    All pixels of a patch lie at one fraction of a pixel, so p + 1 rows and columns are cut and blended twice.
    """
    height, width = rgb.shape[2:]
    margin = patch
    padded = F.pad(rgb, (margin,) * 4, mode="replicate").permute(0, 2, 3, 1)
    windows = padded.unfold(1, patch + 1, 1).unfold(2, patch + 1, 1)  # [V, rows, columns, 3, p + 1, p + 1]
    # Pixel k has its centre at k + 0.5; the first of p pixels round u lies (p - 1) / 2 before it.
    x = (uv[:, 0] * width - 0.5 - (patch - 1) / 2 + margin).clamp(0, windows.shape[2] - 1)
    y = (uv[:, 1] * height - 0.5 - (patch - 1) / 2 + margin).clamp(0, windows.shape[1] - 1)
    left, top = x.floor(), y.floor()
    cut = windows[view, top.long(), left.long()]
    cut = cut[..., :-1].lerp(cut[..., 1:], (x - left)[:, None, None, None])
    cut = cut[:, :, :-1].lerp(cut[:, :, 1:], (y - top)[:, None, None, None])
    return cut.permute(0, 2, 3, 1).reshape(len(view), -1)


def _grid_patches(rgb: Tensor, view: Tensor, uv: Tensor, patch: int) -> Tensor:
    """Patches of the fixed grid `[T, p * p * 3]`, nearest with aligned corners; zeros outside of the picture."""
    count, _, height, width = rgb.shape
    rows, columns = height // patch, width // patch
    grid = rgb.view(count, 3, rows, patch, columns, patch).permute(0, 2, 4, 3, 5, 1).reshape(count, rows, columns, -1)
    canonical = uv * 2 - 1  # as grid_sample takes and turns it, rounding included
    column = ((canonical[:, 0] + 1) / 2 * (columns - 1)).round()
    row = ((canonical[:, 1] + 1) / 2 * (rows - 1)).round()
    inside = (column >= 0) & (column < columns) & (row >= 0) & (row < rows)
    picked = grid[view, row.clamp(0, rows - 1).long(), column.clamp(0, columns - 1).long()]
    return picked * inside[:, None]
