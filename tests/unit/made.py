"""Random token sets for unit tests."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from tok4d.origin import Origin
from tok4d.tokens import TokenSet

Grid = tuple[int, int, int, int]


def make_tokens(
    lengths: Sequence[int],
    width: int,
    grid: Grid | Sequence[Grid] = (1, 6, 6, 1),
    *,
    seed: int = 0,
    origins: bool = True,
    ordered: bool = False,
    dtype: torch.dtype = torch.float32,
) -> TokenSet:
    """Samples of `lengths` tokens at distinct random places of their grids, normal features.

    Args:
        grid: extent of every sample, or one for all of them.
        origins: whether the samples have origins with that grid.
        ordered: tokens run along t, x, y, z instead of in random order.
    """
    rng = torch.Generator().manual_seed(seed)
    grids = [grid] * len(lengths) if isinstance(grid[0], int) else list(grid)  # type: ignore[list-item]
    coords = []
    for length, extent in zip(lengths, grids, strict=True):
        total = int(torch.tensor(extent).prod())
        places = torch.randperm(total, generator=rng)[:length]
        assert len(places) == length, f"{length} tokens do not fit into {extent}"
        places = places.sort().values if ordered else places
        coords.append(torch.stack(torch.unravel_index(places, tuple(extent)), 1).to(torch.int32))
    feats = torch.randn(sum(lengths), width, generator=rng, dtype=torch.float64).to(dtype)
    made = tuple(Origin("radar", (1, 1, 1), tuple(extent), (1, 1, 1)) for extent in grids)  # type: ignore[arg-type]
    return TokenSet(
        feats, torch.cat([torch.empty(0, 4, dtype=torch.int32), *coords]), tuple(lengths), made if origins else ()
    )
