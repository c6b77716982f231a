"""From files to samples: meshes and splat files are drawn from many views, and those lifted into voxels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tok4d.errors import ConfigError, DataError, Tok4dError, unknown_name
from tok4d.modality import Sample
from tok4d.options import from_options
from tok4d_mesh3d.cameras import Cameras, hammersley_sphere
from tok4d_mesh3d.lifting import MODES, lift
from tok4d_mesh3d.meshes import UPS
from tok4d_mesh3d.rendering import SHADINGS, Views
from tok4d_mesh3d.samples import CHANNELS, COORDS, GAUSSIANS, PATCH, VOXELS, with_views
from tok4d_mesh3d.shown import Asset, Look, SplatAsset, open_asset
from tok4d_mesh3d.voxelfiles import MAX_RESOLUTION, is_voxel_ply, read_voxels

MODALITY = "mesh3d"
MAX_VIEWS, MAX_SIZE = 1024, 4096
MAX_PIXELS = 1 << 28  # of all views together: 4 GB of colour and depth


@dataclass(frozen=True)
class ReadOptions:
    """How a file becomes views and voxels.

    Attributes:
        resolution: voxels along an axis of the unit cube.
        lifting: `visible` or `compat`, see `tok4d_mesh3d.lifting`.
        views: pictures, from cameras on a Hammersley sphere.
        size: their side in pixels.
        supersample: rays along each side of a pixel (meshes only).
        shading: `unlit` or `headlight` (meshes only).
        background: display colour in [0, 1] behind the asset.
        up: up axis of the file: `y`, `z`, or `auto`, which is the format's own.
        surface: whether voxels also come from the mesh itself, not only from what the views show of it.
        backend: geometry backend, see `tok4d_mesh3d.backends`.
        gaussians: of a splat file take the Gaussians themselves, as a decoder gives them, without pictures and voxels:
            a reconstruction that is compared with an original.
    """

    resolution: int = 64
    lifting: str = "visible"
    views: int = 16
    size: int = 256
    supersample: int = 2
    shading: str = "unlit"
    background: tuple[float, float, float] = (0.0, 0.0, 0.0)
    up: str = "auto"
    surface: bool = False
    backend: str = "auto"
    gaussians: bool = False

    def __post_init__(self) -> None:
        for name, value, known in (
            ("back-projection mode", self.lifting, MODES),
            ("shading", self.shading, SHADINGS),
            ("up axis", self.up, UPS),
        ):
            if value not in known:
                raise ConfigError(unknown_name(name, str(value), known))
        bounds = {"resolution": MAX_RESOLUTION, "views": MAX_VIEWS, "size": MAX_SIZE, "supersample": 8}
        for name, most in bounds.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
                raise ConfigError(f"{name} must be a whole number in [1, {most}], got {value!r}")
        if self.views * self.size**2 > MAX_PIXELS:
            raise ConfigError(f"{self.views} views of {self.size} pixels are too many: at most {MAX_PIXELS:,} pixels")
        if self.lifting == "compat" and self.size % PATCH:
            raise ConfigError(f"lifting=compat cuts pictures into patches of {PATCH} pixels; size is {self.size}")
        colour = tuple(self.background)
        if len(colour) != 3 or not all(isinstance(v, (int, float)) and 0 <= v <= 1 for v in colour):
            raise ConfigError(f"background must be three numbers in [0, 1], got {self.background!r}")
        object.__setattr__(self, "background", tuple(float(v) for v in colour))

    @classmethod
    def parse(cls, options: dict[str, Any]) -> ReadOptions:
        """From keyword arguments; raises `ConfigError` that names an unknown option and the nearest known one."""
        return from_options(cls, options, "option of reading a 3D asset")

    @property
    def look(self) -> Look:
        """What the pictures look like."""
        return Look(self.supersample, self.shading, self.background, self.backend)

    @property
    def cameras(self) -> Cameras:
        """Where the pictures are taken from."""
        return hammersley_sphere(self.views)


def read_file(path: str | Path, options: ReadOptions) -> Sample:
    """The sample of a file: a mesh, 3D Gaussians, voxels, or pictures with cameras (`transforms.json`).

    Raises:
        DataError: when the file cannot be used, with the path and the reason.
    """
    if is_voxel_file(path):
        return read_voxels(path, MODALITY)
    if Path(path).suffix.lower() == ".json":
        from tok4d_mesh3d.viewsets import read_viewset

        return read_viewset(path, options)
    return asset_sample(open_asset(path, options.up), options, str(path))


def is_voxel_file(path: str | Path) -> bool:
    """Whether a file is a PLY of voxels; False for one that is not there."""
    try:
        return Path(path).suffix.lower() == ".ply" and Path(path).is_file() and is_voxel_ply(path)
    except OSError as error:
        raise DataError(path, f"cannot be opened ({error.strerror or error})") from None


def asset_sample(asset: Asset, options: ReadOptions, key: str) -> Sample:
    """Views and voxels of an asset.

    Raises:
        DataError: when nothing of it can be seen.
    """
    if options.gaussians and isinstance(asset, SplatAsset):
        return _decoded_sample(asset, key)
    cameras = options.cameras
    views = asset.views(cameras, options.size, options.look)
    surface = asset.surface(0.5 / options.resolution) if options.surface else None
    return lifted_sample(views, cameras, options, key, asset.meta, surface)


def _decoded_sample(asset: SplatAsset, key: str) -> Sample:
    """A sample of Gaussians and no voxel."""
    data = {name: getattr(asset.gaussians, name) for name in GAUSSIANS}
    data |= {VOXELS: torch.zeros(0, CHANNELS), COORDS: torch.zeros(0, 3, dtype=torch.int32)}
    return Sample(MODALITY, data, key=key, meta=dict(asset.meta))


def lifted_sample(
    views: Views, cameras: Cameras, options: ReadOptions, key: str, meta: dict[str, Any], surface: Tensor | None = None
) -> Sample:
    """A sample of pictures with depth.

    Raises:
        DataError: when they show nothing.
    """
    try:
        lifted = lift(views, cameras, options.resolution, options.lifting, PATCH, surface=surface)
    except ConfigError:
        raise
    except Tok4dError as error:
        raise DataError(key, str(error)) from None
    data = {VOXELS: lifted.features * 2 - 1, COORDS: lifted.coords}
    with_views(data, views, cameras, options.background)
    facts = {"resolution": options.resolution, "views": len(cameras), "unseen_voxels": lifted.unseen}
    return Sample(MODALITY, data, key=key, meta={**meta, **facts})
