"""Geometry backends: `torch` (everywhere) and `kaolin` (NVIDIA's library, where it is installed), one interface.

What Kaolin does here: cameras, sparse octrees (SPC) as storage of occupied voxels, and rasterization of meshes on a
GPU. What it does not: it has no splat rasterizer, and its SPC averages features that fall into one cell, so features
are computed by `tok4d_mesh3d.lifting` with either backend.
"""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor

from tok4d.errors import Tok4dError, unknown_name
from tok4d_mesh3d.cameras import Cameras, look_at
from tok4d_mesh3d.mesh import Mesh
from tok4d_mesh3d.octree import decode_octree, encode_octree
from tok4d_mesh3d.parts import MISSING
from tok4d_mesh3d.rays import Caster, Hits, Rays


class Geometry(ABC):
    """What differs between geometry libraries; every method gives the same result with either."""

    name: ClassVar[str]

    @abstractmethod
    def look_at(self, eyes: Tensor, fov: float) -> Cameras:
        """Cameras at `eyes [V, 3]` that look at the origin; see `tok4d_mesh3d.cameras.look_at`."""

    @abstractmethod
    def octree(self, coords: Tensor, levels: int) -> Tensor:
        """Voxels `[T, 3]` of a grid of 2^levels as an octree uint8 `[nodes]`; see `tok4d_mesh3d.octree`."""

    @abstractmethod
    def voxels(self, octree: Tensor, levels: int) -> Tensor:
        """Voxels int32 `[T, 3]` of an octree, sorted by x, then y, then z."""

    @abstractmethod
    def caster(self, mesh: Mesh) -> Caster:
        """A function from rays to where they meet the mesh first."""


class TorchGeometry(Geometry):
    """The default: plain torch, and Embree through open3d for rays."""

    name = "torch"

    def look_at(self, eyes: Tensor, fov: float) -> Cameras:
        return look_at(eyes, fov=fov)

    def octree(self, coords: Tensor, levels: int) -> Tensor:
        return encode_octree(coords, levels)

    def voxels(self, octree: Tensor, levels: int) -> Tensor:
        return decode_octree(octree, levels)

    def caster(self, mesh: Mesh) -> Caster:
        open3d = _open3d()
        scene = open3d.t.geometry.RaycastingScene(nthreads=torch.get_num_threads())
        vertices = open3d.core.Tensor.from_numpy(mesh.vertices.contiguous().numpy())
        scene.add_triangles(vertices, open3d.core.Tensor.from_numpy(mesh.faces.numpy().astype("uint32")))

        def cast(rays: Rays) -> Hits:
            lines = open3d.core.Tensor.from_numpy(torch.cat([rays.origins, rays.directions], dim=1).numpy())
            found = scene.cast_rays(lines, nthreads=torch.get_num_threads())
            return Hits(
                depth=torch.from_numpy(found["t_hit"].numpy()),
                face=torch.from_numpy(found["primitive_ids"].numpy().astype("int64")),
                barycentric=torch.from_numpy(found["primitive_uvs"].numpy()),
            )

        return cast


def _open3d() -> Any:
    try:
        import open3d
    except ImportError as error:
        raise Tok4dError(f"{MISSING.format('open3d')} ({error})") from None
    except OSError as error:  # a shared library of the system is missing
        raise Tok4dError(f"open3d cannot be loaded: {error}; on Debian: apt-get install libusb-1.0-0 libgl1") from None
    return open3d


def kaolin_installed() -> bool:
    """Whether the real Kaolin is importable; the package of that name on PyPI is an empty placeholder."""
    try:
        return importlib.util.find_spec("kaolin.render") is not None
    except (ImportError, ValueError):
        return False


def geometry(name: str = "auto") -> Geometry:
    """A backend by name; `auto` is `torch`, which needs no GPU and is what recorded figures are made with.

    Raises:
        Tok4dError: for an unknown name, or when Kaolin is asked for and missing, with the line that installs it.
    """
    if name in ("auto", "torch"):
        return TorchGeometry()
    if name != "kaolin":
        raise Tok4dError(unknown_name("geometry backend", name, ("auto", "torch", "kaolin")))
    if not kaolin_installed():
        raise Tok4dError(
            "the geometry backend 'kaolin' needs NVIDIA Kaolin, whose wheels come from NVIDIA's index, one for each "
            f"pair of torch and CUDA: pip install kaolin -f {_wheels()} (PyPI's `kaolin` is a placeholder). "
            "backend='torch' does without"
        )
    from tok4d_mesh3d.kaolin_geometry import KaolinGeometry

    return KaolinGeometry()


def _wheels() -> str:
    """Address of the wheels for this torch, as Kaolin's documentation builds it."""
    version = torch.__version__.partition("+")[0]
    cuda = (torch.version.cuda or "12.8").replace(".", "")
    return f"https://nvidia-kaolin.s3.us-east-2.amazonaws.com/torch-{version}_cu{cuda}.html"


def backends() -> dict[str, str]:
    """State of every backend, for reports: `ready`, or why it is not."""
    states = {"torch": "ready" if importlib.util.find_spec("open3d") else MISSING.format("open3d")}
    states["kaolin"] = "ready" if kaolin_installed() else "not installed"
    return states
