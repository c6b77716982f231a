"""Which frames of a clip to take: pure functions of its length or its times, and of a generator.

N = frames in the clip, n = frames taken. All return rising frame numbers, int64 `[n]`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tok4d.errors import ConfigError

Indices = NDArray[np.int64]
NEAR, FAR = (1, 3), (4, 12)  # strides for reconstruction (arXiv 2509.14476)


def consecutive(total: int, count: int, strides: tuple[int, int], rng: np.random.Generator) -> Indices:
    """`count` frames at one stride, drawn evenly from `strides` (both ends included), from a place drawn evenly.

    A stride that does not fit into the clip is lowered to the largest that does; a clip shorter than `count` frames is
    taken whole.

    Raises:
        ConfigError: for counts below 1 or strides that are not 1 <= low <= high.
    """
    low, high = strides
    _positive(total=total, count=count)
    if not 1 <= low <= high:
        raise ConfigError(f"strides must be 1 <= low <= high, got {low} and {high}")
    stride = int(rng.integers(low, high + 1))
    place = rng.random()  # drawn always: what follows does not depend on the clip's length
    if total <= count:
        return np.arange(total)
    if count > 1:
        stride = min(stride, (total - 1) // (count - 1))
    first = int(place * (total - (count - 1) * stride))
    return first + stride * np.arange(count)


def uniform(total: int, count: int) -> Indices:
    """`count` frames from the first to the last: i * (N - 1) / (n - 1), rounded down (RECIPE: 8 for retrieval).

    One frame is the middle one; a clip shorter than `count` frames is taken whole.

    Raises:
        ConfigError: for counts below 1.
    """
    _positive(total=total, count=count)
    if count == 1:
        return np.array([(total - 1) // 2])
    if total <= count:
        return np.arange(total)
    return np.arange(count) * (total - 1) // (count - 1)


def at_rate(times: Sequence[float] | NDArray[np.float64], rate: float, limit: int | None = None) -> Indices:
    """The frame that is shown at each of the moments 0, 1/rate, 2/rate, ... seconds after the first.

    No frame is taken twice, so a rate above the clip's own takes every frame. Where that gives more than `limit`, as
    many of them are taken, spread as by `uniform`: 1 frame a second up to 64, and fewer a second of longer clips.

    Args:
        times: seconds at which each frame is shown, rising `[N]` (`Clip.times`).
        rate: frames per second wanted.
        limit: most frames to take.

    Raises:
        ConfigError: for no frames, or a rate or limit that is not positive.
    """
    shown = np.asarray(times, dtype=np.float64)
    if not rate > 0:
        raise ConfigError(f"rate must be positive, got {rate}")
    _positive(total=len(shown), limit=1 if limit is None else limit)
    span = shown[-1] - shown[0]
    moments = np.arange(int(np.floor(span * rate + _SLACK)) + 1) / rate + shown[0]
    # Stamps are rounded to a container's clock, by which a frame may seem to come too late.
    numbers = np.unique(np.searchsorted(shown, moments + _SLACK, side="right") - 1)
    return numbers if limit is None else numbers[uniform(len(numbers), limit)]


def in_span(times: Sequence[float] | NDArray[np.float64], start: float, end: float) -> Indices:
    """Frames whose time lies in [start, end), seconds after the first frame; at least the one shown at `start`.

    Raises:
        ConfigError: for a span that is empty or begins outside the clip.
    """
    shown = np.asarray(times, dtype=np.float64)
    _positive(total=len(shown))
    shown = shown - shown[0]
    if not 0 <= start < end:
        raise ConfigError(f"a time span must be 0 <= start < end, got {start} to {end} s")
    usual = float(np.median(np.diff(shown))) if len(shown) > 1 else 0.0
    if start > shown[-1] + usual:
        raise ConfigError(f"a span from {start} s begins after the last frame, at {shown[-1]:.3f} s")
    first, stop = np.searchsorted(shown, [start - _SLACK, end - _SLACK])
    return np.arange(first, stop) if first < stop else np.array([max(0, int(first) - 1)])


_SLACK = 1e-3  # seconds: half of the coarsest clock in use, 1/1000 s, and rounding errors


def _positive(**values: Any) -> None:
    for name, value in values.items():
        if value < 1:
            raise ConfigError(f"{name} must be at least 1 frame, got {value}")
