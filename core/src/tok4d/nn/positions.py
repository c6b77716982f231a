"""Learned 2D position table: a square grid of vectors (16 x 16 by default), resized to every sample's own grid.

T = packed tokens, C = channels, N = side of the table. The table embeds x and y; t and z are left to RoPE.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tok4d.errors import Tok4dError
from tok4d.nn.precision import at_least_float32
from tok4d.tokens import Extent, TokenSet


class PositionTable(nn.Module):
    """Position embedding of SigLIP2 and AToken: a learned table, resized, then looked up.

    Args:
        width: C.
        side: N; the weights are `[N * N, C]`, row by row.
        resize: `bilinear` is antialiased (SigLIP2 NaFlex, AToken); `bicubic` is not, which is how towers of fixed
            resolution are run on other sizes.
    """

    def __init__(self, width: int, side: int = 16, resize: str = "bilinear") -> None:
        super().__init__()
        self.side, self.resize = side, resize
        self.position_embedding = nn.Embedding(side * side, width)
        nn.init.trunc_normal_(self.position_embedding.weight, std=0.02)

    def resized(self, rows: int, columns: int) -> Tensor:
        """The table on a `rows` x `columns` grid, `[rows, columns, C]`, float32 at least."""
        table: Tensor = at_least_float32(self.position_embedding.weight).unflatten(0, (self.side, self.side))
        if (rows, columns) == (self.side, self.side):
            return table
        image = table.permute(2, 0, 1)[None]
        size = (rows, columns)
        smooth = self.resize == "bilinear"
        resized = F.interpolate(image, size=size, mode=self.resize, align_corners=False, antialias=smooth)
        return resized[0].permute(1, 2, 0)

    def forward(self, tokens: TokenSet, extents: tuple[Extent, ...]) -> Tensor:
        """Embedding of every token, `[T, C]`; each distinct grid is resized once a batch.

        Args:
            tokens: only coordinates and lengths are read.
            extents: grid extent of every sample.

        Raises:
            Tok4dError: for a token outside its sample's grid: it would read another sample's positions.
        """
        grids = list(dict.fromkeys(extent[1:3] for extent in extents))
        if not grids:
            return self.position_embedding.weight.new_zeros(0, self.position_embedding.embedding_dim)
        flat = torch.cat([self.resized(*grid).flatten(0, 1) for grid in grids])
        index = tokens.shared(("table", extents), lambda: _table_index(tokens, extents, grids))
        return F.embedding(index, flat)


def _table_index(tokens: TokenSet, extents: tuple[Extent, ...], grids: list[tuple[int, int]]) -> Tensor:
    """Row of every token in the concatenated tables, int64 `[T]`."""
    starts, total = {}, 0
    for grid in grids:
        starts[grid], total = total, total + grid[0] * grid[1]
    device, sample = tokens.coords.device, tokens.seqs.index
    offset = torch.tensor([starts[e[1:3]] for e in extents], device=device)[sample]
    sizes = torch.tensor([e[1:3] for e in extents], device=device)[sample]
    xy = tokens.coords[:, 1:3].long()
    outside = ((xy < 0) | (xy >= sizes)).any(1)
    if outside.any():
        token = int(outside.nonzero()[0])
        place, extent = tuple(tokens.coords[token].tolist()), extents[int(sample[token])]
        raise Tok4dError(f"token {token} at (t, x, y, z) = {place} is outside its grid {extent}")
    return offset + xy[:, 0] * sizes[:, 1] + xy[:, 1]
