"""Structural similarity of images, by torchmetrics."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from tok4d.metrics import SampleMean

WINDOW = 11  # side of the Gaussian window with sigma 1.5


class SampleSSIM(SampleMean):
    """Mean over samples of SSIM: Gaussian window 11x11, sigma 1.5, on RGB in [0, 1], values outside clamped.

    A side shorter than the window is extended to 11 pixels by repeating its last row or column in both pictures alike:
    the score is then defined from 1x1 on, still 1 for identical pictures.

    Args:
        field: key of the image `[3, H, W]` in `Sample.data`, values in [-1, 1].
    """

    def score(self, reconstruction: Tensor, target: Tensor) -> float:
        found = structural_similarity_index_measure(_unit(reconstruction), _unit(target), data_range=1.0)
        return float(found if isinstance(found, Tensor) else found[0])


def _unit(image: Tensor) -> Tensor:
    """`[3, H, W]` in [-1, 1] to `[1, 3, H', W']` in [0, 1], no side shorter than the window.

    In float64: the variance of a nearly constant window is a small difference of large numbers.
    """
    height, width = image.shape[-2:]
    unit = (image.detach().double().clamp(-1, 1)[None] + 1) / 2
    return F.pad(unit, (0, max(0, WINDOW - width), 0, max(0, WINDOW - height)), mode="replicate")
