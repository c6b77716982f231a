"""Image sources: folders, the `photos` recipe, and generated pictures. Tar shards are in `tok4d_image.shards`."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np

from tok4d.data.source import FolderSource, GeneratedSource, Source, split_groups
from tok4d.errors import ConfigError, DataError, unknown_name
from tok4d.modality import CHANNELS, Sample
from tok4d_image.augment import ImageOptions
from tok4d_image.reading import read_pixels, read_size
from tok4d_image.shapes import KINDS, draw_shape

FIELD = "image"


@dataclass
class ImageFolder(ImageOptions, FolderSource):
    """Images of a folder (recursive), a glob, or a single file; see `ImageOptions` for augmentation."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check()

    def shape(self, index: int, rng: np.random.Generator | None = None) -> tuple[int, ...]:
        path = self.files[index]
        return self.presented(self.size_of(path, lambda: read_size(path, self.read_options)), rng)

    def load(self, index: int, rng: np.random.Generator | None = None) -> Sample:
        """One image, float32 `[3, H, W]` in [-1, 1]; raises `DataError` when its file cannot be used."""
        path = self.files[index]
        pixels, meta = self.cache.get(path, lambda: read_pixels(path, self.read_options))
        return Sample(self.modality, {FIELD: self.present(pixels, rng)}, key=str(path), meta=dict(meta))


@dataclass
class ImagePhotos(ImageOptions, Source):
    """The pictures of a recipe, fetched on first use.

    Near-duplicates (a stereo pair) are one group: they never land on two sides of the split, and `val` holds the first
    of each group only, so that no figure counts one scene twice.

    Attributes:
        recipe: name of the recipe.
        natural_only: leave out everything that is not an ordinary photograph.
        train_kinds: kinds of other pictures (`texture`, `science`, ... as the recipe calls them) that join the training
            side only, so that figures stay on natural photographs.
    """

    recipe: str = "photos"
    natural_only: bool = True
    train_kinds: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check()

    @cached_property
    def files(self) -> list[Path]:
        """Files on this side of the split, in the recipe's order.

        Raises:
            Tok4dError: when the recipe cannot be fetched.
        """
        from tok4d.data.fetch import ensure

        recipe, folder = ensure(self.recipe)
        if not recipe.items:
            raise ConfigError(f"recipe {self.recipe!r} lists no items; read its folder {folder} with image/folder")
        kinds = sorted({item.kind for item in recipe.items})
        for kind in self.train_kinds:
            if kind not in kinds:
                raise ConfigError(unknown_name(f"kind in recipe {self.recipe!r}", kind, kinds))
        split_items = [item for item in recipe.items if item.natural or not self.natural_only]
        chosen = {
            split_items[i].file
            for i in split_groups([item.side for item in split_items], self.split, self.folds, self.fold)
        }
        if self.split == "train":
            outside = {item.file for item in recipe.items} - {item.file for item in split_items}
            chosen |= {item.file for item in recipe.items if item.kind in self.train_kinds and item.file in outside}
        kept = [item for item in recipe.items if item.file in chosen]
        if self.split == "val":
            kept = list({item.side: item for item in reversed(kept)}.values())[::-1]
        return [folder / item.file for item in kept]

    def __len__(self) -> int:
        return len(self.files)

    def key(self, index: int) -> str:
        return self.files[index].name

    def shape(self, index: int, rng: np.random.Generator | None = None) -> tuple[int, ...]:
        path = self.files[index]
        return self.presented(self.size_of(path, lambda: read_size(path, self.read_options)), rng)

    def load(self, index: int, rng: np.random.Generator | None = None) -> Sample:
        """One picture, float32 `[3, H, W]` in [-1, 1]; its key is the file's name."""
        path = self.files[index]
        pixels, meta = self.cache.get(path, lambda: read_pixels(path, self.read_options))
        return Sample(self.modality, {FIELD: self.present(pixels, rng)}, key=path.name, meta=dict(meta))


@dataclass
class ImageShapes(ImageOptions, GeneratedSource):
    """Generated pictures with captions, for smoke tests and where there are no files at all.

    A picture is a pure function of (seed, index); see `tok4d_image.shapes`.

    Attributes:
        side: height and width in pixels.
    """

    series: ClassVar[str] = "shapes"
    side: int = 128

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check()
        if self.count < 1 or self.side < 1:
            raise ConfigError(f"count and side must be at least 1, got {self.count} and {self.side}")

    @property
    def class_names(self) -> tuple[str, ...]:
        return KINDS

    def shape(self, index: int, rng: np.random.Generator | None = None) -> tuple[int, ...]:
        return self.presented((self.side, self.side), rng)

    def largest_shape(self) -> tuple[int, ...]:
        side = min(self.side, self.size or self.side)
        return CHANNELS, side, side

    def load(self, index: int, rng: np.random.Generator | None = None) -> Sample:
        """One picture, float32 `[3, H, W]` in [-1, 1], with its caption; the label is the kind of shape."""
        if not 0 <= index < len(self):
            raise DataError("shapes", f"has {len(self)} pictures, no number {index}")
        pixels, caption, label = draw_shape(self.seed, self.numbers[index], self.side)
        image = self.present(pixels, rng)
        return Sample(self.modality, {FIELD: image}, caption=caption, label=label, key=self.key(index))
