"""How a codebook is used: share of codes seen and entropy, at a stated number of tokens.

T = tokens, G = groups of a code.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from tok4d.errors import Tok4dError


@dataclass(frozen=True)
class GroupUse:
    """Use of one group's codebook.

    Attributes:
        seen: different codes among the tokens.
        bits: entropy of their frequencies; 2^bits is the perplexity.
    """

    seen: int
    bits: float

    @property
    def perplexity(self) -> float:
        """Number of equally frequent codes with this entropy."""
        return float(2**self.bits)


def code_use(indices: np.ndarray) -> list[GroupUse]:
    """Use of every group by codes `[T, G]`, T > 0.

    The entropy is that of the frequencies seen, which is too low where there are not many times more tokens than
    codes, and grows with T: compare only at the same T.
    """
    if indices.ndim != 2 or not len(indices):
        raise Tok4dError(f"codes must be [T, G] of at least one token, got {list(indices.shape)}")
    found = []
    for column in indices.T:
        counts = np.sort(np.unique(column, return_counts=True)[1]).astype(np.float64)
        shares = counts / counts.sum()
        found.append(GroupUse(len(counts), max(0.0, float(-(shares * np.log2(shares)).sum()))))
    return found


def pack(indices: np.ndarray) -> str:
    """Codes `[T, G]` of one sample as text for a column: `G:base64 of int32`, little-endian, in the order of tokens."""
    return f"{indices.shape[1]}:{base64.b64encode(np.ascontiguousarray(indices, dtype='<i4').tobytes()).decode()}"


def unpack(text: str) -> np.ndarray:
    """Inverse of `pack`: `[T, G]` int32."""
    groups, _, packed = text.partition(":")
    return np.frombuffer(base64.b64decode(packed), dtype="<i4").reshape(-1, int(groups))


def first_codes(texts: Iterable[Sequence[str] | np.ndarray], tokens: int) -> np.ndarray:
    """The first `tokens` codes of packed samples, `[T, G]`; fewer where there are fewer, `[0, 0]` for none.

    Raises:
        Tok4dError: when samples have unequal numbers of groups.
    """
    parts: list[np.ndarray] = []
    found = 0
    for text in (str(one) for several in texts for one in several):
        codes = unpack(text)
        if parts and codes.shape[1] != parts[0].shape[1]:
            raise Tok4dError(f"samples have codes of {parts[0].shape[1]} and of {codes.shape[1]} groups")
        parts.append(codes[: tokens - found])
        found += len(parts[-1])
        if found >= tokens:
            break
    return np.concatenate(parts) if parts else np.zeros((0, 0), dtype=np.int32)
