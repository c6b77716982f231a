"""Sparse voxels as an octree, one byte a node: the layout of Kaolin's structured point clouds (SPC).

Nodes go level by level from the root, in Morton order within a level; bit i of a node's byte says whether its child i
is there, with i = 4x + 2y + z of the child's halves. Voxels are its leaves, at resolution 2^levels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tok4d.errors import Tok4dError

_MAX_LEVELS = 15


def encode_octree(coords: Tensor, levels: int) -> Tensor:
    """uint8 `[nodes]` of voxels `[T, 3]` with coordinates in [0, 2^levels).

    Raises:
        Tok4dError: when there is no voxel, one lies outside, or `levels` is not in 1..15.
    """
    if not 1 <= levels <= _MAX_LEVELS:
        raise Tok4dError(f"an octree has 1..{_MAX_LEVELS} levels, got {levels}")
    if not len(coords) or int(coords.min()) < 0 or int(coords.max()) >= 1 << levels:
        raise Tok4dError(f"an octree of {levels} levels holds 1 or more voxels in [0, {1 << levels})")
    codes = morton(coords, levels).unique()
    bytes_by_level = []
    for _ in range(levels):
        parents, place = (codes // 8).unique(return_inverse=True)
        bits = torch.ones_like(codes) << (codes % 8)
        bytes_by_level.append(torch.zeros_like(parents).index_add_(0, place, bits))
        codes = parents
    return torch.cat(bytes_by_level[::-1]).to(torch.uint8)


def decode_octree(octree: Tensor, levels: int) -> Tensor:
    """Voxels int32 `[T, 3]` of an octree, sorted by x, then y, then z.

    Raises:
        Tok4dError: when the bytes do not make an octree of that many levels.
    """
    codes, start = torch.zeros(1, dtype=torch.int64, device=octree.device), 0
    child = torch.arange(8, device=octree.device)
    for _ in range(levels):
        nodes = octree[start : start + len(codes)].long()
        if len(nodes) < len(codes) or not bool((nodes > 0).all()):
            raise Tok4dError(f"{len(octree)} bytes are no octree of {levels} levels")
        start += len(codes)
        there = (nodes[:, None] >> child) & 1 > 0
        codes = (codes[:, None] * 8 + child)[there]
    if start != len(octree):
        raise Tok4dError(f"{len(octree)} bytes are no octree of {levels} levels: {start} are used")
    coords = torch.zeros(len(codes), 3, dtype=torch.int64, device=octree.device)
    for bit in range(levels):
        for axis in range(3):
            coords[:, axis] |= (codes >> (3 * bit + 2 - axis) & 1) << bit
    return coords[_order(coords, levels)].to(torch.int32)


def morton(coords: Tensor, levels: int) -> Tensor:
    """Morton codes int64 `[T]`: the bits of x, y, z interleaved, x being the highest of three."""
    coords = coords.long()
    code = torch.zeros(len(coords), dtype=torch.int64, device=coords.device)
    for bit in range(levels):
        for axis in range(3):
            code |= (coords[:, axis] >> bit & 1) << (3 * bit + 2 - axis)
    return code


def _order(coords: Tensor, levels: int) -> Tensor:
    return ((coords[:, 0] << 2 * levels) + (coords[:, 1] << levels) + coords[:, 2]).argsort()
