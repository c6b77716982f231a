"""Batches by a budget of tokens: where they begin, and who of several processes gets which samples.

Both are pure functions of the sizes, so that a run resumes anywhere and any number of processes sees the same batches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence


class Packing:
    """Batches of consecutive positions, each as long as the next one still fits into the budget.

    Every position is in exactly one batch. Where batches begin is found from the first one on and kept: the sizes of
    all positions before a batch are asked for once, unless `go_on` tells where it begins.

    Args:
        budget: tokens of a batch, over all processes.
        count: tokens at a position, at most `budget`.
    """

    def __init__(self, budget: int, count: Callable[[int], int]) -> None:
        self.budget, self.count = budget, count
        self.go_on(0, 0)

    def go_on(self, number: int, start: int) -> None:
        """Take it as known that batch `number` begins at `start`, and find out about later ones from there."""
        self._known, self._starts = number, [start]
        self._first: int | None = None  # tokens at the last start, where they are known

    def span(self, number: int) -> range:
        """Positions of a batch, counted from 0; at least one."""
        if number < self._known:
            self.go_on(0, 0)
        place = number - self._known
        while len(self._starts) < place + 2:
            self._extend()
        return range(self._starts[place], self._starts[place + 1])

    def _extend(self) -> None:
        end = self._starts[-1]
        size = self._size(end) if self._first is None else self._first
        total = 0
        while total == 0 or total + size <= self.budget:
            total += size
            end += 1
            size = self._size(end)
        self._starts.append(end)
        self._first = size

    def _size(self, position: int) -> int:
        """Samples without tokens count as one: they must not make an endless batch."""
        return max(1, self.count(position))


def share_out(counts: Sequence[int], world: int) -> list[list[int]]:
    """Places of a batch's samples by process: largest first to whoever has the fewest tokens, in order within each.

    The largest sum exceeds the mean by less than one sample (Graham 1969, "Bounds on multiprocessing timing
    anomalies"). With fewer samples than processes some have none.

    Args:
        counts: tokens of every sample.
        world: number of processes.
    """
    parts: list[list[int]] = [[] for _ in range(world)]
    sums = [0] * world
    for place in sorted(range(len(counts)), key=lambda i: (-counts[i], i)):
        # Of equal sums the one with fewer samples: samples without tokens are spread too.
        rank = min(range(world), key=lambda r: (sums[r], len(parts[r]), r))
        parts[rank].append(place)
        sums[rank] += counts[place]
    return [sorted(part) for part in parts]
