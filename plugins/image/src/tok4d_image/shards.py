"""Images of WebDataset tar shards; the tars themselves are read by `tok4d.data.shards`."""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from torch import Tensor

from tok4d.data.shards import Entry, expand, index_shard, label, read_member
from tok4d.data.source import Source, split_groups
from tok4d.errors import DataError
from tok4d.modality import Sample
from tok4d_image.augment import ImageOptions
from tok4d_image.reading import SUFFIXES, decode

_IMAGES = tuple(suffix[1:] for suffix in SUFFIXES)


@dataclass
class ImageShards(ImageOptions, Source):
    """Images of local WebDataset tars; `.txt` is the caption, `.cls` the label, `.json` may hold both.

    Other fields of the `.json` land in `meta["json"]`. Samples without an image are left out.

    Attributes:
        path: a tar, a folder of tars, a glob (`data/*.tar`) or a range (`data/{000..010}.tar`).
    """

    path: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check()

    @cached_property
    def entries(self) -> list[Entry]:
        """Samples on this side of the split, in order of shard and member.

        Raises:
            DataError: when a shard is missing, damaged or truncated, or when nothing is left.
        """
        found = [entry for shard in expand(self.path) for entry in index_shard(shard) if entry.first_of(_IMAGES)]
        kept = [found[i] for i in split_groups([entry.key for entry in found], self.split, self.folds, self.fold)]
        if not kept:
            raise DataError(self.path, f"no image on the {self.split!r} side of the split ({len(found)} in all)")
        return kept

    def __len__(self) -> int:
        return len(self.entries)

    def key(self, index: int) -> str:
        return self.entries[index].name

    def load(self, index: int, rng: np.random.Generator | None = None) -> Sample:
        """One image, float32 `[3, H, W]` in [-1, 1], with caption and label where the shard has them."""
        entry = self.entries[index]
        pixels, meta = self.cache.get(entry.name, lambda: self._decode(entry))
        image = self.present(pixels, rng)
        return label(Sample(self.modality, {"image": image}, key=entry.name, meta=dict(meta)), entry)

    def _decode(self, entry: Entry) -> tuple[Tensor, dict[str, Any]]:
        member = entry.first_of(_IMAGES)
        if member is None:
            raise DataError(entry.name, "has no image")
        return decode(io.BytesIO(read_member(entry, member)), f"{entry.name}.{member}", self.read_options)
