"""A reconstruction seen by the cameras of its target's pictures: what losses and metrics of pictures compare.

V = views, H, W = height and width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tok4d.modality import Sample
from tok4d_mesh3d.drawing import draw, draw_depth
from tok4d_mesh3d.samples import GAUSSIANS, PICTURES, cameras_of, gaussians_of

FILTER_2D = 0.1  # square pixels added to a drawn Gaussian, unless the decoder says otherwise


@dataclass(frozen=True)
class Renders:
    """Pictures of a reconstruction beside those of its target.

    Attributes:
        images, wanted: `[V, 3, H, W]`, in [-1, 1] where a screen can show them, over the same background.
        alphas, masks: coverage `[V, 1, H, W]` in [0, 1], of the reconstruction and of the target.
    """

    images: Tensor
    alphas: Tensor
    wanted: Tensor
    masks: Tensor


def render(reconstruction: Sample, target: Sample, count: int | None = None) -> Renders:
    """Draw a reconstruction's Gaussians from the target's cameras, differentiably.

    Args:
        count: that many views, evenly spaced among the target's; None: all.
    """
    chosen = evenly(len(target.data["views"]), count)
    wanted, masks = target.data["views"][chosen], target.data["masks"][chosen]
    height, width = wanted.shape[2:]
    background = (target.data["background"] + 1) / 2
    images, alphas = draw(
        gaussians_of(reconstruction), cameras_of(target)[chosen], (height, width), background, _filter(reconstruction)
    )
    return Renders(images * 2 - 1, alphas, wanted, masks)


@torch.no_grad()
def shared_render(reconstruction: Sample, target: Sample) -> Renders:
    """`render` of all views without gradients, drawn once for all metrics that ask for the same two samples."""
    kept: tuple[tuple[Tensor, ...], Renders] | None = reconstruction.__dict__.get("_renders")
    inputs = tuple(reconstruction.data[name] for name in GAUSSIANS) + tuple(target.data[name] for name in PICTURES)
    if kept is None or any(a is not b for a, b in zip(kept[0], inputs, strict=True)):
        kept = inputs, render(reconstruction, target)
        # Not among the dataclass's fields: copies of the sample, which may be changed, do not take it along.
        reconstruction.__dict__["_renders"] = kept
    return kept[1]


def render_depth(reconstruction: Sample, target: Sample) -> Tensor:
    """Depth `[V, H, W]` of a reconstruction from the target's cameras; 0 where it covers less than half of a pixel."""
    height, width = target.data["views"].shape[2:]
    return draw_depth(gaussians_of(reconstruction), cameras_of(target), (height, width), _filter(reconstruction))[0]


def evenly(total: int, count: int | None) -> list[int]:
    """Indices of `count` of `total` views, evenly spaced; all when there are not as many."""
    if count is None or count >= total:
        return list(range(total))
    return [(2 * i + 1) * total // (2 * count) for i in range(count)]


def _filter(reconstruction: Sample) -> float:
    return float(reconstruction.meta.get("filter_2d", FILTER_2D))
