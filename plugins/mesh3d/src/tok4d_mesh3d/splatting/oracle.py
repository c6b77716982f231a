"""The reference backend: plain torch, in float64 whatever it is given, differentiable in everything.

M = splats of a view, front to back, Q = (pixel, splat) pairs, pixel by pixel, front to back in each. Slow, and its
memory grows with the area of the splats; it runs where torch does in float64.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tok4d.errors import Tok4dError
from tok4d_mesh3d.splatting.inputs import Scene
from tok4d_mesh3d.splatting.projection import Splats, project
from tok4d_mesh3d.splatting.rules import MAX_ALPHA, MIN_ALPHA, MIN_TRANSMITTANCE

MAX_PAIRS = 12_000_000  # about 2 GB forward and backward


def rasterize(scene: Scene) -> tuple[Tensor, Tensor]:
    """Images `[V, 3, H, W]` on black and alphas `[V, 1, H, W]`.

    Raises:
        Tok4dError: when the splats of a view cover too many pixels.
    """
    exact = scene.cast(torch.float64)
    size = (4, scene.height, scene.width)
    views = [_view(exact, view).view(size) for view in range(len(scene.world_to_camera))]
    both = torch.stack(views) if views else exact.means.sum() * exact.means.new_zeros(0, *size)
    return both[:, :3].to(scene.means.dtype), both[:, 3:].to(scene.means.dtype)


def _view(scene: Scene, view: int) -> Tensor:
    """Colour and alpha of one view `[4, H * W]`."""
    splats = project(scene, view)
    pixel, splat = _pairs(splats, scene.width, scene.height)
    alpha = _alpha(splats, pixel, splat, scene.width).clamp_max(MAX_ALPHA)
    kept = alpha.detach() >= MIN_ALPHA
    pixel, splat, alpha = pixel[kept], splat[kept], alpha[kept]
    # The logarithm of what a splat leaves, summed over all pixels in a row, less the sum before the own pixel.
    log_left = torch.log1p(-alpha)
    total = log_left.cumsum(0)
    _, counts = torch.unique_consecutive(pixel, return_counts=True)
    before = torch.cat([total.new_zeros(1), total])[counts.cumsum(0) - counts]
    behind = total - torch.repeat_interleave(before, counts)
    # What is left only falls: once a splat would leave too little, so would all splats after it.
    weight = alpha * (behind - log_left).exp() * (behind.detach().exp() > MIN_TRANSMITTANCE)
    colors = scene.colors[splats.index[splat]]
    light = torch.cat([weight[:, None] * colors, weight[:, None]], 1)
    return light.new_zeros(scene.width * scene.height, 4).index_add(0, pixel, light).T


@torch.no_grad()
def _pairs(splats: Splats, width: int, height: int) -> tuple[Tensor, Tensor]:
    """Every pixel in the box around every splat: numbers of pixels and splats, `[Q]` each."""
    first = (splats.xy - splats.reach - 0.5).floor().clamp_min(0).long()
    last = torch.minimum((splats.xy + splats.reach - 0.5).ceil(), splats.xy.new_tensor([width - 1, height - 1])).long()
    span = (last - first + 1).clamp_min(0) * (splats.opacities >= MIN_ALPHA)[:, None]
    counts = span[:, 0] * span[:, 1]
    total = int(counts.sum())
    if total > MAX_PAIRS:
        raise Tok4dError(
            f"splatting backend 'torch' would need {total} pairs of pixels and splats in one view, more than "
            f"{MAX_PAIRS}: use backend='numba'"
        )
    splat = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)
    place = torch.arange(total, device=counts.device) - torch.repeat_interleave(counts.cumsum(0) - counts, counts)
    column, row = place % span[splat, 0], place // span[splat, 0]
    pixel = (first[splat, 1] + row) * width + first[splat, 0] + column
    pixel, order = torch.sort(pixel, stable=True)
    return pixel, splat[order]


def _alpha(splats: Splats, pixel: Tensor, splat: Tensor, width: int) -> Tensor:
    """Opacity of splats at pixel centres `[Q]`."""
    centres = torch.stack([pixel % width, pixel // width], 1) + 0.5
    dx, dy = (centres - splats.xy[splat]).unbind(1)
    xx, xy, yy = splats.conics[splat].unbind(1)
    return splats.opacities[splat] * torch.exp(-0.5 * (xx * dx * dx + yy * dy * dy) - xy * dx * dy)
