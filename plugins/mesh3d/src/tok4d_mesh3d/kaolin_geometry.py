"""The Kaolin geometry backend. Imported only where Kaolin is installed; see `tok4d_mesh3d.backends` for what it does.

Kaolin's cameras are OpenGL's (y up, -z forward); to OpenCV: diag(1, -1, -1, 1) @ view matrix. Its octrees hold the
cube [-1, 1]^3, ours is half as large. Octrees and rasterization run on CUDA only.
"""

from __future__ import annotations

import math
from typing import Any

import kaolin
import torch
from torch import Tensor

from tok4d.errors import Tok4dError
from tok4d_mesh3d.backends import Geometry, TorchGeometry
from tok4d_mesh3d.cameras import Cameras, normalized_intrinsics
from tok4d_mesh3d.mesh import OPAQUE, Mesh
from tok4d_mesh3d.rays import Caster, Hits, Rays, meet_planes


class KaolinGeometry(Geometry):
    """Cameras on any device; octrees and rasterization on CUDA."""

    name = "kaolin"

    def look_at(self, eyes: Tensor, fov: float) -> Cameras:
        steep = (eyes[:, :2].norm(dim=1) < 1e-6 * eyes.norm(dim=1))[:, None]
        up = torch.where(steep, torch.tensor([0.0, 1.0, 0.0]), torch.tensor([0.0, 0.0, 1.0]))
        camera = kaolin.render.camera.Camera.from_args(
            eye=eyes.float(),
            at=torch.zeros(len(eyes), 3),
            up=up,
            fov=math.radians(fov),
            width=256,
            height=256,
        )
        flip = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0]))
        intrinsics = normalized_intrinsics(fov).expand(len(eyes), 3, 3).contiguous()
        return Cameras(flip @ camera.view_matrix().float().cpu(), intrinsics)

    def octree(self, coords: Tensor, levels: int) -> Tensor:
        _need_cuda("octrees")
        return kaolin.ops.spc.unbatched_points_to_octree(coords.short().cuda(), levels).cpu()

    def voxels(self, octree: Tensor, levels: int) -> Tensor:
        _need_cuda("octrees")
        nodes = octree.cuda()
        _, pyramid, sums = kaolin.ops.spc.scan_octrees(nodes, torch.tensor([len(nodes)], dtype=torch.int32))
        points = kaolin.ops.spc.generate_points(nodes, pyramid, sums)
        count, start = int(pyramid[0, 0, levels]), int(pyramid[0, 1, levels])
        found = points[start : start + count].long().cpu()
        order = ((found[:, 0] << 2 * levels) + (found[:, 1] << levels) + found[:, 2]).argsort()
        return found[order].to(torch.int32)

    def caster(self, mesh: Mesh) -> Caster:
        # A rasterizer knows one surface a pixel: what is seen through another one takes rays.
        rays_caster = None
        if any(material.alpha_mode != OPAQUE for material in mesh.materials):
            rays_caster = TorchGeometry().caster(mesh)
        else:
            _need_cuda("rasterization")
        return lambda rays: _rasterize(mesh, rays) if rays_caster is None else rays_caster(rays)


def _need_cuda(what: str) -> None:
    if not torch.cuda.is_available():
        raise Tok4dError(f"Kaolin's {what} need a CUDA device; there is none. Use backend='torch'")


def _rasterize(mesh: Mesh, rays: Rays) -> Hits:
    """Kaolin says which face is in front; where its plane is met is computed as with the other backend."""
    assert rays.shape is not None
    uv, depth = rays.camera.project(mesh.vertices)
    left, top, right, bottom = rays.window
    x = 2 * (uv[0, :, 0] - left) / (right - left) - 1
    y = 1 - 2 * (uv[0, :, 1] - top) / (bottom - top)
    corners: Any = torch.stack([x, y], dim=1)[mesh.faces][None].cuda()
    depths = depth[0][mesh.faces][None].cuda()
    _, face = kaolin.render.mesh.rasterize(
        *rays.shape,
        face_vertices_z=-depths,
        face_vertices_image=corners,
        face_features=torch.zeros(*depths.shape, 1, device="cuda"),
        valid_faces=(depths > 1e-3).all(2),
    )
    return meet_planes(mesh, rays, face.view(-1).long().cpu())
