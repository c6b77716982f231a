"""Pictures with names: emoji in two sets, and stamps. Captions, classes, and splits by identity.

All are cut-outs with transparency, composited over a background when they are read.
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
from torch import Tensor

from tok4d.data.source import Source, split_groups
from tok4d.errors import ConfigError, DataError, unknown_name
from tok4d.modality import Sample
from tok4d_image.augment import ImageOptions
from tok4d_image.emoji import CATEGORIES, TABLE, Emoji, code_of, read_table
from tok4d_image.reading import ReadOptions, read_pixels, read_size
from tok4d_image.stamps import STAMP_CATEGORIES, find_stamps

PASTELS = (
    "#fde2e4", "#fad2e1", "#ffe5d9", "#fff1c9", "#f1f7c6", "#d8f3dc",
    "#cdeffd", "#d7e3fc", "#e2d9f3", "#eae4e9", "#e8e8e4", "#d0ece7",
)  # fmt: skip


class Named(NamedTuple):
    """One picture.

    Attributes:
        key: names it in logs; the same in all sets that have it.
        file: where it is; None when this set has no picture of it.
        caption: what it shows.
        category: its class.
        group: what a split keeps on one side.
    """

    key: str
    file: Path | None
    caption: str
    category: str
    group: str


@dataclass
class NamedPictures(ImageOptions, Source):
    """Pictures of a recipe with a caption each; the label is the category's place in `all_categories`.

    Sides of a split go by group, for every category by itself, over everything that has a name: a picture is on the
    same side in every set that has it, whatever else is chosen. A category of one group alone has no held-out side: it
    is in `train`.

    Attributes:
        categories: only these; empty: all.
        limit: at most that many of a side; 0: all. Which ones is decided by a hash of their keys.
        pastel: in training, what is transparent shows one of `PASTELS`, drawn at random, instead of `background`.
        path: folder of the files; empty: the recipe, fetched on first use.
    """

    recipe: ClassVar[str]
    all_categories: ClassVar[tuple[str, ...]]

    categories: list[str] = field(default_factory=list)
    limit: int = 0
    pastel: bool = False
    path: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check()
        for name in self.categories:
            if name not in self.all_categories:
                raise ConfigError(unknown_name(f"category of {self.recipe}", name, self.all_categories))
        if isinstance(self.limit, bool) or not isinstance(self.limit, int) or self.limit < 0:
            raise ConfigError(f"limit must be a whole number of at least 0, got {self.limit!r}")

    @property
    def class_names(self) -> tuple[str, ...]:
        chosen = self.categories or self.all_categories
        return tuple(name if name in chosen else "" for name in self.all_categories)

    @abstractmethod
    def everything(self, folder: Path) -> list[Named]:
        """All that has a name, on every side, in order."""

    @cached_property
    def folder(self) -> Path:
        """Where the files are.

        Raises:
            Tok4dError: when the recipe cannot be fetched.
        """
        if self.path:
            return Path(self.path).expanduser()
        from tok4d.data.fetch import ensure

        return ensure(self.recipe)[1]

    @cached_property
    def items(self) -> list[Named]:
        """Pictures on this side of the split.

        Raises:
            DataError: when nothing is left.
        """
        named = split_classes(self.everything(self.folder), self.split, self.folds, self.fold)
        kept = [item for item in named if item.file and (not self.categories or item.category in self.categories)]
        if self.limit:
            ranked = sorted(kept, key=lambda item: hashlib.sha256(item.key.encode()).digest())
            chosen = {item.key for item in ranked[: self.limit]}
            kept = [item for item in kept if item.key in chosen]
        if not kept:
            raise DataError(self.folder, f"no picture on the {self.split!r} side of the split")
        return kept

    def __len__(self) -> int:
        return len(self.items)

    def key(self, index: int) -> str:
        return f"{self.recipe}/{self.items[index].key}"

    def shape(self, index: int, rng: np.random.Generator | None = None) -> tuple[int, ...]:
        file = self._file(self.items[index])
        self._ground(rng)
        return self.presented(self.size_of(file, lambda: read_size(file, self.read_options)), rng)

    def load(self, index: int, rng: np.random.Generator | None = None) -> Sample:
        """One picture, float32 `[3, H, W]` in [-1, 1], with caption and label."""
        item = self.items[index]
        image = self.present(self._pixels(item, self._ground(rng)), rng)
        label = self.all_categories.index(item.category)
        meta = {"category": item.category, "group": item.group}
        return Sample(
            self.modality, {"image": image}, caption=item.caption, label=label, key=self.key(index), meta=meta
        )

    def _ground(self, rng: np.random.Generator | None) -> str:
        """Colour under a picture; drawn before everything else."""
        return self.background if rng is None or not self.pastel else PASTELS[int(rng.integers(len(PASTELS)))]

    def _pixels(self, item: Named, ground: str) -> Tensor:
        file, options = self._file(item), ReadOptions(self.max_pixels, ground)
        return self.cache.get((file, ground), lambda: read_pixels(file, options))[0]

    def _file(self, item: Named) -> Path:
        if item.file is None:
            raise DataError(item.key, f"has no picture in {self.recipe}")
        return item.file


def split_classes(named: Sequence[Named], split: str, folds: int, fold: int) -> list[Named]:
    """Items on one side of a split, in their order: each category is split by groups of its own.

    A group with items of several categories is split with the first of them.
    """
    homes: dict[str, str] = {}
    for item in named:
        homes.setdefault(item.group, item.category)
    kept: set[str] = set()
    for category in set(homes.values()):
        groups = [group for group, home in homes.items() if home == category]
        if len(groups) > 1:
            kept.update(groups[i] for i in split_groups(groups, split, folds, fold))
        elif split != "val":
            kept.update(groups)
    return [item for item in named if item.group in kept]


@dataclass
class EmojiPictures(NamedPictures):
    """Emoji of 64x64 pixels: 1,911 with a name of their own; the label is the place in `tok4d_image.emoji.CATEGORIES`.

    Attributes:
        skin_tones: with the variants in five skin tones, which have their emoji's name.
    """

    recipe: ClassVar[str] = "emoji"
    all_categories: ClassVar[tuple[str, ...]] = CATEGORIES
    suffix: ClassVar[str] = ".png"

    skin_tones: bool = False

    def everything(self, folder: Path) -> list[Named]:
        """All emoji of the table, with or without a picture in this set."""
        files = self._files(folder)
        return [self._named(one, files.get(one.code)) for one in read_table(folder / TABLE)]

    def _named(self, one: Emoji, file: Path | None) -> Named:
        shown = file if self.skin_tones or not one.tone else None
        return Named(one.code, shown, one.name, one.category, one.group)

    def _files(self, folder: Path) -> dict[str, Path]:
        """Pictures by code; a set may have one under two names."""
        return {code_of(path.stem): path for path in sorted(folder.glob(f"*{self.suffix}"), reverse=True)}


@dataclass
class Emoji3dPictures(EmojiPictures):
    """Renders of 256x256 pixels of 1,852 of the emoji; names, labels and sides of a split as `image/emoji`."""

    recipe: ClassVar[str] = "emoji3d"
    suffix: ClassVar[str] = ".webp"


@dataclass
class StampPictures(NamedPictures):
    """Cut-outs, photos and drawings with a caption each; the label is the place in `STAMP_CATEGORIES`."""

    recipe: ClassVar[str] = "stamps"
    all_categories: ClassVar[tuple[str, ...]] = STAMP_CATEGORIES

    def everything(self, folder: Path) -> list[Named]:
        """All stamps with a caption; those of one caption, whatever its last word, are one group."""
        return [Named(*stamp) for stamp in find_stamps(folder)]
