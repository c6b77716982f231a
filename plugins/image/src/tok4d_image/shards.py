"""Images of WebDataset tar shards; the tars themselves are read by `tok4d.data.shards`."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from tok4d.data.sharded import ShardSource
from tok4d.data.shards import Entry, label, read_member
from tok4d.errors import DataError
from tok4d.modality import Sample
from tok4d_image.augment import ImageOptions, Sides
from tok4d_image.reading import SUFFIXES, decode, measure

_HEAD = 1 << 16  # bytes of a member that nearly always hold the picture's header


@dataclass
class ImageShards(ImageOptions, ShardSource):
    """Images of WebDataset tars; see `ShardSource` for where they lie and what goes with them."""

    extensions: ClassVar[tuple[str, ...]] = tuple(suffix[1:] for suffix in SUFFIXES)
    noun: ClassVar[str] = "image"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check()

    def shape(self, index: int, rng: np.random.Generator | None = None) -> tuple[int, ...]:
        entry, member = self.main(index)
        return self.presented(self.size_of(entry.name, lambda: self._measure(entry, member)), rng)

    def load(self, index: int, rng: np.random.Generator | None = None) -> Sample:
        """One image, float32 `[3, H, W]` in [-1, 1], with caption and label where the shard has them."""
        entry, member = self.main(index)
        pixels, meta = self.cache.get(entry.name, lambda: self._decode(entry, member))
        image = self.present(pixels, rng)
        return label(Sample(self.modality, {"image": image}, key=entry.name, meta=dict(meta)), entry)

    def _decode(self, entry: Entry, member: str) -> tuple[Tensor, dict[str, Any]]:
        return decode(io.BytesIO(read_member(entry, member)), f"{entry.name}.{member}", self.read_options)

    def _measure(self, entry: Entry, member: str) -> Sides:
        try:
            return self._measured(entry, member, _HEAD)
        except DataError:
            if entry.members[member].size <= _HEAD:
                raise
            return self._measured(entry, member, None)  # a long profile or preview before the header

    def _measured(self, entry: Entry, member: str, limit: int | None) -> Sides:
        return measure(io.BytesIO(read_member(entry, member, limit)), f"{entry.name}.{member}", self.read_options)
