"""Measures of sets: Fréchet and kernel distances of originals and reconstructions, on any network's features.

n = samples of a group, N = samples, F = frames, D = features.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from tok4d.errors import ConfigError, DataError
from tok4d.losses.shared import shared
from tok4d.modality import Sample
from tok4d.networks.base import FeatureNetwork, Network, VideoNetwork
from tok4d_bench.contracts import BenchData, ChunkReader, Columns, Measure, Requirement, Restored, Subject, Value
from tok4d_bench.measures.base import RANGE, by_size, network_requirement, nothing, pictures, pretrained
from tok4d_bench.statistics.blocks import blocks, column
from tok4d_bench.statistics.frechet import TRUSTED, Frechet, frechet, jackknife
from tok4d_bench.statistics.kernel import paired_distance, subset_distances
from tok4d_bench.statistics.moments import Moments, principal

# A Fréchet distance on another network than the one that gave it its name is named after that network.
NAMES = {"inception-v3-fid": "fid", "effnet-lite0": "FD-EffNetLite0", "vgg16-features": "FD-VGG16"}
VIDEO_NAMES = {"i3d": "fvd", "transnetv2": "FD-TransNetV2"}
KERNEL_NAMES = {"inception-v3-fid": "kid", "effnet-lite0": "KD-EffNetLite0", "vgg16-features": "KD-VGG16"}
ROWS = 4096  # features added at once
GOT, WANTED = "features", "features_of_original"


class _Features(Measure):
    """Features of originals and reconstructions as columns `[n, D]`.

    Args:
        network: its name in `tok4d.networks`.
        source: file of its weights, where they are elsewhere.
    """

    kinds: ClassVar[type[Network]] = FeatureNetwork

    def __init__(self, network: str, source: str = "") -> None:
        self.network, self.source = network, source
        self._loaded: Any = None

    @property
    def loaded(self) -> Any:
        """The network, loaded when it is first needed."""
        if self._loaded is None:
            self._loaded = pretrained(self.network, self.source, self.kinds, self.device)
        return self._loaded

    def requirements(self) -> list[Requirement]:
        return [network_requirement(self.network, self.source)]

    def network_facts(self) -> dict[str, Any]:
        """What of the protocol the network decides."""
        facts = {"network": self.network, "digest": self.loaded.digest, "preprocessing": self.loaded.preprocessing}
        return {**facts, "range": RANGE}

    def reference(self, originals: Sequence[Sample]) -> Columns:
        return {WANTED: self.features(originals)}

    def columns(self, originals: Sequence[Sample], results: Sequence[Restored]) -> Columns:
        return {GOT: self.features([one.sample for one in results])}

    def features(self, samples: Sequence[Sample]) -> np.ndarray:
        """`[n, D]` float32; computed once for all measures inside of one `tok4d.losses.shared.sharing` block."""
        return shared("benchmark features", tuple(samples), self.view(), lambda: self._features(samples))

    @torch.inference_mode()
    def _features(self, samples: Sequence[Sample]) -> np.ndarray:
        found = by_size([(self.seen(sample),) for sample in samples], self.loaded, self.device)
        return np.concatenate([one.numpy(force=True) for one in found]).astype(np.float32)

    def view(self) -> tuple[object, ...]:
        """What the features depend on beside the samples."""
        return (self.network, self.source, self.device)

    def seen(self, sample: Sample) -> Tensor:
        """What the network sees of a sample, with a first axis of 1.

        Raises:
            DataError: for what is no single picture.
        """
        found = pictures(sample)
        if len(found) != 1:
            raise DataError(sample.key or "sample", f"is a clip of {len(found)} frames: {self.network} sees pictures")
        return found


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


class FrechetDistance(_Features):
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
                why = f"{n} samples for {width} features: needs {TRUSTED} a feature; give pca: {max(1, n // TRUSTED)}"
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


class KernelDistance(_Features):
    """Kernel distance (KID) of originals and reconstructions: unbiased also where samples are few.

    A sample and its own reconstruction are no pair of independent draws and are left out of the sums; an exact copy
    then has distance 0. The mean over random subsets, as published, where there are more samples than one holds, else
    over all at once with a jackknife error.

    Args:
        network, source: as in `tok4d.networks.load_network`; the value is `kid` for inception-v3-fid alone.
        subsets: how many; 0: all samples at once however many.
        subset_size: samples of each.
        seed: of the choice.

    Raises:
        ConfigError: for negative `subsets`, one subset, or subsets of fewer than 2 samples.
    """

    def __init__(
        self,
        network: str = "inception-v3-fid",
        source: str = "",
        subsets: int = 100,
        subset_size: int = 1000,
        seed: int = 0,
    ) -> None:
        super().__init__(network, source)
        if subsets < 0 or subsets == 1 or subset_size < 2:
            raise ConfigError(f"kid: subsets {subsets} must be 0 or 2 and more, of 2 samples or more: {subset_size}")
        self.subsets, self.subset_size, self.seed = subsets, subset_size, seed
        self.name = KERNEL_NAMES.get(network, f"KD-{network}")

    def protocol(self) -> dict[str, Any]:
        return {
            "implementation": "tok4d_bench.statistics.kernel",
            "version": 1,
            "kernel": "(x.y / D + 1)^3, unbiased, own pairs left out",
            "subsets": self.subsets,
            "subset_size": self.subset_size,
            "seed": self.seed,
            **self.network_facts(),
        }

    def finish(self, chunks: ChunkReader, data: BenchData, subject: Subject) -> list[Value]:
        n = chunks.n
        if n < 2:
            return [nothing(self.name, "a kernel distance needs 2 samples", n=n, higher_is_better=False)]
        if self.subsets == 0 or n <= self.subset_size:
            value, error = paired_distance(column(chunks(WANTED), WANTED), column(chunks(GOT), GOT))
            return [Value(self.name, value, n, error, False, "", "all samples at once")]
        found = self._of_subsets(chunks)
        # n / size subsets would share no sample; more of them repeat what these know
        error = float(found.std(ddof=1) * np.sqrt(self.subset_size / n))
        note = f"{self.subsets} subsets of {self.subset_size}"
        return [Value(self.name, float(found.mean()), n, error, False, "", note)]

    def _of_subsets(self, chunks: ChunkReader) -> np.ndarray:
        """Distances of all subsets; ten subsets' rows at a time are in memory."""
        rng = np.random.Generator(np.random.PCG64(self.seed))
        chosen = np.stack([np.sort(rng.permutation(chunks.n)[: self.subset_size]) for _ in range(self.subsets)])
        found = []
        for few in np.array_split(chosen, -(-self.subsets // 10)):
            wanted = np.unique(few)
            rows = {name: _rows(chunks, name, wanted) for name in (WANTED, GOT)}
            found.append(subset_distances(rows[WANTED], rows[GOT], np.searchsorted(wanted, few)))
        return np.concatenate(found)


def _rows(chunks: ChunkReader, name: str, wanted: np.ndarray) -> np.ndarray:
    """Rows of a column at sorted places."""
    parts, start = [], 0
    for piece in chunks(name):
        end = start + len(piece[name])
        inside = wanted[np.searchsorted(wanted, start) : np.searchsorted(wanted, end)]
        parts.append(piece[name][inside - start])
        start = end
    return np.concatenate(parts)


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
