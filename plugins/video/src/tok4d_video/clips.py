"""The clips of a recipe, cut into windows: few long files give many samples.

What is held out is honest only if training has not seen it. Frames of one shot hardly differ (a man in a car seat, a
rabbit before its burrow), so a later window of the same shot would measure memory. Hence whole scenes are held out by
default (`hold_out: clip`); holding out time spans is for recipes whose clips have many shots, with a gap between.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tok4d.data.recipes import Item
from tok4d.data.source import Source, split_groups
from tok4d.errors import ConfigError, DataError, unknown_name
from tok4d.modality import Sample
from tok4d_video.augment import Indices, Span, VideoOptions
from tok4d_video.decoded import Facts

log = logging.getLogger(__name__)
HOLD_OUT = ("clip", "time")
KINDS = ("camera", "animation")
MIN_GAP = 2.0  # seconds
_ROUNDING = 1e-6  # seconds, of sums of times


class Window(NamedTuple):
    """Frames `first` .. `stop - 1` of a file, out of a stretch `low` .. `high - 1` on this side of the split."""

    path: Path
    first: int
    stop: int
    low: int
    high: int


@dataclass
class VideoClips(VideoOptions, Source):
    """Windows of `frames` frames of a recipe's clips, fetched on first use.

    Without a generator a sample is exactly its window, at the smallest stride. With one, it begins anywhere between its
    window and the next, at any of the strides, and stays within its side of the split.

    Attributes:
        recipe: name of the recipe.
        kinds: the kinds of clips to take, in the recipe's words; the degraded copies of others are left out by default.
        hold_out: `clip`: `val` has other scenes than `train`, as in every source; copies of one scene are one group.
            `time`: `val` is the `fold`-th of `folds` equal parts of every clip's time, `train` the rest without the
            `gap` seconds (at least 2) before and after it.
        gap: see `hold_out`.
        hop: frames from one window to the next; 0: windows follow on each other.
    """

    recipe: str = "clips"
    kinds: list[str] = field(default_factory=lambda: list(KINDS))
    hold_out: str = "clip"
    gap: float = MIN_GAP
    hop: int = 0
    folds: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check()
        if self.hold_out not in HOLD_OUT:
            raise ConfigError(unknown_name("way to hold out", self.hold_out, HOLD_OUT))
        if not self.gap >= MIN_GAP:
            raise ConfigError(f"gap must be at least {MIN_GAP:g} s, so that held-out frames are new, got {self.gap}")
        if self.hop < 0:
            raise ConfigError(f"hop must be at least 0 frames, got {self.hop}")
        if self.policy != "stride":
            raise ConfigError(f"windows are taken by the policy 'stride', not {self.policy!r}")

    @cached_property
    def files(self) -> list[Path]:
        """Files with windows on this side of the split, in the recipe's order.

        Raises:
            Tok4dError: when the recipe cannot be fetched.
        """
        from tok4d.data.fetch import ensure

        recipe, folder = ensure(self.recipe)
        known = sorted({item.kind for item in recipe.items})
        for kind in self.kinds:
            if kind not in known and kind not in KINDS:
                raise ConfigError(unknown_name(f"kind in recipe {self.recipe!r}", kind, known))
        items: list[Item] = [item for item in recipe.items if item.kind in self.kinds]
        if not items:
            raise ConfigError(f"recipe {self.recipe!r} has no clip of the kinds {self.kinds}, only {known}")
        if self.hold_out == "time":
            return [folder / item.file for item in items]
        sides = [item.side for item in items]
        kept = split_groups(sides, self.split, self.folds, self.fold)
        if not kept:
            raise DataError(
                f"recipe {self.recipe!r}",
                f"no clip on the {self.split!r} side: {len(set(sides))} scenes in {self.folds} folds leave fold "
                f"{self.fold} without one",
            )
        return [folder / items[i].file for i in kept]

    @cached_property
    def windows(self) -> list[Window]:
        """All samples, in order of file and time.

        Raises:
            DataError: when there is none.
        """
        found, lengths = [], []
        for path in self.files:
            try:
                facts = self.store.facts(str(path), self.opener(path))
            except DataError as error:
                log.warning("left out of recipe %s: %s", self.recipe, error)
                continue
            lengths.append(f"{path.name} {facts.times[-1]:.1f} s")
            found += [Window(path, *window) for stretch in self._stretches(facts) for window in self._cut(stretch)]
        if not found:
            raise DataError(
                f"recipe {self.recipe!r}",
                f"nothing on the {self.split!r} side with hold_out {self.hold_out!r}, {self.folds} folds, gap "
                f"{self.gap:g} s, {self.frames} frames (clips: {', '.join(lengths) or 'none readable'})",
            )
        return found

    def __len__(self) -> int:
        return len(self.windows)

    def key(self, index: int) -> str:
        window = self.windows[index]
        return f"{window.path.name}@{window.first}-{window.stop - 1}"

    def shape(self, index: int, rng: np.random.Generator | None = None) -> tuple[int, ...]:
        path = self.windows[index].path
        return self.presented(str(path), self.opener(path), rng, self._span(index, rng))

    def load(self, index: int, rng: np.random.Generator | None = None) -> Sample:
        """One window, float32 `[n, 3, H, W]` in [-1, 1]."""
        path = self.windows[index].path
        sample = Sample(self.modality, {}, key=self.key(index))
        return self.present(sample, str(path), self.opener(path), rng, self._span(index, rng))

    def _span(self, index: int, rng: np.random.Generator | None) -> Span:
        """The window; in training with room for any stride."""
        window = self.windows[index]
        first, stop = window.first, window.stop
        if rng is not None:
            length = self._hop + (self.most_frames - 1) * self.strides[1]
            stop = min(window.high, first + length)
            first = max(window.low, stop - length)
        return lambda facts: np.arange(first, stop)

    @property
    def _reach(self) -> int:
        """Frames from the first to the last of a window, both counted."""
        return (self.frames - 1) * self.strides[0] + 1

    @property
    def _hop(self) -> int:
        return self.hop or self.frames * self.strides[0]

    def _stretches(self, facts: Facts) -> list[tuple[int, int]]:
        """Runs of frames on this side of the split, from first to one past the last."""
        if self.hold_out == "clip" or self.split == "all":
            return [(0, len(facts))]
        end = float(facts.times[-1]) + 1 / float(facts.fps)
        start, stop = (end * part / self.folds - _ROUNDING for part in (self.fold, self.fold + 1))
        held_out = (facts.times >= start) & (facts.times < stop)
        if self.split == "val":
            return _runs(np.flatnonzero(held_out))
        times = facts.times[held_out]
        if not len(times):
            return [(0, len(facts))]
        gap = self.gap - _ROUNDING
        before, after = facts.times <= times[0] - gap, facts.times >= times[-1] + gap
        runs = _runs(np.flatnonzero(before)) + _runs(np.flatnonzero(after))
        return [run for run in runs if run[1] - run[0] >= self._reach]

    def _cut(self, stretch: tuple[int, int]) -> list[tuple[int, int, int, int]]:
        """Windows of a stretch; a stretch shorter than one window is one window."""
        low, high = stretch
        last = max(low, high - self._reach)
        return [(first, min(first + self._reach, high), low, high) for first in range(low, last + 1, self._hop)]


def _runs(numbers: Indices) -> list[tuple[int, int]]:
    """Consecutive numbers as one run, or none."""
    return [(int(numbers[0]), int(numbers[-1]) + 1)] if len(numbers) else []
