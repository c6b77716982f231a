"""Which samples of many shards are on a side of a split, without holding their keys."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

Digests = npt.NDArray[np.uint64]
_BYTES = 16  # of SHA-256: two of a billion keys share them with a probability of 1e-21


def digests_of(keys: Iterable[str]) -> Digests:
    """`[number, 2]`: what names of groups are told apart and ranked by, as two numbers of 64 bits, the higher first."""
    joined = b"".join(hashlib.sha256(key.encode()).digest()[:_BYTES] for key in keys)
    return np.frombuffer(joined, ">u8").astype(np.uint64).reshape(-1, 2)


def on_side(digests: Digests, split: str, folds: int, fold: int) -> npt.NDArray[np.bool_]:
    """Which items are on one side of a split, as `tok4d.data.source.split_groups` says of the names of their groups.

    Args:
        digests: of the names, one an item.
        split, folds, fold: of the source; `train` or `val`.
    """
    order = np.lexsort((digests[:, 1], digests[:, 0]))
    ranked = digests[order]
    ranks = np.concatenate([np.zeros(1, np.int64), np.cumsum((ranked[1:] != ranked[:-1]).any(axis=1))])[: len(ranked)]
    held_out = np.empty(len(ranked), np.bool_)
    held_out[order] = ranks % folds == fold
    return held_out if split == "val" else ~held_out
