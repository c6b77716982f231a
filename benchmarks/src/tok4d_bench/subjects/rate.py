"""Rates: the quality setting of a codec whose file is the largest that fits into a budget."""

from __future__ import annotations

from collections.abc import Callable


def largest_within(encode: Callable[[int], bytes], steps: int, budget: float) -> tuple[int, bytes]:
    """The best setting whose file has at most `budget` bytes, and that file, by bisection.

    Files grow with quality. Where a codec breaks that rule by a few bytes, what is found still fits the budget, but a
    slightly better setting might have fitted too. Where even the worst setting is too large, that one is given: its
    true size says so.

    Args:
        encode: rank in [0, steps], the worst first -> file.
    """
    best = (0, encode(0))
    low, high = (0, steps) if len(best[1]) <= budget else (0, 0)
    while low < high:
        middle = (low + high + 1) // 2
        made = encode(middle)
        if len(made) <= budget:
            best, low = (middle, made), middle
        else:
            high = middle - 1
    return best
