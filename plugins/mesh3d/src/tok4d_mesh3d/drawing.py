"""Pictures of Gaussians from cameras, with depth when it is asked for.

N = Gaussians, V = views, H, W = height and width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tok4d.model.gaussians import Gaussians
from tok4d_mesh3d.cameras import RADIUS, Cameras
from tok4d_mesh3d.splatting import rasterize

SOLID = 0.5  # coverage from which a pixel has a depth


def draw(
    gaussians: Gaussians,
    cameras: Cameras,
    size: tuple[int, int],
    background: Tensor | None = None,
    filter_2d: float = 0.1,
) -> tuple[Tensor, Tensor]:
    """Images `[V, 3, H, W]` (0 to 1 for what a screen can show, not clamped) and alphas `[V, 1, H, W]`.

    Args:
        size: height and width in pixels.
        background: RGB `[3]` in [0, 1]; None: black.
    """
    height, width = size
    return rasterize(
        gaussians.means,
        gaussians.quaternions,
        gaussians.scales,
        gaussians.opacities,
        gaussians.rgb,
        cameras.world_to_camera,
        cameras.pixel_intrinsics(width, height),
        width,
        height,
        background=background,
        filter_2d=filter_2d,
    )


@torch.no_grad()
def draw_depth(
    gaussians: Gaussians, cameras: Cameras, size: tuple[int, int], filter_2d: float = 0.1
) -> tuple[Tensor, Tensor]:
    """Depth `[V, H, W]` along the view axis, and how far it is spread, of the Gaussians that make up a pixel.

    Mean and standard deviation, each Gaussian counting with its share of the pixel and standing at its centre; both 0
    where they cover less than half of the pixel.
    """
    height, width = size
    maps, spreads = [], []
    for i in range(len(cameras)):
        camera = cameras[[i]]
        depth = camera.project(gaussians.means)[1][0]
        image, alpha = rasterize(
            gaussians.means,
            gaussians.quaternions,
            gaussians.scales,
            gaussians.opacities,
            _powers(depth),
            camera.world_to_camera,
            camera.pixel_intrinsics(width, height),
            width,
            height,
            filter_2d=filter_2d,
        )
        cover = alpha[0, 0]
        mean, square = (image[0, :2] / cover.clamp(min=SOLID)).unbind(0)
        maps.append(torch.where(cover >= SOLID, mean + RADIUS, 0.0))
        spreads.append(torch.where(cover >= SOLID, (square - mean.square()).clamp_min(0).sqrt(), 0.0))
    return torch.stack(maps), torch.stack(spreads)


def _powers(depth: Tensor) -> Tensor:
    """Depths from the cube's middle and their squares as colours `[N, 3]`: small numbers, whose variance is exact."""
    near = depth - RADIUS
    return torch.stack([near, near.square(), torch.zeros_like(near)], 1)
