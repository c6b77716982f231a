"""How a codebook is used: share of codes seen and entropy, at a stated number of tokens.

T = tokens, G = groups of a code, S = tokens kept of a sample, n = samples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tok4d.errors import Tok4dError

EXACT = 1 << 24  # float32 holds whole numbers up to here
NOTHING = -1.0


@dataclass(frozen=True)
class GroupUse:
    """Use of one group's codebook.

    Attributes:
        seen: different codes among the tokens.
        bits: entropy of their frequencies.
    """

    seen: int
    bits: float

    @property
    def perplexity(self) -> float:
        """Number of equally frequent codes with this entropy."""
        return float(2**self.bits)


def code_use(indices: np.ndarray) -> list[GroupUse]:
    """Use of every group by codes `[T, G]`, T > 0; the same for any order of tokens.

    The entropy is that of the frequencies seen, which is too low where there are not many times more tokens than
    codes, and grows with T: compare only at the same T.

    Raises:
        Tok4dError: for no tokens.
    """
    if indices.ndim != 2 or not len(indices):
        raise Tok4dError(f"codes must be [T, G] of at least one token, got {list(indices.shape)}")
    found = []
    for column in indices.T:
        counts = np.sort(np.unique(column, return_counts=True)[1]).astype(np.float64)
        shares = counts / counts.sum()
        found.append(GroupUse(len(counts), max(0.0, float(-(shares * np.log2(shares)).sum()))))
    return found


def uniform_use(codes: int, tokens: int) -> tuple[float, float]:
    """What `code_use` gives on average of `tokens` codes drawn evenly from `codes`: share of codes seen, and bits.

    Exact sums over the binomial distribution of how often one code is drawn, no draws. No tokenizer can look more even
    at so many tokens, but by chance.

    Raises:
        Tok4dError: for fewer than one code or token.
    """
    if codes < 1 or tokens < 1:
        raise Tok4dError(f"a code of {codes} at {tokens} tokens has no use; both must be at least 1")
    if codes == 1:
        return 1.0, 0.0
    seen, unseen = -math.log(codes), math.log1p(-1 / codes)
    expected = tokens / codes
    reach = 40 + 12 * math.sqrt(expected)  # beyond it the probabilities vanish in float64
    counts = range(max(2, int(expected - reach)), min(tokens, int(expected + reach)) + 1)
    lost = 0.0  # expectation of k log2 k for the count k of one code; 0 for k below 2
    for k in counts:
        ways = math.lgamma(tokens + 1) - math.lgamma(k + 1) - math.lgamma(tokens - k + 1)
        lost += math.exp(ways + k * seen + (tokens - k) * unseen) * k * math.log2(k)
    return -math.expm1(tokens * unseen), max(0.0, math.log2(tokens) - codes * lost / tokens)


def as_row(indices: np.ndarray, tokens: int) -> np.ndarray:
    """Codes `[T, G]` of one sample as a row `[tokens * G]` float32: S = min(T, tokens) of them, evenly spaced.

    What is left of the row holds -1.

    Raises:
        Tok4dError: for a code that float32 cannot hold exactly.
    """
    if indices.size and int(indices.max()) >= EXACT:
        raise Tok4dError(f"code {int(indices.max())} is beyond {EXACT - 1}, the largest that a column holds exactly")
    chosen = indices
    if len(indices) > tokens:
        chosen = indices[(np.arange(tokens) * len(indices)) // tokens]
    row = np.full((tokens, indices.shape[1]), NOTHING, dtype=np.float32)
    row[: len(chosen)] = chosen
    return row.ravel()


def from_rows(rows: np.ndarray, groups: int) -> np.ndarray:
    """The codes of rows `[n, S * G]` in their order, `[T, G]` int64."""
    tokens = rows.reshape(-1, groups)
    return tokens[tokens[:, 0] != NOTHING].astype(np.int64)
