"""Clips of WebDataset tar shards; the tars themselves are read by `tok4d.data.shards`."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from tok4d.data.shards import Entry, copy_member, expand, index_shard, label
from tok4d.data.source import Source, split_groups
from tok4d.errors import DataError
from tok4d.modality import Sample
from tok4d_video.augment import VideoOptions
from tok4d_video.decoded import ClipStore
from tok4d_video.ffmpeg import SUFFIXES
from tok4d_video.reading import Clip, open_clip

_CLIPS = tuple(suffix[1:] for suffix in SUFFIXES)


@dataclass
class VideoShards(VideoOptions, Source):
    """Clips of local WebDataset tars; `.txt` is the caption, `.cls` the label, `.json` may hold both.

    Other fields of the `.json` land in `meta["json"]`. Samples without a clip are left out. Decoders need files: a clip
    is copied to the system's folder for temporary files while it is read.

    Attributes:
        path: a tar, a folder of tars, a glob (`data/*.tar`) or a range (`data/{000..010}.tar`).
    """

    path: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check()

    @cached_property
    def store(self) -> ClipStore:
        """Decoded clips of this source; none stays open, since its file is gone after use."""
        return self.make_store(self.cache_mb * 1_000_000, 0)

    @cached_property
    def entries(self) -> list[Entry]:
        """Samples on this side of the split, in order of shard and member.

        Raises:
            DataError: when a shard is missing, damaged or truncated, or when nothing is left.
        """
        found = [entry for shard in expand(self.path) for entry in index_shard(shard) if entry.first_of(_CLIPS)]
        kept = [found[i] for i in split_groups([entry.key for entry in found], self.split, self.folds, self.fold)]
        if not kept:
            raise DataError(self.path, f"no clip on the {self.split!r} side of the split ({len(found)} in all)")
        return kept

    def __len__(self) -> int:
        return len(self.entries)

    def key(self, index: int) -> str:
        return self.entries[index].name

    def load(self, index: int, rng: np.random.Generator | None = None) -> Sample:
        """Frames of one clip, float32 `[n, 3, H, W]` in [-1, 1], with caption and label where the shard has them."""
        entry = self.entries[index]
        member = entry.first_of(_CLIPS)
        if member is None:
            raise DataError(entry.name, "has no clip")
        sample = label(Sample(self.modality, {}, key=entry.name), entry)
        with tempfile.TemporaryDirectory(prefix="tok4d-") as folder:
            path = Path(folder) / f"clip.{member}"
            try:
                return self.present(sample, entry.name, lambda: self._unpack(entry, member, path), rng)
            except DataError as error:
                if error.path != str(path):
                    raise
                raise DataError(f"{entry.name}.{member}", error.reason) from None

    def _unpack(self, entry: Entry, member: str, path: Path) -> Clip:
        with path.open("wb") as file:
            copy_member(entry, member, file)
        return open_clip(path, **self.clip_options)
