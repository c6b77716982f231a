"""Sources of 3D assets: folders, manifests, the `furniture` recipe, generated solids."""

from __future__ import annotations

import logging
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np

from tok4d.data.manifest import ManifestSource
from tok4d.data.source import FolderSource, GeneratedSource, Source
from tok4d.errors import ConfigError, DataError, Tok4dError
from tok4d.modality import Sample
from tok4d_mesh3d.cache import file_digest
from tok4d_mesh3d.catalogue import FurnitureOptions
from tok4d_mesh3d.furniture import load_furniture
from tok4d_mesh3d.prepared import AssetOptions
from tok4d_mesh3d.reading import is_voxel_file
from tok4d_mesh3d.shown import MeshAsset, open_asset
from tok4d_mesh3d.solids import KINDS, make_solid
from tok4d_mesh3d.voxelfiles import read_voxels

log = logging.getLogger(__name__)


@dataclass
class Mesh3dFolder(AssetOptions, FolderSource):
    """Meshes and splat files of a folder (recursive), a glob, or a single file.

    Files of voxels (`tok4d_mesh3d.voxelfiles`) are taken as they are: without pictures, in their own resolution.

    Attributes:
        up: up axis of the files: `y`, `z`, or `auto`, which is the format's own.
    """

    up: str = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check()

    def load(self, index: int, rng: np.random.Generator | None = None) -> Sample:
        """One asset; raises `DataError` when its file cannot be used."""
        return load_file(self, self.files[index], self.up, rng)


@dataclass
class Mesh3dManifest(AssetOptions, ManifestSource):
    """Assets that a manifest names, with captions and labels; see `tok4d.data.rows` for the columns.

    Attributes:
        up: up axis of the files: `y`, `z`, or `auto`, which is the format's own.
    """

    up: str = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check()

    def load(self, index: int, rng: np.random.Generator | None = None) -> Sample:
        """One asset; raises `DataError` when its file cannot be used, or its row gives a span of time."""
        row = self.rows[index]
        if row.start is not None or row.end is not None:
            raise DataError(self.path, f"{row.where}: a 3D asset has no time, so no start and no end")
        sample = load_file(self, self.file(index), self.up, rng)
        sample.key, sample.caption, sample.label = self.key(index), row.caption, row.label
        return sample


def load_file(options: AssetOptions, path: Path, up: str, rng: np.random.Generator | None) -> Sample:
    """A mesh, splats or voxels as a sample, prepared once and kept in the cache.

    Raises:
        DataError: when the file cannot be used.
    """
    if is_voxel_file(path):
        return read_voxels(path, "mesh3d")
    try:
        identity = file_digest(path) + path.suffix.lower()
    except OSError as error:
        raise DataError(path, f"cannot be opened ({error.strerror or error})") from None
    sample = options.sample(options.prepare(identity, lambda: open_asset(path, up)), rng)
    sample.key = str(path)
    return sample


@dataclass
class Mesh3dFurniture(AssetOptions, FurnitureOptions):
    """Models of the `furniture` recipe, fetched on first use: caption from the catalogue, label by noun."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check()

    def load(self, index: int, rng: np.random.Generator | None = None) -> Sample:
        """One model; its key is its id in the catalogue."""
        item = self.items[index]
        made = self.prepare(self.identity(item), lambda: MeshAsset(load_furniture(item)))
        return self.told(self.sample(made, rng), index)


@dataclass
class Mesh3dSolids(AssetOptions, GeneratedSource):
    """Generated solids with captions, for smoke tests and where there are no files; the label is the kind of solid."""

    series: ClassVar[str] = "solids"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check()
        if self.count < 1 or self.seed < 0:
            raise ConfigError(f"count must be at least 1 and seed at least 0, got {self.count} and {self.seed}")

    @property
    def class_names(self) -> tuple[str, ...]:
        return KINDS

    def load(self, index: int, rng: np.random.Generator | None = None) -> Sample:
        """One solid with its caption."""
        if not 0 <= index < len(self):
            raise DataError("solids", f"has {len(self)} solids, no number {index}")
        solid = make_solid(self.seed, self.numbers[index])
        sample = self.sample(self.prepare(self.key(index), lambda: MeshAsset(solid.mesh)), rng)
        sample.key, sample.caption, sample.label = self.key(index), solid.caption, solid.label
        return sample


@dataclass
class Mesh3dAssets(Mesh3dFurniture):
    """`furniture`, or `solids` where its package cannot be fetched (no `apt-get`, no network), which the log says.

    Attributes:
        solids: how many solids to generate instead.
    """

    solids: int = 120

    @cached_property
    def chosen(self) -> Source | None:
        """The solids, when there is no furniture."""
        try:
            _ = self.items
        except Tok4dError as error:
            log.warning("generated solids take the place of furniture: %s", error)
            own = {field.name: getattr(self, field.name) for field in fields(AssetOptions)}
            shared = {name: getattr(self, name) for name in ("split", "folds", "fold")}
            return Mesh3dSolids(self.modality, count=self.solids, **shared, **own)
        return None

    @property
    def class_names(self) -> tuple[str, ...]:
        return super().class_names if self.chosen is None else tuple(self.chosen.class_names)

    def __len__(self) -> int:
        return super().__len__() if self.chosen is None else len(self.chosen)

    def key(self, index: int) -> str:
        return super().key(index) if self.chosen is None else self.chosen.key(index)

    def load(self, index: int, rng: np.random.Generator | None = None) -> Sample:
        """One model, or one solid."""
        return super().load(index, rng) if self.chosen is None else self.chosen.load(index, rng)
