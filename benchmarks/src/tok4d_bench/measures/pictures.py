"""Measures of pairs: PSNR both ways, SSIM, MS-SSIM and LPIPS; of clips, every frame is a picture.

n = samples of a group, N = pictures of a sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import metadata
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tok4d.errors import ConfigError, DataError
from tok4d.metrics import CAP_DB, decibels, squared_error
from tok4d.modality import Sample
from tok4d.networks import load_network
from tok4d.networks.trunks import AlexNetTrunk, Vgg16Trunk
from tok4d.plugins.registry import modality
from tok4d_bench.contracts import BenchData, ChunkReader, Columns, Measure, Requirement, Restored, Subject, Value
from tok4d_bench.measures.base import (
    BOOTSTRAP,
    RANGE,
    PairMean,
    by_size,
    network_requirement,
    nothing,
    one_of,
    picture_pairs,
)
from tok4d_bench.statistics.blocks import column
from tok4d_bench.statistics.bootstrap import mean, statistic_error

LPIPS_TRUNKS = {"vgg": "vgg16", "alex": "alexnet"}
LEAST = {"vgg": Vgg16Trunk.least, "alex": AlexNetTrunk.least}  # pixels of a side


class PSNR(PairMean):
    """PSNR in dB of every sample (a clip has one mean squared error), then the mean; an exact copy counts as 100 dB."""

    name, unit = "psnr", "dB"

    def facts(self) -> dict[str, Any]:
        return {"implementation": "tok4d.metrics.decibels", "version": 1, "peak": 2, "cap": CAP_DB}

    def scores(self, originals: Sequence[Sample], restored: Sequence[Sample]) -> list[float]:
        return [decibels(squares / values) for squares, values in _errors(originals, restored)]


class PooledPSNR(Measure):
    """PSNR in dB of the mean squared error over all values of all samples: large samples count more, and bad ones."""

    name = "psnr_pooled"

    def protocol(self) -> dict[str, Any]:
        return {
            "implementation": "tok4d.metrics.decibels",
            "version": 1,
            "peak": 2,
            "cap": CAP_DB,
            "range": RANGE,
            "mean": "over values, float64",
            "error": BOOTSTRAP,
        }

    def columns(self, originals: Sequence[Sample], results: Sequence[Restored]) -> Columns:
        errors = _errors(originals, [one.sample for one in results])
        return {
            "squares": np.array([squares for squares, _ in errors], dtype=np.float64),
            "values": np.array([values for _, values in errors], dtype=np.float64),
        }

    def finish(self, chunks: ChunkReader, data: BenchData, subject: Subject) -> list[Value]:
        rows = np.stack([column(chunks(name), name) for name in ("squares", "values")], 1)
        if not len(rows):
            return [nothing(self.name, "no samples", unit="dB")]
        value = _pooled(np.array([[mean(part) for part in rows.T]]))[0]
        return [Value(self.name, float(value), len(rows), statistic_error(rows, _pooled), True, "dB")]


def _pooled(means: np.ndarray) -> np.ndarray:
    """dB of mean squares and mean numbers of values `[B, 2]`."""
    return np.array([decibels(float(squares / values)) for squares, values in means])


class SSIM(PairMean):
    """SSIM of `tok4d.ssim`, the mean over a sample's pictures, then over samples."""

    name = "ssim"

    def facts(self) -> dict[str, Any]:
        return {"implementation": "tok4d.ssim", "version": 1, "window": "Gaussian 11, sigma 1.5, mirrored border"}

    def scores(self, originals: Sequence[Sample], restored: Sequence[Sample]) -> list[float]:
        from tok4d.ssim import ssim

        return [float(ssim(got, wanted).mean()) for wanted, got in picture_pairs(originals, restored)]


class MSSSIM(PairMean):
    """MS-SSIM in float64, the mean over a sample's pictures; sides below 176 have fewer than its five scales."""

    name = "ms_ssim"

    def facts(self) -> dict[str, Any]:
        return {
            "implementation": "tok4d.ssim.ms_ssim",
            "version": 1,
            "scales": "as many of 5 as hold the window; exponents over their sum",
            "window": "Gaussian 11, sigma 1.5, mirrored border",
        }

    def scores(self, originals: Sequence[Sample], restored: Sequence[Sample]) -> list[float]:
        from tok4d.ssim import ms_ssim

        return [float(ms_ssim(got, wanted).mean()) for wanted, got in picture_pairs(originals, restored)]


class LPIPS(PairMean):
    """LPIPS 0.1, the mean over a sample's pictures. Reported as `lpips_vgg` or `lpips_alex`.

    Args:
        net: `vgg` or `alex`.
        size: pictures are interpolated to size x size first; None: compared at their own.

    Raises:
        ConfigError: for an unknown network, or a size that it cannot see.
    """

    higher_is_better = False

    def __init__(self, net: str = "vgg", size: int | None = None) -> None:
        self.net, self.size = one_of("LPIPS network", net, list(LPIPS_TRUNKS)), size
        least = LEAST[net]
        if size is not None and size < least:
            raise ConfigError(f"lpips: size {size} must be at least {least}, the smallest side that {net} sees")
        self.name = f"lpips_{net}"

    def requirements(self) -> list[Requirement]:
        found = _package_version("lpips")
        package = Requirement("package lpips", "" if found else "not installed", 'pip install "tok4d[bench]"')
        return [network_requirement(LPIPS_TRUNKS[self.net]), package]

    def facts(self) -> dict[str, Any]:
        trunk = LPIPS_TRUNKS[self.net]
        return {
            "implementation": "tok4d.losses.perceptual.LPIPS 0.1",
            "version": 1,
            "size": self.size,
            "network": trunk,
            "digest": load_network(trunk).digest,
            "heads": f"lpips {_package_version('lpips')}",
        }

    def scores(self, originals: Sequence[Sample], restored: Sequence[Sample]) -> list[float]:
        return self.distances(picture_pairs(originals, restored))

    def distances(self, pairs: Sequence[tuple[Tensor, Tensor]]) -> list[float]:
        """Mean distance of every pair of pictures `[N, 3, H, W]` in [-1, 1], original first."""
        from tok4d.losses import perceptual

        found = by_size([(got, wanted) for wanted, got in pairs], perceptual.LPIPS(self.net, self.size), self.device)
        return [float(one.double().mean()) for one in found]


def _package_version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _errors(originals: Sequence[Sample], restored: Sequence[Sample]) -> list[tuple[float, int]]:
    """Sum of squared errors and number of values of every pair's main tensor, in [-1, 1]."""
    found = []
    for wanted, got in zip(originals, restored, strict=True):
        field = modality(wanted.modality).field
        a, b = wanted.data[field], got.data[field]
        if a.shape != b.shape or not a.numel():
            raise DataError(wanted.key or "sample", f"{field} {list(a.shape)} was reconstructed as {list(b.shape)}")
        found.append((_finite_error(a, b, wanted.key), a.numel()))
    return found


def _finite_error(wanted: Tensor, got: Tensor, key: str) -> float:
    if not bool(torch.isfinite(got).all()):
        raise DataError(key or "sample", f"{int((~torch.isfinite(got)).sum())} reconstructed values are not finite")
    return squared_error(got, wanted)
