"""Clips of WebDataset tar shards; the tars themselves are read by `tok4d.data.shards`."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np

from tok4d.data.sharded import ShardSource
from tok4d.data.shards import Entry, copy_member, label
from tok4d.errors import DataError
from tok4d.modality import Sample
from tok4d_video.augment import VideoOptions
from tok4d_video.decoded import ClipStore
from tok4d_video.ffmpeg import SUFFIXES
from tok4d_video.reading import Clip, open_clip


@dataclass
class VideoShards(VideoOptions, ShardSource):
    """Clips of WebDataset tars; see `ShardSource` for where they lie and what goes with them.

    Decoders need files: a clip is copied to the system's folder for temporary files while it is read.
    """

    extensions: ClassVar[tuple[str, ...]] = tuple(suffix[1:] for suffix in SUFFIXES)
    noun: ClassVar[str] = "clip"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check()

    @cached_property
    def store(self) -> ClipStore:
        """Decoded clips of this source; none stays open, since its file is gone after use."""
        return self.make_store(self.cache_mb * 1_000_000, 0)

    def load(self, index: int, rng: np.random.Generator | None = None) -> Sample:
        """Frames of one clip, float32 `[n, 3, H, W]` in [-1, 1], with caption and label where the shard has them."""
        entry, member = self.main(index)
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
