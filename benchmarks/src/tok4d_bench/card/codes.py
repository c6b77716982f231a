"""Use of the codebooks at a fixed number of tokens.

T = tokens, G = groups of a code.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from tok4d_bench.statistics.codes import code_use


class CodeSums:
    """Collects the first tokens of all samples, up to a number.

    Args:
        tokens: how many at most: usage and perplexity grow with it, so cards compare at equal numbers.
    """

    def __init__(self, tokens: int) -> None:
        self.wanted = tokens
        self._parts: list[np.ndarray] = []
        self.tokens = 0

    def add(self, indices: Tensor) -> None:
        """Codes `[T, G]` of a batch."""
        some = indices.detach().cpu().numpy()[: self.wanted - self.tokens]
        if len(some):
            self._parts.append(some)
            self.tokens += len(some)

    def as_dict(self, vocabulary: Sequence[int]) -> dict[str, Any]:
        """For JSON: use of every group, and means over groups."""
        used = code_use(np.concatenate(self._parts))
        groups = [
            {"group": g, "codes": size, "seen": one.seen, "usage": one.seen / size, "perplexity": one.perplexity}
            for g, (one, size) in enumerate(zip(used, vocabulary, strict=True))
        ]
        return {
            "tokens": self.tokens,
            "tokens_asked_for": self.wanted,
            "usage": float(np.mean([g["usage"] for g in groups])),
            "perplexity": float(np.mean([g["perplexity"] for g in groups])),
            "most_perplexity": float(min(self.tokens, min(vocabulary))),
            "groups": groups,
        }
