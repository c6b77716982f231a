"""Structural similarity of images (Wang et al. 2004), as torchmetrics defines it, in float64."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tok4d.metrics import SampleMean

WINDOW, SIGMA = 11, 1.5  # Gaussian window
C1, C2 = 0.01**2, 0.03**2  # of the definition, for a data range of 1


class SampleSSIM(SampleMean):
    """Mean over samples of SSIM: Gaussian window 11x11, sigma 1.5, on RGB in [0, 1], values outside clamped.

    A side shorter than the window is extended to 11 pixels by repeating its last row or column in both pictures alike:
    the score is then defined from 1x1 on, still 1 for identical pictures.

    Args:
        field: key of the image `[3, H, W]` in `Sample.data`, values in [-1, 1].
    """

    def score(self, reconstruction: Tensor, target: Tensor) -> float:
        return ssim(_unit(reconstruction), _unit(target))


def ssim(x: Tensor, y: Tensor) -> float:
    """SSIM of two images `[1, 3, H, W]` float64 in [0, 1], averaged over a window around every pixel.

    Our own sums: float32 loses up to 1e-3 on flat areas, where a variance is a small difference of large numbers, and
    the library's 2D convolution takes fourteen times as long in float64.
    """
    mean_x, mean_y = _blur(x), _blur(y)
    var_x, var_y = ((_blur(z * z) - mean**2).clamp_min(0) for z, mean in ((x, mean_x), (y, mean_y)))
    covariance = _blur(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + C1) / (mean_x**2 + mean_y**2 + C1)
    return float((luminance * (2 * covariance + C2) / (var_x + var_y + C2)).mean())


def _blur(x: Tensor) -> Tensor:
    """Gaussian average around every pixel, one axis after the other; the picture is mirrored at its border."""
    weights = torch.exp(-((torch.arange(WINDOW, dtype=x.dtype) - WINDOW // 2) ** 2) / (2 * SIGMA**2))
    taps = (weights / weights.sum()).tolist()
    x = F.pad(x, (WINDOW // 2,) * 4, mode="reflect")
    for axis in (-2, -1):
        length = x.shape[axis] - WINDOW + 1
        blurred = taps[0] * x.narrow(axis, 0, length)
        for i, tap in enumerate(taps[1:], start=1):
            blurred.add_(x.narrow(axis, i, length), alpha=tap)
        x = blurred
    return x


def _unit(image: Tensor) -> Tensor:
    """`[3, H, W]` in [-1, 1] to `[1, 3, H', W']` in [0, 1], no side shorter than the window.

    In float64: the variance of a nearly constant window is a small difference of large numbers.
    """
    height, width = image.shape[-2:]
    unit = (image.detach().double().clamp(-1, 1)[None] + 1) / 2
    return F.pad(unit, (0, max(0, WINDOW - width), 0, max(0, WINDOW - height)), mode="replicate")
