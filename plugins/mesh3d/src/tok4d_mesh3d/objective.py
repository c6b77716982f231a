"""The loss on pictures: decoded Gaussians drawn from the cameras of the target's pictures.

B = samples, V = views, H, W = height and width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import exp, inf
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tok4d.errors import ConfigError
from tok4d.losses.objective import Objective, Term, no_difference
from tok4d.losses.structural import MSSSIMLoss
from tok4d.modality import Sample
from tok4d.model.bottleneck import Encoded
from tok4d_mesh3d.renders import render
from tok4d_mesh3d.samples import GAUSSIANS, has_gaussians, has_views

WINDOW, SIGMA = 11, 1.5  # of SSIM (Wang et al. 2004)
_C1, _C2 = 0.01**2, 0.03**2  # for a data range of 1


class Render(Term):
    """Weighted sum of losses on pictures, averaged over views (AToken, section 3.3: L1, LPIPS and MS-SSIM).

    Args:
        views: how many of the target's pictures to draw, evenly spaced among them; None: all.
        l1: weight of the mean absolute error, in units of [-1, 1].
        ssim: weight of 1 - SSIM, of pictures at least 11 pixels wide and high.
        ms_ssim: weight of 1 - MS-SSIM; the paper's loss is `{l1: 1, ssim: 0, ms_ssim: 0.2, pictures: {lpips: 0.2}}`.
        mask: weight of the mean absolute error of the coverage, in [0, 1].
        optional: samples without Gaussians or pictures cost nothing, instead of being refused.
        pictures: further terms by their registered names, `{lpips: 0.2}`: each gets every view as a sample with the
            tensor `image`.

    Raises:
        ConfigError: for weights that are no numbers >= 0; when called, for samples without Gaussians or pictures.
    """

    def __init__(
        self,
        views: int | None = 4,
        l1: float = 1.0,
        ssim: float = 0.2,
        ms_ssim: float = 0.0,
        mask: float = 0.0,
        pictures: Mapping[str, Any] | None = None,
        optional: bool = False,
    ) -> None:
        super().__init__()
        self.optional = optional
        if views is not None and (isinstance(views, bool) or not isinstance(views, int) or views < 1):
            raise ConfigError(f"losses.render.views must be a whole number of at least 1, got {views!r}")
        self.views = views
        self.weights = {"l1": l1, "ssim": ssim, "ms_ssim": ms_ssim, "mask": mask}
        for name, weight in self.weights.items():
            if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 <= weight < inf:
                raise ConfigError(f"losses.render.{name} must be a weight >= 0, got {weight!r}")
        self.ms_ssim = MSSSIMLoss()
        self.others = Objective.from_config(pictures) if pictures else None
        if not any(self.weights.values()) and self.others is None:
            raise ConfigError("losses.render has no weight above 0; the default is {l1: 1, ssim: 0.2}")

    def forward(self, target: Sequence[Sample], reconstruction: Sequence[Sample], encoded: Encoded) -> Tensor:
        return torch.stack([self._one(a, b, encoded) for a, b in zip(target, reconstruction, strict=True)])

    def _one(self, target: Sample, reconstruction: Sample, encoded: Encoded) -> Tensor:
        if self.optional and not (has_gaussians(reconstruction) and has_views(target)):
            return no_difference([reconstruction])
        if any(name not in reconstruction.data for name in GAUSSIANS):
            raise ConfigError("the loss 'render' needs a model with `heads: {mesh3d: {...}}`: there are no Gaussians")
        if not has_views(target):
            raise ConfigError(f"the loss 'render' needs a source with pictures; {target.key!r} came without")
        drawn = render(reconstruction, target, self.views)
        total = drawn.images.new_zeros(())
        if self.weights["l1"]:
            total = total + self.weights["l1"] * (drawn.images - drawn.wanted).abs().mean()
        if self.weights["ssim"]:
            total = total + self.weights["ssim"] * (1 - ssim(drawn.images, drawn.wanted).mean())
        if self.weights["ms_ssim"]:
            total = total + self.weights["ms_ssim"] * self.ms_ssim(drawn.images, drawn.wanted).mean()
        if self.weights["mask"]:
            total = total + self.weights["mask"] * (drawn.alphas - drawn.masks).abs().mean()
        if self.others is not None:
            total = total + self.others(_pictures(drawn.wanted), _pictures(drawn.images), encoded).total
        return total


def _pictures(views: Tensor) -> list[Sample]:
    return [Sample("image", {"image": view}) for view in views]


def ssim(x: Tensor, y: Tensor) -> Tensor:
    """SSIM `[V]` of pictures `[V, C, H, W]` in [-1, 1]: differentiable, float32, windows inside of the picture only.

    For training; reported figures come from `tok4d.ssim.ssim`.

    Raises:
        ConfigError: for pictures smaller than the window.
    """
    if min(x.shape[-2:]) < WINDOW:
        raise ConfigError(f"SSIM needs pictures of at least {WINDOW} x {WINDOW} pixels, got {list(x.shape[-2:])}")
    x, y = (x + 1) / 2, (y + 1) / 2
    mean_x, mean_y, xx, yy, xy = _blur(torch.stack([x, y, x * x, y * y, x * y]))
    product, squares = mean_x * mean_y, mean_x.square() + mean_y.square()
    variances = (xx + yy - squares).clamp_min(0)
    score = (2 * product + _C1) * (2 * (xy - product) + _C2) / ((squares + _C1) * (variances + _C2))
    return score.flatten(1).mean(1)


def _blur(x: Tensor) -> Tensor:
    """Gaussian average over every whole window of the last two axes."""
    taps = torch.tensor([exp(-((i - WINDOW // 2) ** 2) / (2 * SIGMA**2)) for i in range(WINDOW)], device=x.device)
    taps = (taps / taps.sum()).to(x.dtype)
    flat = x.reshape(-1, 1, *x.shape[-2:])
    flat = F.conv2d(F.conv2d(flat, taps.view(1, 1, -1, 1)), taps.view(1, 1, 1, -1))
    return flat.view(*x.shape[:-2], *flat.shape[-2:])
