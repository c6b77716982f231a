"""Pictures of a mesh from many cameras: colour, depth and coverage, by ray casting.

V = views, H, W = height and width, N = rays of one view. Deterministic: every ray counts for itself.

Transparency: a `mask` surface is there where its alpha reaches the cutoff. A `blend` surface lets what is behind it
shine through (front to back, up to `LAYERS` surfaces); for depth and mask it is as solid as any other, so that glass
has voxels. A surface of an alpha under 1/20 is not there. Light is not refracted, mirrors do not reflect.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tok4d.errors import ConfigError, unknown_name
from tok4d_mesh3d.backends import geometry
from tok4d_mesh3d.cameras import Cameras
from tok4d_mesh3d.mesh import Mesh
from tok4d_mesh3d.rays import Caster, Rays, picture_bounds, window_rays
from tok4d_mesh3d.surfaces import Surfaces

SHADINGS = ("unlit", "headlight")
LAYERS = 6
_AMBIENT = 0.45
_STEP = 1e-4  # how far behind a surface a ray goes on, in world units
_RAYS = 1 << 20  # rays in flight


@dataclass(frozen=True)
class Views:
    """Pictures of one object.

    Attributes:
        rgb: float32 `[V, 3, H, W]` in [0, 1] over the background.
        depth: float32 `[V, H, W]`, distance along the view axis to the nearest surface in a pixel; 0 where there is
            none.
        alpha: float32 `[V, H, W]` in [0, 1], how much of the pixel the object covers.
    """

    rgb: Tensor
    depth: Tensor
    alpha: Tensor

    @property
    def mask(self) -> Tensor:
        """bool `[V, H, W]`: whether any surface is in the pixel."""
        return self.depth > 0


def render_views(
    mesh: Mesh,
    cameras: Cameras,
    size: int | tuple[int, int] = 256,
    *,
    supersample: int = 2,
    shading: str = "unlit",
    background: tuple[float, float, float] = (0.0, 0.0, 0.0),
    backend: str = "auto",
) -> Views:
    """Pictures of `mesh` from `cameras`.

    Args:
        size: side of a picture, or (height, width).
        supersample: rays along each side of a pixel; colours are their mean, depth the least.
        shading: `unlit` (the surface's own colour) or `headlight` (a light at the camera, on both sides of a face).
        background: display colour in [0, 1].
        backend: `torch` (CPU, Embree), `kaolin`, or `auto` (see `tok4d_mesh3d.backends`).

    Raises:
        ConfigError: for a value that is not possible.
        Tok4dError: when the backend is missing.
    """
    height, width = (size, size) if isinstance(size, int) else size
    if height < 1 or width < 1 or supersample < 1:
        raise ConfigError(f"size and supersample must be at least 1, got {size} and {supersample}")
    if shading not in SHADINGS:
        raise ConfigError(unknown_name("shading", shading, SHADINGS))
    if not all(0 <= value <= 1 for value in background):
        raise ConfigError(f"background must be in [0, 1], got {background}")
    caster = geometry(backend).caster(mesh)
    surfaces, color = Surfaces.of(mesh), torch.tensor(background, dtype=torch.float32)
    views = [
        _render(caster, surfaces, cameras[[i]], (height, width), supersample, shading, color)
        for i in range(len(cameras))
    ]
    return Views(*(torch.stack(parts) for parts in zip(*views, strict=True)))


def _render(
    caster: Caster,
    surfaces: Surfaces,
    camera: Cameras,
    size: tuple[int, int],
    factor: int,
    shading: str,
    background: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """One view: rgb `[3, H, W]`, depth `[H, W]`, alpha `[H, W]`."""
    height, width = size
    top, left, bottom, right = picture_bounds(surfaces.mesh, camera, height, width)
    rgb = background[:, None, None].expand(3, height, width).clone()
    depth, alpha = torch.zeros(height, width), torch.zeros(height, width)
    rows = max(1, _RAYS // max(1, (right - left) * factor * factor))
    for start in range(top, bottom, rows):
        end = min(start + rows, bottom)
        rays = window_rays(camera, (start, left, end, right), (height, width), factor)
        spacing = 1 / (float(camera.intrinsics[0, 0, 0]) * width * factor)
        color, cover, near = _trace(caster, surfaces, rays, spacing, shading == "headlight")
        grid = (end - start, factor, right - left, factor)
        cover = cover.view(grid)
        part = color.view(*grid, 3).mean((1, 3)) + (1 - cover.mean((1, 3)))[..., None] * background
        rgb[:, start:end, left:right] = part.permute(2, 0, 1)
        near = near.view(grid).amin((1, 3))
        depth[start:end, left:right] = torch.where(near.isfinite(), near, 0.0)
        alpha[start:end, left:right] = cover.mean((1, 3))
    return rgb.clamp(0, 1), depth, alpha.clamp(0, 1)


def _trace(caster: Caster, surfaces: Surfaces, rays: Rays, spacing: float, lit: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Colour times coverage `[N, 3]`, coverage `[N]` and depth `[N]` (inf where there is nothing) along rays.

    Args:
        spacing: side of a sample at depth 1, in world units.
    """
    count = len(rays.directions)
    color, clear = torch.zeros(count, 3), torch.ones(count)
    near = torch.full((count,), torch.inf)
    going, travelled, current = torch.arange(count), torch.zeros(count), rays
    for _ in range(1 if surfaces.opaque else LAYERS):
        hits = caster(current)
        met = hits.depth.isfinite().nonzero()[:, 0]
        if not len(met):
            break
        going, face, travelled = going[met], hits.face[met], travelled[met] + hits.depth[met]
        directions = current.directions[met]
        rgb, alpha = surfaces.look(face, hits.barycentric[met], travelled * spacing)
        if lit:
            rgb = rgb * _headlight(surfaces.mesh, face, directions)
        near[going] = torch.where((alpha > 0) & near[going].isinf(), travelled, near[going])
        color[going] += (clear[going] * alpha)[:, None] * rgb
        clear[going] *= 1 - alpha
        on = clear[going] > 1 / 255
        if not bool(on.any()):
            break
        going, travelled, directions = going[on], travelled[on] + _STEP, directions[on]
        origins = rays.origins[going] + travelled[:, None] * directions
        current = replace(rays, origins=origins, directions=directions, shape=None)
    return color, 1 - clear, near


def _headlight(mesh: Mesh, faces: Tensor, directions: Tensor) -> Tensor:
    """Brightness `[N, 1]` of faces lit from the camera; both sides of a face count."""
    corners = mesh.vertices[mesh.faces[faces]]
    normal = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    cosine = (normal * directions).sum(1).abs() / (normal.norm(dim=1) * directions.norm(dim=1)).clamp(min=1e-20)
    return (_AMBIENT + (1 - _AMBIENT) * cosine)[:, None]
