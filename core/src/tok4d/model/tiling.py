"""Temporal tiles: attention stays inside a tile of a few latent steps; a decoder may also see the end of the last one.

T = packed tokens, S = packed keys, K = cached steps. A tile is 16 frames = 4 latent steps by default. With K cached
steps, keys of the previous tile's last K steps are visible to a tile, layer by layer; since layer i of a tile needs
layer i of the previous tile only, all tiles of a clip run in one packed pass, in training and in decoding alike.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tok4d.errors import Tok4dError
from tok4d.nn.block import Context
from tok4d.nn.rope import rotations
from tok4d.seqs import Seqs
from tok4d.tokens import TokenSet


@dataclass(frozen=True)
class Tiles:
    """Tokens grouped by (sample, temporal tile).

    Attributes:
        order: permutation that groups them, int64 `[T]`; None when they already are.
        seqs: boundaries of the groups.
        coords: `[T, 4]` int32, grouped, with t counted from the tile's start (plus K from the second tile on).
        key_order, key_coords, key_seqs: keys visible to every group, when K > 0 and a sample spans several tiles.
    """

    order: Tensor | None
    seqs: Seqs
    coords: Tensor
    key_order: Tensor | None = None
    key_coords: Tensor | None = None
    key_seqs: Seqs | None = None

    def group(self, x: Tensor) -> Tensor:
        """Rows `[T, ...]` in grouped order."""
        return x if self.order is None else x[self.order]

    def restore(self, x: Tensor) -> Tensor:
        """Grouped rows back in input order."""
        if self.order is None:
            return x
        return torch.empty_like(x).index_copy(0, self.order, x)

    def context(self, head_dim: int, rope: bool, scale: float = 1.0) -> Context:
        """Boundaries and rotations for the blocks of one stack; `scale` multiplies the coordinates of RoPE."""
        rotation = rotations(self.coords, head_dim, scale) if rope else None
        if self.key_coords is None:
            return Context(self.seqs, rotation)
        key_rotation = rotations(self.key_coords, head_dim, scale) if rope else None
        return Context(self.seqs, rotation, self.key_order, self.key_seqs, key_rotation)


def tile(tokens: TokenSet, steps: int, cached: int = 0) -> Tiles:
    """Group tokens by tiles of `steps` latent steps, with `cached` steps of the previous tile visible as keys.

    Built once per batch and kept with its coordinates.
    """
    return tokens.shared(("tiles", steps, cached), lambda: _tile(tokens, steps, cached))


def _tile(tokens: TokenSet, steps: int, cached: int) -> Tiles:
    count = max((-(-extent[0] // steps) for extent in tokens.extents()), default=1)
    if count <= 1:  # nobody spans two tiles: samples are the groups
        return Tiles(None, tokens.seqs, tokens.coords)
    number = torch.div(tokens.coords[:, 0], steps, rounding_mode="floor").long()
    if ((number < 0) | (number >= count)).any():
        raise Tok4dError(
            f"a token lies outside its grid along t (the largest has {count} tiles of {steps}); validate()"
        )
    group = tokens.seqs.index * count + number
    order = None
    if (group[1:] < group[:-1]).any():
        order = torch.argsort(group, stable=True)
        group, number = group[order], number[order]
    seqs = _segments(group)
    coords = (tokens.coords if order is None else tokens.coords[order]).clone()
    coords[:, 0] = coords[:, 0] % steps
    if not cached:
        return Tiles(order, seqs, coords)
    local = coords[:, 0].clone()
    coords[:, 0] += cached * (number > 0)
    return _with_keys(Tiles(order, seqs, coords), group, local, count, steps, cached)


def _with_keys(tiles: Tiles, group: Tensor, local: Tensor, count: int, steps: int, cached: int) -> Tiles:
    """Add the keys: for every group, the previous tile's last steps (re-based to 0..K-1), then its own."""
    everything = torch.arange(len(group), device=group.device)
    is_last_tile = (group + 1) % count == 0
    lends = (local >= steps - cached) & ~is_last_tile & torch.isin(group + 1, group)
    source = torch.cat([everything[lends], everything])
    target = torch.cat([group[lends] + 1, group])
    coords = torch.cat([tiles.coords[lends], tiles.coords])
    coords[: int(lends.sum()), 0] = (local[lends] - (steps - cached)).to(coords.dtype)
    order = torch.argsort(target, stable=True)  # stable: the cached keys come before a group's own
    key_seqs = _segments(target[order])
    return Tiles(tiles.order, tiles.seqs, tiles.coords, source[order], coords[order], key_seqs)


def _segments(group: Tensor) -> Seqs:
    """Boundaries of the runs of equal numbers."""
    _, counts = torch.unique_consecutive(group, return_counts=True)
    return Seqs(tuple(counts.tolist()), group.device)
