"""What is trained when, as pure functions: which task a step has, and which sample a position in a task's order.

Nothing here keeps state, so a run resumes anywhere, and one process with batch 2N sees what two with N see.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate

import numpy as np

from tok4d.errors import ConfigError

_ROUNDS = 4
_MASK = (1 << 64) - 1


def seed_of(*parts: object) -> int:
    """A 63-bit seed from any printable parts; the same on every machine and Python."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


class MixtureSchedule:
    """Step -> task; at every prefix each task is within one batch of its share.

    Of the tasks that have fallen behind far enough, the one is next that would first be a whole batch behind (Tijdeman
    1980, "The chairman assignment problem"). The largest deficit alone exceeds one batch when many tasks have small
    shares.

    Args:
        seed: moves where in the cycle the run begins, so that equal weights do not always start with the same task.
        weights: positive relative shares by task name.

    Raises:
        ConfigError: for no tasks or weights that are not positive.
    """

    def __init__(self, seed: int, weights: Mapping[str, float]) -> None:
        if not weights or min(weights.values()) <= 0:
            raise ConfigError(f"a mixture needs tasks with positive weights, got {dict(weights)}")
        total = sum(weights.values())
        self.shares = {name: weight / total for name, weight in weights.items()}
        self._ties = {name: seed_of(seed, "tie", name) for name in weights}
        # How far behind a task must be; a little less than Tijdeman's bound, for rounding. One task is always due.
        self._enough = 0.5 / max(1, len(weights) - 1) - 1e-9
        self._tasks: list[str] = []
        self._counts = dict.fromkeys(weights, 0)
        self._before: list[int] = []

    def task(self, step: int) -> str:
        """Task of a step (counted from 0)."""
        self._extend(step)
        return self._tasks[step]

    def count(self, step: int) -> int:
        """How many earlier steps had the same task as this one."""
        self._extend(step)
        return self._before[step]

    def _extend(self, step: int) -> None:
        """Fill the schedule up to `step`: linear once, then a look-up."""
        while len(self._tasks) <= step:
            done = len(self._tasks) + 1
            owed = {n: share * done - self._counts[n] for n, share in self.shares.items()}
            due = [n for n in owed if owed[n] > self._enough]
            name = min(due, key=lambda n: ((1 - self._enough - owed[n]) / self.shares[n], self._ties[n]))
            self._before.append(self._counts[name])
            self._tasks.append(name)
            self._counts[name] += 1


def permuted(index: int, size: int, key: int) -> int:
    """Where `index` goes in a pseudo-random permutation of range(size): a Feistel network with cycle walking.

    Constant memory, so that a billion samples are shuffled without a list of them.
    """
    if not 0 <= index < size:
        raise ConfigError(f"index {index} is outside [0, {size})")
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    value = index
    while True:
        left, right = value >> half, value & mask
        for round_ in range(_ROUNDS):
            left, right = right, left ^ (_mix(right, key + round_) & mask)
        value = (left << half) | right
        if value < size:
            return value


def _mix(value: int, key: int) -> int:
    """64-bit finaliser of splitmix64 (Steele et al. 2014)."""
    z = (value * 0x9E3779B97F4A7C15 + key * 0xBF58476D1CE4E5B9 + 0x94D049BB133111EB) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)


class BlockOrder:
    """A permutation that keeps to few blocks (shards, say) at a time, as a pure function of the place.

    Blocks are permuted, then taken in windows, and the samples of a window are permuted.

    Args:
        counts: samples of every block; samples are numbered block by block.
        window: blocks of a window.
        key: chooses the permutation.
    """

    def __init__(self, counts: Sequence[int], window: int, key: int) -> None:
        self.key = key
        firsts = [0, *accumulate(counts)]
        blocks = [permuted(place, len(counts), key) for place in range(len(counts))]
        self._windows = [
            [range(firsts[block], firsts[block] + counts[block]) for block in blocks[first : first + window]]
            for first in range(0, len(blocks), window)
        ]
        self._starts = [0, *accumulate(sum(map(len, samples)) for samples in self._windows)]

    def at(self, place: int) -> int:
        """The sample at a place in [0, sum of counts)."""
        number = bisect_right(self._starts, place) - 1
        first, stop = self._starts[number : number + 2]
        left = permuted(place - first, stop - first, self.key + number + 1)
        for samples in self._windows[number]:
            if left < len(samples):
                return samples[left]
            left -= len(samples)
        raise AssertionError(f"window {number} has no sample {left}")


def sample_index(seed: int, task: str, position: int, size: int) -> int:
    """Which sample stands at a task's global position: every epoch a new permutation of all samples."""
    epoch, offset = divmod(position, size)
    return permuted(offset, size, seed_of(seed, task, "order", epoch))


def sample_rng(seed: int, task: str, position: int) -> np.random.Generator:
    """Randomness of the augmentation at a task's global position."""
    return np.random.default_rng(seed_of(seed, task, "augment", position))
