"""Structural similarity as a metric of images."""

from __future__ import annotations

from torch import Tensor

from tok4d.metrics import SampleMean
from tok4d.ssim import ssim


class SampleSSIM(SampleMean):
    """Mean over samples of SSIM, at most 1; see `tok4d.ssim.ssim` for the definition and for small images.

    Args:
        field: key of the image `[3, H, W]` in `Sample.data`, values in [-1, 1], values outside clamped.
    """

    def score(self, reconstruction: Tensor, target: Tensor) -> float:
        return float(ssim(reconstruction[None], target[None]))
