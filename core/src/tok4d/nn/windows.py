"""Windowed attention over sparse voxels: tokens attend inside cubes of the grid, shifted in every other block.

T = packed tokens, C = channels, w = side of a window in voxels. Windows become segments of the packed batch, so that
`attend` needs to know nothing of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tok4d.errors import Tok4dError
from tok4d.seqs import Seqs
from tok4d.tokens import TokenSet


@dataclass(frozen=True)
class Windows:
    """Tokens grouped by (sample, window).

    Attributes:
        order: permutation that groups them, int64 `[T]`: grouped row i is row `order[i]` of the input.
        inverse: its inverse, int64 `[T]`.
        seqs: boundaries of the groups.
    """

    order: Tensor
    inverse: Tensor
    seqs: Seqs


def windows(tokens: TokenSet, size: int, shift: int, resolution: int) -> Windows:
    """Groups of the tokens whose floor((coordinate + shift) / size) agree along x, y and z; t does not count.

    Built once a batch. Windows of equal length stand side by side, so that each distinct length is one attention
    call; which other samples are in the batch changes nothing inside a window.

    Args:
        tokens: only coordinates and lengths are read.
        size: w.
        shift: added to the coordinates, in voxels, in [0, size).
        resolution: voxels along x, y and z.

    Raises:
        Tok4dError: for a token outside the grid.
    """
    return tokens.shared(("windows", size, shift, resolution), lambda: _windows(tokens, size, shift, resolution))


def _windows(tokens: TokenSet, size: int, shift: int, resolution: int) -> Windows:
    xyz = tokens.coords[:, 1:].long()
    outside = ((xyz < 0) | (xyz >= resolution)).any(1)
    if bool(outside.any()):
        token = int(outside.nonzero()[0])
        raise Tok4dError(
            f"token {token} at (x, y, z) = {tuple(xyz[token].tolist())} is outside the grid of {resolution}^3 voxels"
        )
    cell = torch.div(xyz + shift, size, rounding_mode="floor")
    per_side = (resolution - 1 + shift) // size + 1
    number = tokens.seqs.index
    for axis in range(3):
        number = number * per_side + cell[:, axis]
    _, window, count = torch.unique(number, return_inverse=True, return_counts=True)
    by_length = torch.argsort(count, stable=True)
    place = torch.empty_like(by_length).index_copy_(0, by_length, torch.arange(len(count), device=count.device))
    order = torch.argsort(place[window], stable=True)
    inverse = torch.empty_like(order).index_copy_(0, order, torch.arange(len(order), device=order.device))
    return Windows(order, inverse, Seqs(tuple(count[by_length].tolist()), order.device))


def sincos(coords: Tensor, width: int) -> Tensor:
    """Absolute position of every token by sines and cosines, float32 `[T, C]`.

    With F = C // 6 frequencies f_i = 10000^(-i / F): per axis [sin(F), cos(F)], axes in the order x, y, z, the rest of
    the channels zero.

    Args:
        coords: `[T, 4]` in the order t, x, y, z; t is not embedded.
        width: C.
    """
    count = width // 3 // 2
    exponent = torch.arange(count, dtype=torch.float32, device=coords.device) / count
    angles = coords[:, 1:].float()[:, :, None] * torch.pow(10000.0, -exponent)
    embedded = torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(1)
    return torch.nn.functional.pad(embedded, (0, width - embedded.shape[1]))
