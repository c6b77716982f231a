"""Rays through a picture's samples, and where they meet a mesh. N = rays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tok4d_mesh3d.cameras import Cameras
from tok4d_mesh3d.mesh import Mesh


@dataclass(frozen=True)
class Rays:
    """Rays of one camera.

    Attributes:
        origins, directions: `[N, 3]`; a direction is one unit long along the view axis, so that lengths are depths.
        camera: the one camera.
        window: left, top, right, bottom of the rectangle of the picture (normalised) whose samples they are.
        shape: rows and columns of samples; None when they are any rays of the camera, as those behind a glass.
    """

    origins: Tensor
    directions: Tensor
    camera: Cameras
    window: tuple[float, float, float, float]
    shape: tuple[int, int] | None


@dataclass(frozen=True)
class Hits:
    """Where rays meet a mesh first.

    Attributes:
        depth: `[N]`, in units of the ray's direction; inf where it misses.
        face: int64 `[N]`; anything where it misses.
        barycentric: `[N, 2]`, weights of the face's second and third corner.
    """

    depth: Tensor
    face: Tensor
    barycentric: Tensor


Caster = Callable[[Rays], Hits]


def window_rays(camera: Cameras, box: tuple[int, int, int, int], size: tuple[int, int], factor: int) -> Rays:
    """Rays through `factor` x `factor` samples of every pixel in rows top..bottom and columns left..right.

    Args:
        box: top, left, bottom, right in pixels.
        size: height and width of the whole picture.
    """
    (top, left, bottom, right), (height, width) = box, size
    y = (torch.arange(top * factor, bottom * factor) + 0.5) / (height * factor)
    x = (torch.arange(left * factor, right * factor) + 0.5) / (width * factor)
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).view(-1, 2)
    ends = torch.cat([grid, torch.ones_like(grid[:, :1])], dim=1)
    turn = torch.linalg.inv(camera.intrinsics[0]).mT @ camera.world_to_camera[0, :3, :3]
    window = left / width, top / height, right / width, bottom / height
    return Rays(camera.centers.expand(len(grid), 3), ends @ turn, camera, window, (len(y), len(x)))


def picture_bounds(mesh: Mesh, camera: Cameras, height: int, width: int) -> tuple[int, int, int, int]:
    """Top, left, bottom, right in pixels of a rectangle outside of which nothing of the mesh can be."""
    low, high = mesh.vertices.amin(0), mesh.vertices.amax(0)
    pick = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 3)
    uv, depth = camera.project(low + pick * (high - low))
    if float(depth.min()) < 1e-3:  # the camera is inside the object, or beside it
        return 0, 0, height, width
    size = torch.tensor([width, height])
    first = (uv[0].amin(0) * size - 1).floor().clamp(min=0).minimum(size)
    last = (uv[0].amax(0) * size + 1).ceil().clamp(min=0).minimum(size)
    return int(first[1]), int(first[0]), int(last[1]), int(last[0])


def meet_planes(mesh: Mesh, rays: Rays, face: Tensor) -> Hits:
    """Where every ray meets the plane of a given face; `face` is -1 for a ray that misses."""
    corners = mesh.vertices[mesh.faces[face.clamp(min=0)]]
    start, a, b = corners[:, 0], corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    # Cramer's rule for origin + depth * direction = start + second * a + third * b (Möller and Trumbore 1997).
    p = torch.linalg.cross(rays.directions, b)
    scale = 1 / (a * p).sum(1)
    offset = rays.origins - start
    q = torch.linalg.cross(offset, a)
    depth = (b * q).sum(1) * scale
    barycentric = torch.stack([(offset * p).sum(1) * scale, (rays.directions * q).sum(1) * scale], dim=1)
    met = (face >= 0) & depth.isfinite() & (depth > 0)
    return Hits(torch.where(met, depth, torch.inf), face, barycentric)
