"""Samples of 3D assets: what their tensors are called, and the views over them that other modules use.

T = voxels, V = views, N = Gaussians, H, W = height and width of a picture. In `Sample.data`:

    voxels           float32 [T, 768]     what the voxel looks like: 16 x 16 x 3 pixels of a view, in [-1, 1]
    coords           int32 [T, 3]         x, y, z in [0, resolution)
    views            float32 [V, 3, H, W] pictures in [-1, 1] over `background`
    masks            float32 [V, 1, H, W] how much of the pixel the asset covers, in [0, 1]
    depth            float32 [V, H, W]    along the view axis; 0 where there is nothing
    world_to_camera  float32 [V, 4, 4]    OpenCV axes
    intrinsics       float32 [V, 3, 3]    normalised to the picture, see `cameras.Cameras`
    background       float32 [3]          colour behind the asset, in [-1, 1]
    means, scales, quaternions, opacities, colors: see `tok4d.model.gaussians.Gaussians`

A sample has voxels at least; `meta["resolution"]` says how fine their grid is.
"""

from __future__ import annotations

from dataclasses import fields

import torch
from torch import Tensor

from tok4d.errors import Tok4dError
from tok4d.modality import Sample
from tok4d.model.gaussians import SH_DC, Gaussians
from tok4d_mesh3d.cameras import Cameras
from tok4d_mesh3d.rendering import Views
from tok4d_mesh3d.voxels import centers

VOXELS, COORDS = "voxels", "coords"
PATCH = 16  # pixels along a side of what a voxel holds
CHANNELS = PATCH * PATCH * 3
GAUSSIANS = tuple(field.name for field in fields(Gaussians))
PICTURES = ("views", "masks", "depth", "world_to_camera", "intrinsics", "background")


def with_views(data: dict[str, Tensor], views: Views, cameras: Cameras, background: tuple[float, float, float]) -> None:
    """Add pictures to the tensors of a sample. `background` in [0, 1]."""
    data["views"] = views.rgb * 2 - 1
    data["masks"] = views.alpha[:, None]
    data["depth"] = views.depth
    data["world_to_camera"], data["intrinsics"] = cameras.world_to_camera, cameras.intrinsics
    data["background"] = torch.tensor(background, dtype=torch.float32) * 2 - 1


def has_views(sample: Sample) -> bool:
    """Whether a sample has pictures and their cameras."""
    return all(name in sample.data for name in PICTURES) and len(sample.data["views"]) > 0


def cameras_of(sample: Sample) -> Cameras:
    """The cameras of a sample's pictures."""
    return Cameras(sample.data["world_to_camera"], sample.data["intrinsics"])


def has_gaussians(sample: Sample) -> bool:
    """Whether a sample has been decoded to Gaussians, at least one."""
    return all(name in sample.data for name in GAUSSIANS) and len(sample.data["means"]) > 0


def gaussians_of(sample: Sample) -> Gaussians:
    """The Gaussians of a sample that has them."""
    return Gaussians(**{name: sample.data[name] for name in GAUSSIANS})


def resolution_of(sample: Sample, default: int) -> int:
    """Voxels along an axis of the grid that a sample's coordinates are in."""
    return int(sample.meta.get("resolution", default))


def coarse_gaussians(sample: Sample, resolution: int) -> Gaussians:
    """A sample's voxels as balls, one each, of the colour in the middle of the voxel's picture.

    What there is to see of an asset that a model without a Gaussian decoder restored.

    Raises:
        Tok4dError: for values that are not finite: they have no colour.
    """
    coords, voxels = sample.data[COORDS], sample.data[VOXELS].detach().float()
    if not bool(voxels.isfinite().all()):
        raise Tok4dError(f"voxels of {sample.key or 'a sample'!r} hold values that are not finite")
    count, edge = len(coords), PATCH // 2 - 2
    middle = voxels.view(count, PATCH, PATCH, 3)[:, edge:-edge, edge:-edge].mean((1, 2))
    rgb = (middle.clamp(-1, 1) + 1) / 2
    return Gaussians(
        means=centers(coords, resolution),
        scales=torch.full((count, 3), 0.5 / resolution, device=rgb.device),
        quaternions=rgb.new_tensor([1.0, 0.0, 0.0, 0.0]).repeat(count, 1),
        opacities=torch.full((count,), 0.95, device=rgb.device),
        colors=(rgb - 0.5) / SH_DC,
    )


def shown_gaussians(sample: Sample, resolution: int) -> Gaussians:
    """A sample's Gaussians, or its voxels as balls."""
    return gaussians_of(sample) if has_gaussians(sample) else coarse_gaussians(sample, resolution)
