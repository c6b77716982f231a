"""Sources: where training and evaluation samples come from.

A source is a dataclass: its fields are its options in a curriculum file (so a misspelt option fails by name), its
methods give samples by index. Loading is a pure function of (options, index, random generator).
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from glob import glob, has_magic
from pathlib import Path
from typing import ClassVar

import numpy as np

from tok4d.data.order import permuted
from tok4d.errors import ConfigError, DataError
from tok4d.modality import Modality, PatchSize, Sample
from tok4d.plugins.registry import modality

SPLITS = ("all", "train", "val")


@dataclass
class Source(ABC):
    """Samples of one modality by index.

    Attributes:
        modality: name of the modality; filled in by whoever builds the source.
        split: `all`, `train` or `val`. Items of one group never land on two sides.
        folds, fold: `val` is every `folds`-th group, counted from `fold`, in the order of the hash of the group's
            name; `train` is the rest.
    """

    modality: str
    split: str = "all"
    folds: int = 5
    fold: int = 0

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise ConfigError(f"source split must be one of {', '.join(SPLITS)}, got {self.split!r}")
        if not 0 <= self.fold < self.folds:
            raise ConfigError(f"source fold must be in [0, {self.folds}), got {self.fold}")

    @property
    def host(self) -> Modality:
        """The modality object."""
        return modality(self.modality)

    @property
    def class_names(self) -> Sequence[str]:
        """What the classes are called: a sample with `label` n shows a `class_names[n]`. Empty: they have no names.

        Accuracy in the loop asks a text tower about them. An empty name stands for a class that options exclude.
        """
        return ()

    @abstractmethod
    def __len__(self) -> int:
        """Number of samples."""

    @abstractmethod
    def key(self, index: int) -> str:
        """Name of a sample for logs and results."""

    @abstractmethod
    def load(self, index: int, rng: np.random.Generator | None = None) -> Sample:
        """Sample `index`. With `rng` it is augmented for training, without it comes as it is.

        Raises:
            DataError: when the underlying file cannot be used.
        """

    def shape(self, index: int, rng: np.random.Generator | None = None) -> tuple[int, ...] | None:
        """Shape of the main tensor of `load(index, rng)`, found without decoding anything; None: not known beforehand.

        The default is None. `rng` is in the state that `load` gets it in, so that the same draws come of it.

        Raises:
            DataError: when the underlying file cannot be used.
        """
        return None

    def token_count(
        self, index: int, patch_size: PatchSize, rng: np.random.Generator | None = None, host: Modality | None = None
    ) -> int | None:
        """How many tokens `load(index, rng)` becomes, or None when that shows only after loading.

        What packing by tokens needs. The default asks `shape`; sources whose tokens depend on more override it.

        Args:
            host: the modality with the model's options; None: as it is.
        """
        shape = self.shape(index, rng)
        return None if shape is None else _grid_size(host or self.host, tuple(shape), tuple(patch_size))

    def largest_shape(self) -> tuple[int, ...] | None:
        """Largest shape of the main tensor of `load(index, rng)` that the options allow; None: they set no limit.

        Asked for before there are any data, to estimate memory. The default is None.
        """
        return None

    def most_tokens(self, patch_size: PatchSize, host: Modality | None = None) -> int | None:
        """Most tokens that a sample may become in training, by the options alone; None: they set no limit."""
        shape = self.largest_shape()
        return None if shape is None else _grid_size(host or self.host, tuple(shape), tuple(patch_size))

    def ordered(self, offset: int, key: int) -> int:
        """Which sample stands at `offset` of an epoch; `key` chooses the epoch's order.

        A permutation of all samples. The default one is random; sources that read some samples together more cheaply
        keep them together.
        """
        return permuted(offset, len(self), key)


@lru_cache(maxsize=4096)
def _grid_size(host: Modality, shape: tuple[int, ...], patch_size: PatchSize) -> int:
    return len(host.grid(shape, patch_size)[0])


@dataclass
class GeneratedSource(Source):
    """Samples that are made up, a function of the set's seed and their number. A base class for plugins.

    Attributes:
        series: what the set is called in keys.
        count: number of samples in the whole set.
        seed: chooses another set.
    """

    series: ClassVar[str] = "generated"
    count: int = 256
    seed: int = 0

    @cached_property
    def numbers(self) -> list[int]:
        """Numbers of the samples on this side of the split."""
        return split_groups([str(number) for number in range(self.count)], self.split, self.folds, self.fold)

    def __len__(self) -> int:
        return len(self.numbers)

    def key(self, index: int) -> str:
        return f"{self.series}/{self.seed}/{self.numbers[index]}"


def split_groups(groups: Sequence[str], split: str, folds: int, fold: int) -> list[int]:
    """Indices of the items on one side of a split; `groups[i]` names the group of item i.

    Groups are ranked by hash, so that the sides are balanced and do not depend on the order of listing.
    """
    if split == "all":
        return list(range(len(groups)))
    ranked = sorted(set(groups), key=lambda group: hashlib.sha256(group.encode()).digest())
    held_out = {group for rank, group in enumerate(ranked) if rank % folds == fold}
    return [i for i, group in enumerate(groups) if (group in held_out) == (split == "val")]


@dataclass
class FolderSource(Source):
    """Files of a folder (recursive), a glob, or a single file, whatever the modality reads.

    Attributes:
        path: folder, glob pattern or file.
    """

    path: str = ""

    def __len__(self) -> int:
        return len(self.files)

    def key(self, index: int) -> str:
        return str(self.files[index])

    @cached_property
    def files(self) -> list[Path]:
        """Files on this side of the split, sorted.

        Raises:
            DataError: when nothing readable is found.
            ConfigError: without a path.
        """
        if not self.path:
            raise ConfigError(f"a source of {self.modality} files needs `path`: a folder, a pattern, or one file")
        found = find_files(self.path, self.host.suffixes)
        kept = [found[i] for i in split_groups([path.stem for path in found], self.split, self.folds, self.fold)]
        if not kept:
            raise DataError(self.path, f"no file on the {self.split!r} side of the split ({len(found)} files in all)")
        return kept

    def load(self, index: int, rng: np.random.Generator | None = None) -> Sample:
        sample = self.host.read(self.files[index])
        return sample if rng is None else self.augment(sample, rng)

    def augment(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Random crop, flip, ... for training; the base class changes nothing."""
        return sample


def find_files(path: str | Path, suffixes: Sequence[str]) -> list[Path]:
    """Sorted files with one of `suffixes` (lower case, with the dot) under a folder, by a glob, or the file itself.

    Raises:
        DataError: when there is none, or the path does not exist.
    """
    root = Path(path).expanduser()
    if root.is_file():  # what is there is meant as it is, also with brackets in its name
        return [root]
    if root.is_dir():
        candidates = list(root.rglob("*"))
    elif has_magic(str(path)):
        candidates = [Path(name) for name in glob(str(root), recursive=True)]
    else:
        raise DataError(path, "no such file or folder")
    found = sorted(p for p in candidates if p.suffix.lower() in suffixes and p.is_file())
    if not found:
        raise DataError(path, f"no file with a suffix in {', '.join(suffixes)}")
    return found
