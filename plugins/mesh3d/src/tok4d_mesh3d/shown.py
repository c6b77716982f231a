"""Assets that can be looked at from any camera: meshes and 3D Gaussians in the unit cube."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tok4d.errors import DataError
from tok4d.model.gaussians import Gaussians
from tok4d_mesh3d.cameras import Cameras
from tok4d_mesh3d.drawing import draw, draw_depth
from tok4d_mesh3d.mesh import Mesh
from tok4d_mesh3d.meshes import load_mesh
from tok4d_mesh3d.rendering import Views, render_views
from tok4d_mesh3d.splatfiles import is_splat_ply, read_splats

MARGIN = 0.05  # how far Gaussians may reach out of the unit cube and still count as normalised
MAX_SPREAD = 0.05  # deviation of depth in a pixel from which it counts as that of no surface
MIN_OPACITY = 0.1  # of the Gaussians that an asset's bounds are taken of


@dataclass(frozen=True)
class Look:
    """What pictures look like.

    Attributes:
        supersample: rays along each side of a pixel (meshes only).
        shading: `unlit` or `headlight` (meshes only).
        background: display colour in [0, 1] behind the asset.
        backend: geometry backend, see `tok4d_mesh3d.backends`.
    """

    supersample: int = 2
    shading: str = "unlit"
    background: tuple[float, float, float] = (0.0, 0.0, 0.0)
    backend: str = "auto"


class Asset(ABC):
    """Something in the unit cube, z up. `meta` is what was found out about its file."""

    meta: dict[str, Any]

    @abstractmethod
    def views(self, cameras: Cameras, size: int, look: Look) -> Views:
        """Square pictures from cameras."""

    def surface(self, spacing: float) -> Tensor | None:
        """Points of the surface itself at most `spacing` apart, where it is known."""
        return None


class MeshAsset(Asset):
    """A mesh in the unit cube."""

    def __init__(self, mesh: Mesh) -> None:
        self.mesh, self.meta = mesh, dict(mesh.meta)

    def views(self, cameras: Cameras, size: int, look: Look) -> Views:
        return render_views(
            self.mesh,
            cameras,
            size,
            supersample=look.supersample,
            shading=look.shading,
            background=look.background,
            backend=look.backend,
        )

    def surface(self, spacing: float) -> Tensor:
        return self.mesh.surface_points(spacing)


class SplatAsset(Asset):
    """3D Gaussians, brought into the unit cube unless they are in it.

    Raises:
        DataError: when there is none, or they have no extent.
    """

    def __init__(self, gaussians: Gaussians, key: str) -> None:
        if not len(gaussians):
            raise DataError(key, "holds no Gaussians")
        self.gaussians, moved = in_unit_cube(gaussians, key)
        self.meta = {"format": "3dgs", "gaussians": len(gaussians), **moved}

    @torch.no_grad()
    def views(self, cameras: Cameras, size: int, look: Look) -> Views:
        images, alphas = draw(self.gaussians, cameras, (size, size), torch.tensor(look.background))
        depth, spread = draw_depth(self.gaussians, cameras, (size, size))
        # Where what is behind shines through, the mean depth is that of neither.
        return Views(images.clamp(0, 1), depth * (spread <= MAX_SPREAD), alphas[:, 0])


def is_splat_file(path: str | Path) -> bool:
    """Whether a file is one of 3D Gaussians, by its suffix and, for PLY, its header.

    Raises:
        OSError: when a PLY cannot be opened.
    """
    suffix = Path(path).suffix.lower()
    return suffix in (".splat", ".spz") or (suffix == ".ply" and Path(path).is_file() and is_splat_ply(path))


def open_asset(path: str | Path, up: str = "auto") -> Asset:
    """The asset of a mesh or splat file.

    Args:
        up: up axis of the file: `y`, `z`, or `auto`, which is the format's own.

    Raises:
        DataError: when the file cannot be used, with the path and the reason.
    """
    try:
        splats = is_splat_file(path)
    except OSError as error:
        raise DataError(path, f"cannot be opened ({error.strerror or error})") from None
    if not splats:
        return MeshAsset(load_mesh(path, up=up))
    gaussians = read_splats(path) if up == "auto" else read_splats(path, up="y" if up == "y" else "z")
    return SplatAsset(gaussians, str(path))


def in_unit_cube(gaussians: Gaussians, key: str) -> tuple[Gaussians, dict[str, Any]]:
    """Gaussians in the unit cube, with `center` and `scale` as in `Mesh.normalized` where they had to be moved.

    The bounds are those of the centres that hide something (opacity of at least 0.1), if there are any.

    Raises:
        DataError: when they have no extent.
    """
    solid = gaussians.opacities >= MIN_OPACITY
    means = (gaussians.means[solid] if bool(solid.any()) else gaussians.means).double()
    low, high = means.amin(0), means.amax(0)
    if bool((low >= -0.5 - MARGIN).all()) and bool((high <= 0.5 + MARGIN).all()):
        return gaussians, {}
    extent, center = float((high - low).max()), (low + high) / 2
    if not 1e-30 < extent < 1e30:
        raise DataError(key, f"its Gaussians have an extent of {extent:g}; nothing can be seen of them")
    placed = Gaussians(
        ((gaussians.means.double() - center) / extent).float(),
        gaussians.scales / extent,
        gaussians.quaternions,
        gaussians.opacities,
        gaussians.colors,
    )
    return placed, {"center": center.tolist(), "scale": 1 / extent}
