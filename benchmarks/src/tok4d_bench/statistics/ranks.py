"""Places of the right answers among scores. A tie counts against the model: scores that are all alike find nothing.

Q = questions, N = candidates, D = width of the vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import comb

import numpy as np

QUESTIONS = 256  # scored at once


def own_ranks(questions: np.ndarray, candidates: np.ndarray, own: Sequence[np.ndarray]) -> np.ndarray:
    """Place of the best right candidate of every question, from 1, by inner product in float64: `[Q]` int64.

    Candidates that are right too do not stand before it; wrong ones with the same score do.

    Args:
        questions: `[Q, D]`.
        candidates: `[N, D]`.
        own: places of each question's right candidates, at least one.
    """
    ranks = np.zeros(len(questions), dtype=np.int64)
    wide = candidates.astype(np.float64)
    for first in range(0, len(questions), QUESTIONS):
        scores = questions[first : first + QUESTIONS].astype(np.float64) @ wide.T
        for row, line in enumerate(scores):
            right = own[first + row]
            before = int((line >= line[right].max()).sum()) - int((line[right] >= line[right].max()).sum())
            ranks[first + row] = 1 + before
    return ranks


def by_luck(candidates: int, own: int, k: int) -> float:
    """Probability that k of the candidates, drawn without replacement, hold one of `own` (hypergeometric)."""
    k = min(k, candidates)
    return 1 - comb(candidates - own, k) / comb(candidates, k)
