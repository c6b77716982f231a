"""The CUDA backend: gsplat's rasterizer (arXiv 2409.06765), to its documented interface."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from tok4d_mesh3d.splatting.inputs import Scene
from tok4d_mesh3d.splatting.rules import NEAR


def rasterize(gsplat: Any, scene: Scene) -> tuple[Tensor, Tensor]:
    """Images `[V, 3, H, W]` on the scene's background and alphas `[V, 1, H, W]`, by the module `gsplat`."""
    views, background = len(scene.world_to_camera), scene.background
    if views == 0 or len(scene.means) == 0:  # its kernels are not made for nothing to do
        black = scene.means.sum() * scene.means.new_zeros(views, 4, scene.height, scene.width)
        images = black[:, :3] if background is None else black[:, :3] + background[:, None, None]
        return images, black[:, 3:]
    images, alphas, _ = gsplat.rasterization(
        scene.means,
        scene.quaternions,
        scene.scales,
        scene.opacities,
        scene.colors,
        scene.world_to_camera,
        scene.intrinsics,
        scene.width,
        scene.height,
        near_plane=NEAR,
        eps2d=scene.filter_2d,
        rasterize_mode="antialiased",
        backgrounds=None if background is None else background.expand(views, 3).contiguous(),
    )
    return images.permute(0, 3, 1, 2), alphas.permute(0, 3, 1, 2)
