"""A still picture of Gaussians: what a page shows where nothing can be drawn interactively."""

from __future__ import annotations

import torch
from PIL import Image

from tok4d.model.gaussians import Gaussians
from tok4d_mesh3d.splatting import rasterize
from tok4d_mesh3d.viewer.view import View


def draw_poster(gaussians: Gaussians, view: View, size: int = 512) -> Image.Image:
    """A square RGBA picture, transparent where there is nothing.

    Raises:
        PluginError: when the library that draws is missing.
    """
    camera = (view.world_to_camera()[None], view.intrinsics(size, size)[None])
    with torch.no_grad():
        means, turns, scales, opacities, colors = (
            part.to("cpu", torch.float32)
            for part in (gaussians.means, gaussians.quaternions, gaussians.scales, gaussians.opacities, gaussians.rgb)
        )
        images, alphas = rasterize(means, turns, scales, opacities, colors.clamp(0, 1), *camera, size, size)
        straight = images[0] / alphas[0].clamp_min(1e-6)  # PNG keeps colours that are not multiplied by their alpha
        rgba = torch.cat([straight, alphas[0]]).clamp(0, 1)
    return Image.fromarray((rgba * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy(), "RGBA")
