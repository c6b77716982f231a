"""Structural similarity (Wang et al. 2004; over scales 2003), window and constants as torchmetrics, in float64.

N = pictures, C = channels, H = height, W = width, S = rows of one strip.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from tok4d.errors import Tok4dError

__all__ = ["ms_ssim", "scales", "ssim"]

WINDOW, SIGMA = 11, 1.5  # Gaussian window
C1, C2 = 0.01**2, 0.03**2  # of the definition, for a data range of 1
_HALF = WINDOW // 2
_WEIGHTS = [math.exp(-((i - _HALF) ** 2) / (2 * SIGMA**2)) for i in range(WINDOW)]
TAPS = [weight / sum(_WEIGHTS) for weight in _WEIGHTS]
SCALES = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # exponents, finest first (Wang et al. 2003, section 4.2)
STRIP = 32768  # pixels worked on at once, so that the sums stay in the cache: 1080p is eight times faster


def ssim(x: Tensor, y: Tensor) -> Tensor:
    """SSIM of N pairs of pictures: Gaussian window 11x11, sigma 1.5, around every pixel and channel, averaged.

    The definition is for RGB in [0, 1]; pictures are mapped there, and mirrored at their border. A side shorter than
    the window is extended to 11 pixels by repeating its last row or column in both pictures alike: the score is then
    defined from 1x1 on, still 1 for identical pictures.

    Our own sums: float32 loses up to 1e-3 on flat areas, where a variance is a small difference of large numbers, and
    the library's 2D convolution takes fourteen times as long in float64. Every picture is summed by itself, so its
    score does not depend on the others, and memory is that of one picture.

    Args:
        x, y: `[N, C, H, W]` in [-1, 1], values outside are clamped.

    Returns:
        `[N]` float64, at most 1; 1 for identical pictures, negative for inverted structure.

    Raises:
        Tok4dError: for shapes that differ, have another number of axes, or hold nothing.
    """
    _check(x, y, "ssim")
    return torch.stack([_one(a, b) for a, b in zip(x.detach(), y.detach(), strict=True)])


def ms_ssim(x: Tensor, y: Tensor) -> Tensor:
    """MS-SSIM of N pairs of pictures: contrast and structure at five scales, luminance at the coarsest.

    Each scale is the mean over 2x2 pixels of the one before. Five scales need 176 pixels (11 at the coarsest), with the
    published exponents; smaller pictures have as many as fit, the exponents of those divided by their sum, and below 22
    pixels one, which is SSIM. As in torchmetrics, windows that reach over the border count at the coarsest scale only,
    and a scale whose mean is negative counts as 0. Range, window, float64 and errors as `ssim`.

    Returns:
        `[N]` float64 in [0, 1].
    """
    _check(x, y, "ms_ssim")
    return torch.stack([_over_scales(a, b) for a, b in zip(x.detach(), y.detach(), strict=True)])


def scales(side: int) -> int:
    """How many of the five scales a picture with this smaller side has."""
    return max(1, sum(side >> scale >= WINDOW for scale in range(len(SCALES))))


def exponents(count: int) -> list[float]:
    """Exponents of that many scales, finest first."""
    whole = 1 if count == len(SCALES) else sum(SCALES[:count])  # the published ones add up to 1.0001
    return [exponent / whole for exponent in SCALES[:count]]


def _check(x: Tensor, y: Tensor, name: str) -> None:
    if x.shape != y.shape or x.ndim != 4 or x.numel() == 0:
        raise Tok4dError(f"{name} compares two [N, C, H, W] of one shape, got {list(x.shape)} and {list(y.shape)}")


def _over_scales(x_CHW: Tensor, y_CHW: Tensor) -> Tensor:
    """Product over scales; only the coarsest sees the mirrored border."""
    x, y = _unit(x_CHW), _unit(y_CHW)
    powers = exponents(scales(min(x.shape[-2:])))
    product = x.new_ones(())
    for power in powers[:-1]:
        product = product * _contrast(x, y).mean().clamp_min(0) ** power
        x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
    return product * _similarity(_bordered(x), _bordered(y)).mean().clamp_min(0) ** powers[-1]


def _one(x_CHW: Tensor, y_CHW: Tensor) -> Tensor:
    """Sum over strips of rows; a strip sees the half window of rows above and below it."""
    x, y = _bordered(x_CHW), _bordered(y_CHW)
    height, width = x.shape[-2] - 2 * _HALF, x.shape[-1] - 2 * _HALF
    rows = max(1, STRIP // width)
    sums = []
    for top in range(0, height, rows):
        length = min(rows, height - top) + 2 * _HALF
        sums.append(_similarity(_unit(x.narrow(1, top, length)), _unit(y.narrow(1, top, length))).sum())
    return torch.stack(sums).sum() / (len(x) * height * width)


def _bordered(picture_CHW: Tensor) -> Tensor:
    """No side shorter than the window, and half a window mirrored around; narrow floats widened, which is exact."""
    height, width = picture_CHW.shape[-2:]
    picture = picture_CHW if picture_CHW.dtype == torch.float64 else picture_CHW.float()
    picture = F.pad(picture[None], (0, max(0, WINDOW - width), 0, max(0, WINDOW - height)), mode="replicate")
    return F.pad(picture, (_HALF,) * 4, mode="reflect")[0]


def _unit(strip_CSW: Tensor) -> Tensor:
    """[-1, 1] to [0, 1] in float64: the variance of a nearly flat window is a small difference of large numbers."""
    return (strip_CSW.double().clamp(-1, 1) + 1) / 2


def _contrast(x: Tensor, y: Tensor) -> Tensor:
    """The map of contrast and structure, half a window smaller on every side."""
    mean_x, mean_y = _blur(x), _blur(y)
    covariance = _blur(x * y) - mean_x * mean_y
    variances = (_blur(x * x + y * y) - mean_x**2 - mean_y**2).clamp_min(0)
    return (2 * covariance + C2) / (variances + C2)


def _similarity(x: Tensor, y: Tensor) -> Tensor:
    """The map of scores, half a window smaller on every side. The formula has the variances only as their sum."""
    mean_x, mean_y = _blur(x), _blur(y)
    product, squares = mean_x * mean_y, mean_x**2 + mean_y**2
    covariance = _blur(x * y) - product
    variances = (_blur(x * x + y * y) - squares).clamp_min(0)
    return (2 * product + C1) * (2 * covariance + C2) / ((squares + C1) * (variances + C2))


def _blur(x: Tensor) -> Tensor:
    """Gaussian average around every pixel that has a whole window, one axis after the other."""
    for axis in (-2, -1):
        length = x.shape[axis] - WINDOW + 1
        blurred = TAPS[0] * x.narrow(axis, 0, length)
        for i, tap in enumerate(TAPS[1:], start=1):
            blurred.add_(x.narrow(axis, i, length), alpha=tap)
        x = blurred
    return x
