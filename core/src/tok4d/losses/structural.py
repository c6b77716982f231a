"""SSIM (Wang et al. 2004) and MS-SSIM (Wang et al. 2003) as losses: differentiable, and exactly 0 for equal pictures.

Reported figures come from `tok4d.ssim`. N = pictures, C = channels, H, W = height and width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tok4d.losses.pictures import PictureTerm, check_pair
from tok4d.nn.precision import at_least_float32
from tok4d.ssim import C1, C2, TAPS, WINDOW, exponents, scales

_HALF = WINDOW // 2
_LEAST = 1e-4  # below, a power is continued as a straight line to 0: its gradient there would be infinite


class SSIMLoss(nn.Module):
    """1 - SSIM. Window, constants, mirrored border and small sides as in `tok4d.ssim.ssim`; values are not clamped."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Distances `[N]` in [0, 2] of two `[N, 3, H, W]` in [-1, 1]; 0 for equal pictures."""
        check_pair(x, y, "SSIMLoss")
        with torch.autocast(x.device.type, enabled=False):
            contrast, luminance = _losses(_whole_windows(x), _whole_windows(y))
            return _mean(1 - (1 - contrast) * (1 - luminance))


class MSSSIMLoss(nn.Module):
    """1 - MS-SSIM: contrast and structure at every scale, luminance at the coarsest, each scale half of the one before.

    Five scales need 176 pixels (11 at the coarsest), with the published exponents. Smaller pictures have as many as
    fit, the exponents of those divided by their sum, and pictures below 22 pixels have one: SSIM. A scale whose mean is
    negative counts as 0.
    """

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Distances `[N]` in [0, 1] of two `[N, 3, H, W]` in [-1, 1]; 0 for equal pictures."""
        check_pair(x, y, "MSSSIMLoss")
        count = scales(min(x.shape[2:]))
        with torch.autocast(x.device.type, enabled=False):
            x, y = _whole_windows(x), _whole_windows(y)
            product = torch.ones_like(x[:, 0, 0, 0])
            for scale, exponent in enumerate(exponents(count), start=1):
                contrast, luminance = _losses(x, y)
                if scale == count:
                    value = 1 - _mean(1 - (1 - contrast) * (1 - luminance))
                else:
                    value = 1 - _mean(contrast[..., _HALF:-_HALF, _HALF:-_HALF])
                    x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
                product = product * _power(value, exponent)
            return 1 - product


def _power(base: Tensor, exponent: float) -> Tensor:
    """`base ** exponent`, 0 for negative bases, with a finite gradient everywhere."""
    line = base.clamp_min(0) * _LEAST ** (exponent - 1)
    return torch.where(base > _LEAST, base.clamp_min(_LEAST) ** exponent, line)


def _whole_windows(pictures: Tensor) -> Tensor:
    """In [0, 1], float32 at least, no side shorter than the window: those repeat their last row or column."""
    height, width = pictures.shape[2:]
    missing = (0, max(0, WINDOW - width), 0, max(0, WINDOW - height))
    pictures = (at_least_float32(pictures) + 1) / 2
    return F.pad(pictures, missing, mode="replicate") if any(missing) else pictures


def _losses(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """1 - contrast and structure, and 1 - luminance, `[N, C, H, W]` each, windows mirrored at the border.

    By the difference d of the pictures: 2 cov = var x + var y - var d, so that 1 - contrast is var d over the sum of
    the variances; and 2 mx my likewise. In the usual form, equal flat areas would cost 1e-3 in float32.
    """
    stacked = torch.stack([x, y, x - y])
    means = _blur(stacked)
    squares = _blur(torch.stack([x.square() + y.square(), (x - y).square()]))
    mean_squares = means.square()
    variances = (squares[0] - mean_squares[0] - mean_squares[1]).clamp_min(0)
    variance = (squares[1] - mean_squares[2]).clamp_min(0)
    return variance / (variances + C2), mean_squares[2] / (mean_squares[0] + mean_squares[1] + C1)


def _blur(x: Tensor) -> Tensor:
    """Gaussian average around every pixel of `[..., H, W]`, one axis after the other.

    By shifted sums: with one channel, the library's convolution takes twice as long.
    """
    x = F.pad(x.flatten(0, -3), (_HALF,) * 4, mode="reflect").view(
        *x.shape[:-2], *(n + 2 * _HALF for n in x.shape[-2:])
    )
    for axis in (-2, -1):
        length = x.shape[axis] - 2 * _HALF
        blurred = TAPS[0] * x.narrow(axis, 0, length)
        for i, tap in enumerate(TAPS[1:], start=1):
            blurred = blurred.add(x.narrow(axis, i, length), alpha=tap)
        x = blurred
    return x


def _mean(values: Tensor) -> Tensor:
    return values.flatten(1).mean(1)


class SSIMTerm(PictureTerm):
    """`ssim`: 1 - SSIM at the pictures' own size. Options: size, frames, optional, as in `PictureTerm`."""

    name = "ssim"

    def __init__(self, size: int | None = None, frames: int | None = None, optional: bool = False) -> None:
        super().__init__(SSIMLoss(), size, frames, optional)


class MSSSIMTerm(PictureTerm):
    """`ms_ssim`: 1 - MS-SSIM at the pictures' own size. Options: size, frames, optional, as in `PictureTerm`."""

    name = "ms_ssim"

    def __init__(self, size: int | None = None, frames: int | None = None, optional: bool = False) -> None:
        super().__init__(MSSSIMLoss(), size, frames, optional)
