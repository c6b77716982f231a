"""Prepared assets: voxels and pictures as bytes, kept on disk, and the samples that they become.

T = voxels, V = pictures, H, W = height and width of a picture.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tok4d.errors import ConfigError
from tok4d.modality import Sample
from tok4d_mesh3d.cache import TensorCache, Tensors, digest_of
from tok4d_mesh3d.cameras import RADIUS, Cameras, look_at
from tok4d_mesh3d.reading import MAX_SIZE, MAX_VIEWS, MODALITY, ReadOptions, asset_sample
from tok4d_mesh3d.rendering import Views
from tok4d_mesh3d.samples import COORDS, VOXELS, with_views
from tok4d_mesh3d.shown import Asset

GIGABYTE = 1 << 30


@dataclass
class AssetOptions:
    """How assets become training samples. Voxels come from `views`; what is compared are other pictures, `targets`.

    Attributes:
        resolution, lifting, views, size, supersample, shading, background, surface: as in `ReadOptions`.
        targets: pictures to compare with, from cameras between those of `views`; 0: none.
        target_size: their side in pixels.
        targets_at_once: how many of them a training sample has, drawn at random; a validation sample has all.
        cache_gb: bound of the cache of prepared assets on disk; 0: none.
        cache_folder: where it is; empty: in tok4d's cache folder.
    """

    resolution: int = 64
    lifting: str = "visible"
    views: int = 16
    size: int = 256
    supersample: int = 2
    shading: str = "unlit"
    background: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    surface: bool = False
    targets: int = 16
    target_size: int = 128
    targets_at_once: int = 4
    cache_gb: float = 8.0
    cache_folder: str = ""

    def check(self) -> None:
        """Raise ConfigError for values that cannot work; call it in `__post_init__`."""
        _ = self.read_options
        bounds = {"targets": (0, MAX_VIEWS), "target_size": (1, MAX_SIZE), "targets_at_once": (1, MAX_VIEWS)}
        for name, (least, most) in bounds.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
                raise ConfigError(f"{name} must be a whole number in [{least}, {most}], got {value!r}")
        if not 0 <= self.cache_gb < math.inf:
            raise ConfigError(f"cache_gb must be at least 0, got {self.cache_gb!r}")

    @cached_property
    def read_options(self) -> ReadOptions:
        """The options that `views` and voxels are made with."""
        names = {field.name for field in fields(AssetOptions)} & {field.name for field in fields(ReadOptions)}
        return ReadOptions(**{name: getattr(self, name) for name in names})

    @cached_property
    def store(self) -> TensorCache:
        """The cache on disk."""
        folder = Path(self.cache_folder).expanduser() if self.cache_folder else None
        return TensorCache(folder, int(self.cache_gb * GIGABYTE))

    def prepare(self, identity: str, load: Callable[[], Asset]) -> Tensors:
        """Voxels and pictures of an asset as bytes, from the cache or made of it.

        Args:
            identity: stands for the asset's content.
        """
        asked = {"read": asdict(self.read_options), "targets": self.targets, "target_size": self.target_size}
        return self.store.get(digest_of({"asset": identity, **asked}), lambda: self._make(load()))

    def _make(self, asset: Asset) -> Tensors:
        sample = asset_sample(asset, self.read_options, "")
        made = {VOXELS: to_bytes(sample.data[VOXELS]), COORDS: sample.data[COORDS]}
        if self.targets:
            views = asset.views(target_cameras(self.targets), self.target_size, self.read_options.look)
            made |= {"views": to_bytes(views.rgb * 2 - 1), "masks": to_bytes(views.alpha * 2 - 1), "depth": views.depth}
        return made

    def sample(self, made: Tensors, rng: np.random.Generator | None) -> Sample:
        """The sample of a prepared asset; with `rng` it has a few of the pictures, drawn at random."""
        data = {VOXELS: from_bytes(made[VOXELS]), COORDS: made[COORDS]}
        if "views" in made:
            chosen = list(range(self.targets))
            if rng is not None:
                count = min(self.targets_at_once, self.targets)
                chosen = sorted(int(i) for i in rng.choice(self.targets, count, replace=False))
            masks = (from_bytes(made["masks"][chosen]) + 1) / 2
            views = Views((from_bytes(made["views"][chosen]) + 1) / 2, made["depth"][chosen], masks)
            with_views(data, views, target_cameras(self.targets)[chosen], self.read_options.background)
        return Sample(MODALITY, data, meta={"resolution": self.resolution})


def target_cameras(count: int) -> Cameras:
    """Cameras spread over the sphere along a spiral, none of them at a pole, where the first of the lifted views is."""
    index = torch.arange(count, dtype=torch.float64)
    height = 1 - (2 * index + 1) / count
    yaw = index * math.pi * (3 - math.sqrt(5))
    ring = (1 - height.square()).sqrt()
    return look_at(torch.stack([ring * yaw.cos(), ring * yaw.sin(), height], 1) * RADIUS)


def to_bytes(values: Tensor) -> Tensor:
    """uint8 of values in [-1, 1]."""
    return ((values.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def from_bytes(values: Tensor) -> Tensor:
    """Values in [-1, 1] of uint8."""
    return values.float() / 127.5 - 1
