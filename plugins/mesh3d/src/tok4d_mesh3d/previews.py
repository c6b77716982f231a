"""Pictures of samples for reports and logs."""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor

from tok4d.errors import Tok4dError
from tok4d.modality import Sample
from tok4d.model.gaussians import Gaussians
from tok4d_mesh3d.cameras import turntable
from tok4d_mesh3d.drawing import draw
from tok4d_mesh3d.samples import COORDS, cameras_of, has_gaussians, has_views, shown_gaussians

SIZE = 192  # pixels along a side of a drawn picture
AROUND = 4


def preview(sample: Sample, resolution: int) -> list[Image.Image]:
    """Four views in a row, from four sides: an original's own pictures that come nearest, a reconstruction drawn.

    A reconstruction is drawn from its Gaussians, or from its voxels as balls when it has none.
    """
    if has_views(sample) and not has_gaussians(sample):
        sides = turntable(AROUND).centers @ cameras_of(sample).centers.cpu().T
        return [in_a_row([to_picture((sample.data["views"][i] + 1) / 2) for i in sides.argmax(1).tolist()])]
    if not has_gaussians(sample) and not len(sample.data[COORDS]):
        return []
    try:
        return [in_a_row(turntable_pictures(shown_gaussians(sample, resolution), AROUND))]
    except Tok4dError:  # values of an untrained model that cannot be drawn, or no library that draws
        return []


def turntable_pictures(gaussians: Gaussians, frames: int, size: int = SIZE) -> list[Image.Image]:
    """Pictures of Gaussians from a circle of cameras, on black.

    Raises:
        Tok4dError: for values that cannot be drawn, or when the library that draws is missing.
    """
    kept = Gaussians(*(part.detach().to("cpu", torch.float32) for part in _parts(gaussians)))
    with torch.no_grad():
        images, _ = draw(kept, turntable(frames), (size, size))
    return [to_picture(image) for image in images]


def _parts(gaussians: Gaussians) -> tuple[Tensor, ...]:
    colors = gaussians.colors.clamp(-1e4, 1e4)
    return (gaussians.means, gaussians.scales, gaussians.quaternions, gaussians.opacities, colors)


def to_picture(image: Tensor) -> Image.Image:
    """An 8-bit picture of `[3, H, W]`, clamped to [0, 1]."""
    pixels = (image.detach().cpu().float().clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy(), "RGB")


def in_a_row(pictures: list[Image.Image]) -> Image.Image:
    """Pictures of one height side by side."""
    sheet = Image.new("RGB", (sum(picture.width for picture in pictures), pictures[0].height))
    left = 0
    for picture in pictures:
        sheet.paste(picture, (left, 0))
        left += picture.width
    return sheet
