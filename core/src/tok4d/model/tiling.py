"""Temporal tiles: attention stays inside a tile of a few latent steps; a decoder may also see the end of the last one.

T = packed tokens, S = packed keys, M = remembered keys, K = cached steps, H = heads, D = head dim. A tile is 16 frames
= 4 latent steps by default. With K cached steps, keys of the previous tile's last K steps are visible to a tile, layer
by layer. Layer i of a tile needs layer i of the previous tile only, so there are two ways to the same result: all tiles
of a clip in one packed pass (`tile`: training, short clips), or one tile at a time with the keys kept in a `TileMemory`
(decoding clips of any length in constant memory).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from tok4d.errors import Tok4dError
from tok4d.nn.attention import equal_runs
from tok4d.nn.block import Context, KeyMemory
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

    @cached_property
    def as_samples(self) -> TokenSet:
        """Coordinates and lengths of the groups, each as a sample of its own, without features."""
        blank = torch.zeros(len(self.coords), 0, device=self.coords.device)
        return TokenSet(blank, self.coords, self.seqs.lengths)

    def context(self, head_dim: int, rope: bool, scale: float = 1.0) -> Context:
        """Boundaries and rotations for the blocks of one stack; `scale` multiplies the coordinates of RoPE."""
        rotation = rotations(self.coords, head_dim, scale) if rope else None
        if self.key_coords is None:
            return Context(self.seqs, rotation)
        key_rotation = rotations(self.key_coords, head_dim, scale) if rope else None
        return Context(self.seqs, rotation, self.key_order, self.key_seqs, key_rotation)


def tile(tokens: TokenSet, steps: int, cached: int = 0, windows: str = "sample") -> Tiles:
    """Group tokens by tiles of `steps` latent steps, with `cached` steps of the previous tile visible as keys.

    Built once per batch and kept with its coordinates. Groups of equal length come to stand side by side, so that
    each distinct length is one attention call. `windows` says where tiles begin: at t = 0, or at the smallest t of
    the `batch`.
    """
    return tokens.shared(("tiles", steps, cached, windows), lambda: _tile(tokens, steps, cached, windows))


def _tile(tokens: TokenSet, steps: int, cached: int, windows: str) -> Tiles:
    t = tokens.coords[:, 0]
    extents = [extent[0] for extent in tokens.extents()]
    if windows == "batch" and len(t):
        first = int(t.min())
        t, extents = t - first, [extent - first for extent in extents]
    count = max((-(-extent // steps) for extent in extents), default=1)
    if count <= 1:  # nobody spans two tiles: samples are the groups
        return _equal_lengths_together(Tiles(None, tokens.seqs, tokens.coords))
    number = torch.div(t, steps, rounding_mode="floor").long()
    if ((number < 0) | (number >= count)).any():
        raise Tok4dError(
            f"a token lies outside its grid along t (the largest has {count} tiles of {steps}); validate()"
        )
    group = tokens.seqs.index * count + number
    order = None
    if (group[1:] < group[:-1]).any():
        order = torch.argsort(group, stable=True)
        group, number, t = group[order], number[order], t[order]
    coords = (tokens.coords if order is None else tokens.coords[order]).clone()
    coords[:, 0] = t % steps
    local = coords[:, 0].clone()
    if cached:
        coords[:, 0] += cached * (number > 0)
    tiles = Tiles(order, _segments(group), coords)
    if cached:
        tiles = _with_keys(tiles, group, local, count, steps, cached)
    return _equal_lengths_together(tiles)


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


def _equal_lengths_together(tiles: Tiles) -> Tiles:
    """Reorder the groups by their lengths where that saves attention calls; each group stays as it is inside."""
    key_seqs = tiles.seqs if tiles.key_seqs is None else tiles.key_seqs
    pairs = list(zip(tiles.seqs.lengths, key_seqs.lengths, strict=True))
    if sum(1 for _ in equal_runs(tiles.seqs, key_seqs)) == len(set(pairs)):
        return tiles
    by_length = sorted(range(len(pairs)), key=pairs.__getitem__)
    device = tiles.coords.device
    place = torch.empty(len(pairs), dtype=torch.int64)
    place[by_length] = torch.arange(len(pairs))
    place = place.to(device)
    moved = torch.argsort(place[tiles.seqs.index], stable=True)
    order = moved if tiles.order is None else tiles.order[moved]
    seqs = Seqs(tuple(pairs[i][0] for i in by_length), device)
    if tiles.key_order is None or tiles.key_coords is None:
        return Tiles(order, seqs, tiles.coords[moved])
    moved_keys = torch.argsort(place[key_seqs.index], stable=True)
    position = torch.empty_like(moved).index_copy(0, moved, torch.arange(len(moved), device=device))
    return Tiles(
        order,
        seqs,
        tiles.coords[moved],
        position[tiles.key_order[moved_keys]],
        tiles.key_coords[moved_keys],
        Seqs(tuple(pairs[i][1] for i in by_length), device),
    )


def _segments(group: Tensor) -> Seqs:
    """Boundaries of the runs of equal numbers."""
    _, counts = torch.unique_consecutive(group, return_counts=True)
    return Seqs(tuple(counts.tolist()), group.device)


class TileMemory:
    """Keys and values of the last K steps of every clip's newest tile, for a stack that runs tile by tile.

    Args:
        blocks: how many blocks the stack has; each has a memory of its own.
        steps, cached: latent steps of a tile, and how many of them (K) the next tile sees.
        windows: as for `tile`; `batch` begins at the smallest t of the first batch.
    """

    def __init__(self, blocks: int, steps: int, cached: int, windows: str = "sample") -> None:
        self.layers = [KeyMemory() for _ in range(blocks)]
        self.steps, self.cached, self.windows = steps, cached, windows
        self.first: int | None = None
        self.numbers: list[int | None] = []  # newest tile of every clip
        self.coords = torch.zeros(0, 4, dtype=torch.int32)  # of the remembered keys, t in 0..K-1
        self.samples = torch.zeros(0, dtype=torch.int64)

    def tiles(self, tokens: TokenSet) -> Tiles:
        """Groups and keys of the next tile of every clip, one group a clip; and what the layers keep of it.

        Args:
            tokens: one tile at most of each of the same clips as before; a clip that has ended has no tokens.

        Raises:
            Tok4dError: for tokens of two tiles of one clip, a tile that is not later than the one before, or another
                number of clips.
        """
        t = tokens.coords[:, 0]
        if self.first is None:
            self.first = int(t.min()) if self.windows == "batch" and len(t) else 0
        t = t - self.first
        numbers = self._advance(tokens, torch.div(t, self.steps, rounding_mode="floor"))
        index, device = tokens.seqs.index, tokens.coords.device
        local = t % self.steps
        coords = tokens.coords.clone()
        coords[:, 0] = local + self.cached * _flags([bool(number) for number in numbers], device)[index]
        # Keys: what is remembered of the tile just before, then the clip's own, clip by clip.
        self.coords, self.samples = self.coords.to(device), self.samples.to(device)
        follows = [new is not None and new - 1 == old for old, new in zip(self.numbers, numbers, strict=True)]
        usable = _flags(follows, device)[self.samples].nonzero()[:, 0]
        remembered = len(self.samples)
        samples = torch.cat([self.samples[usable], index])
        order = torch.argsort(samples, stable=True)
        source = torch.cat([usable, remembered + torch.arange(len(index), device=device)])[order]
        key_coords = torch.cat([self.coords[usable], coords])[order]
        key_seqs = Seqs(tuple(torch.bincount(samples, minlength=len(tokens)).tolist()), device)
        # Kept for the next call: the last steps of this tile, and all of a clip that has no tokens now.
        waiting = _flags([number is None for number in numbers], device)[self.samples].nonzero()[:, 0]
        last = (local >= self.steps - self.cached).nonzero()[:, 0]
        for layer in self.layers:
            layer.keep = torch.cat([waiting, remembered + last])
        last_coords = tokens.coords[last].clone()
        last_coords[:, 0] = local[last] - (self.steps - self.cached)
        self.coords = torch.cat([self.coords[waiting], last_coords])
        self.samples = torch.cat([self.samples[waiting], index[last]])
        self.numbers = [old if new is None else new for old, new in zip(self.numbers, numbers, strict=True)]
        return Tiles(None, tokens.seqs, coords, source, key_coords, key_seqs)

    def _advance(self, tokens: TokenSet, number: Tensor) -> list[int | None]:
        """Tile number of every clip, None for one without tokens now."""
        if not self.numbers:
            self.numbers = [None] * len(tokens)
        if len(tokens) != len(self.numbers):
            raise Tok4dError(f"this stream has {len(self.numbers)} clips, got a batch of {len(tokens)}")
        numbers: list[int | None] = []
        for i, (own, newest) in enumerate(zip(number.split(tokens.lengths), self.numbers, strict=True)):
            if not len(own):
                numbers.append(None)
                continue
            low, high = int(own.min()), int(own.max())
            if low != high:
                raise Tok4dError(f"clip {i} has tokens of tiles {low} to {high} of {self.steps} steps; give one a call")
            if low < 0 or (newest is not None and low <= newest):
                raise Tok4dError(f"clip {i}: tile {low} comes after tile {newest}; tiles must come in order")
            numbers.append(low)
        return numbers


def _flags(values: list[bool], device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=torch.bool, device=device)


def split_tiles(tokens: TokenSet, steps: int) -> Iterator[TokenSet]:
    """The tiles of a batch one after the other, each a batch of the same clips; origins and coordinates stay."""
    number = torch.div(tokens.coords[:, 0], steps, rounding_mode="floor")
    for tile_number in torch.unique(number).tolist():
        yield tokens.select(number == tile_number)
