"""Sparse voxels of the unit cube [-0.5, 0.5]^3: which ones hold points. P = points, T = occupied voxels."""

from __future__ import annotations

import torch
from torch import Tensor


def voxel_of(points: Tensor, resolution: int) -> Tensor:
    """Voxel int64 `[P, 3]` of points `[P, 3]`: floor((p + 0.5) * resolution); outside of [0, resolution) where the
    point is outside of the cube.
    """
    return ((points + 0.5) * resolution).floor().long()


def occupied(points: Tensor, resolution: int) -> Tensor:
    """Voxels int32 `[T, 3]` that hold a point, sorted by x, then y, then z.

    A point outside of the cube by less than half a voxel belongs to the voxel at the border (rounding, and the face of
    the cube at +0.5 itself); one that is further out is dropped.
    """
    scaled = (points + 0.5) * resolution
    inside = ((scaled > -0.5) & (scaled < resolution + 0.5)).all(1)
    index = scaled[inside].floor().long().clamp(0, resolution - 1)
    flat = (index[:, 0] * resolution + index[:, 1]) * resolution + index[:, 2]
    grid = torch.zeros(resolution**3, dtype=torch.bool, device=points.device)
    grid[flat] = True
    return unflatten(grid.nonzero()[:, 0], resolution)


def unflatten(flat: Tensor, resolution: int) -> Tensor:
    """Voxels int32 `[T, 3]` of their numbers (x * resolution + y) * resolution + z."""
    x, rest = flat // resolution**2, flat % resolution**2
    return torch.stack([x, rest // resolution, rest % resolution], dim=1).to(torch.int32)


def centers(coords: Tensor, resolution: int) -> Tensor:
    """Middles `[T, 3]` of voxels in the unit cube."""
    return (coords.float() + 0.5) / resolution - 0.5
