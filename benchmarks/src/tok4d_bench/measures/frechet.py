"""Fréchet distances of originals and reconstructions, pictures and clips, with their parts, error and null.

n = samples of a group, N = samples, F = frames, D = features.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from tok4d.errors import ConfigError
from tok4d.modality import Sample
from tok4d.networks.base import VideoNetwork
from tok4d_bench.contracts import BenchData, ChunkReader, Subject, Value
from tok4d_bench.measures.base import nothing, pictures
from tok4d_bench.measures.features import GOT, WANTED, FeatureMeasure
from tok4d_bench.statistics.blocks import blocks
from tok4d_bench.statistics.frechet import TRUSTED, Frechet, frechet, jackknife
from tok4d_bench.statistics.moments import Moments, principal

# A Fréchet distance on another network than the one that gave it its name is named after that network.
NAMES = {"inception-v3-fid": "fid", "effnet-lite0": "FD-EffNetLite0", "vgg16-features": "FD-VGG16"}
VIDEO_NAMES = {"i3d": "fvd", "transnetv2": "FD-TransNetV2"}
ROWS = 4096  # features added at once


@dataclass
class _Sides:
    """Moments of both sides by group, all about one point."""

    got: list[Moments]
    wanted: list[Moments]

    def projected(self, directions: np.ndarray) -> _Sides:
        return _Sides(*([one.projected(directions) for one in side] for side in (self.got, self.wanted)))

    @property
    def n(self) -> int:
        return sum(one.n for one in self.wanted)


class FrechetDistance(FeatureMeasure):
    """Fréchet distance of originals and reconstructions with its two parts, its error, and a null.

    Gives NAME, NAME/mean and NAME/covariance (|mu1 - mu2|^2 and the rest) and NAME/null: the distance of the even from
    the odd originals, which nothing but chance tells apart, at half the samples. NAME is `fid` for inception-v3-fid
    alone. The parts are given from ten samples a feature on; with fewer, `pca: d` has them on the d directions in
    which the originals vary most, as NAME-pca-d.

    Args:
        network, source: as in `tok4d.networks.load_network`.
        pca: d; 0: none.
        groups: of the delete-a-group jackknife; even.

    Raises:
        ConfigError: for an odd number of groups or fewer than 2, or negative `pca`.
    """

    names: ClassVar[dict[str, str]] = NAMES

    def __init__(self, network: str = "inception-v3-fid", source: str = "", pca: int = 0, groups: int = 10) -> None:
        super().__init__(network, source)
        if groups < 2 or groups % 2 or pca < 0:
            raise ConfigError(f"frechet: groups {groups} must be even and at least 2, and pca {pca} at least 0")
        self.pca, self.groups = pca, groups
        self.name = self.names.get(network, f"FD-{network}")

    def protocol(self) -> dict[str, Any]:
        return {
            "implementation": "tok4d_bench.statistics.frechet",
            "version": 1,
            "sums": "float64",
            "covariance": "unbiased",
            "pca": self.pca,
            "error": f"jackknife, {self.groups} groups",
            **self.network_facts(),
        }

    def finish(self, chunks: ChunkReader, data: BenchData, subject: Subject) -> list[Value]:
        if chunks.n < 4:
            return [nothing(self.name, "a Fréchet distance needs 4 samples", n=chunks.n, higher_is_better=False)]
        sides = self._moments(chunks)
        width = len(sides.got[0].about)
        if self.pca > width:
            raise ConfigError(f"frechet: pca {self.pca} is more than the {width} features of {self.network}")
        sides = _spanned(sides)
        found = self._values(self.name, sides, width)
        if self.pca:
            count = min(self.pca, len(sides.got[0].about))
            directions = principal(_sum(sides.wanted), count)
            found += self._values(f"{self.name}-pca-{self.pca}", sides.projected(directions), count)
        return found

    def _moments(self, chunks: ChunkReader) -> _Sides:
        """One pass over both columns; sample i is in group i mod `groups` on both sides."""
        sides: _Sides | None = None
        start = 0
        for block in blocks(chunks(WANTED, GOT), ROWS):
            if sides is None:
                about = block[WANTED].astype(np.float64).mean(0)
                sides = _Sides(*([Moments.none(about)] * self.groups for _ in range(2)))
            for group in range(self.groups):
                mine = slice((group - start) % self.groups, None, self.groups)
                sides.got[group] = sides.got[group].more(block[GOT][mine])
                sides.wanted[group] = sides.wanted[group].more(block[WANTED][mine])
            start += len(block[GOT])
        assert sides is not None
        return sides

    def _values(self, name: str, sides: _Sides, width: int) -> list[Value]:
        n = sides.n
        note = _warning(n, width)
        whole = frechet(_sum(sides.got), _sum(sides.wanted))
        null = frechet(_sum(sides.wanted[0::2]), _sum(sides.wanted[1::2]))
        errors = jackknife(sides.got, sides.wanted) or (None, None, None)
        return [
            Value(name, whole.total, n, errors[0], False, "", note),
            *self._parts(name, whole, n, width, errors[1:]),
            Value(f"{name}/null", null.total, n, None, None, "", f"even against odd originals, {n // 2} a side"),
        ]

    def _parts(
        self, name: str, whole: Frechet, n: int, width: int, errors: tuple[float | None, ...]
    ) -> Iterator[Value]:
        for part, value, error in zip(("mean", "covariance"), (whole.mean, whole.covariance), errors, strict=True):
            if n < TRUSTED * width:
                least = f"give pca: {n // TRUSTED}" if n >= TRUSTED else f"give at least {TRUSTED} samples"
                why = f"{n} samples for {width} features: needs {TRUSTED} a feature; {least}"
                yield nothing(f"{name}/{part}", why, n=n, higher_is_better=False)
            else:
                share = f"{value / whole.total:.1%} of {name}" if whole.total > 0 else ""
                yield Value(f"{name}/{part}", value, n, error, False, "", share)


class VideoDistance(FrechetDistance):
    """Fréchet distance of clips: `fvd` on I3D alone, FD-TransNetV2 offline. Values and options as `FrechetDistance`.

    StyleGAN-V's protocol measures clips of 16 consecutive frames: a longer clip is cut to its first `frames`. It has
    no shorter ones; here their last frame is repeated, on both sides alike.

    Args:
        frames: seen of a clip; 0: all of it, whatever its length.
    """

    kinds = VideoNetwork
    names = VIDEO_NAMES

    def __init__(
        self, network: str = "i3d", source: str = "", pca: int = 0, groups: int = 10, frames: int = 16
    ) -> None:
        super().__init__(network, source, pca, groups)
        if frames < 0:
            raise ConfigError(f"fvd: frames {frames} must be at least 0")
        self.frames = frames

    def protocol(self) -> dict[str, Any]:
        rule = f"first {self.frames}, last one repeated where fewer" if self.frames else "all"
        return {**super().protocol(), "frames": rule}

    def view(self) -> tuple[object, ...]:
        return (*super().view(), self.frames)

    def seen(self, sample: Sample) -> Tensor:
        """The clip `[1, F, 3, H, W]`, cut or extended."""
        found = pictures(sample)
        if self.frames:
            found = found[torch.arange(self.frames).clamp(max=len(found) - 1)]
        return found[None]


def _spanned(sides: _Sides) -> _Sides:
    """The same moments in the subspace that the samples span, where that is the smaller one.

    Distances there are the same: nothing varies outside of it. A hundred samples of 1280 features span 200 directions.
    """
    if 2 * sides.n >= len(sides.got[0].about):
        return sides
    both = _sum([*sides.got, *sides.wanted])
    values, vectors = np.linalg.eigh(both.covariance)
    spanned = values > max(values[-1], 0.0) * len(values) * np.finfo(np.float64).eps
    spanned[-1] = True  # all samples alike: one direction, in which nothing varies
    return sides.projected(np.ascontiguousarray(vectors[:, spanned]))


def _sum(parts: Sequence[Moments]) -> Moments:
    whole = parts[0]
    for part in parts[1:]:
        whole = whole + part
    return whole


def _warning(n: int, width: int) -> str:
    if n <= width:
        return f"{n} samples for {width} features: the covariances are rank-deficient and the distance biased; see kid"
    if n < TRUSTED * width:
        return f"{n} samples for {width} features: fewer than {TRUSTED} a feature, the distance is biased upwards"
    return ""
