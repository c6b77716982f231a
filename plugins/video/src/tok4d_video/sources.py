"""Video sources: folders. Others: `tok4d_video.manifest`, `.shards`, `.clips` (recipes), `.moving` (generated)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tok4d.data.source import FolderSource
from tok4d.modality import Sample
from tok4d_video.augment import VideoOptions


@dataclass
class VideoFolder(VideoOptions, FolderSource):
    """Clips of a folder (recursive), a glob, or a single file; see `VideoOptions` for sampling and augmentation."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check()

    def shape(self, index: int, rng: np.random.Generator | None = None) -> tuple[int, ...]:
        path = self.files[index]
        return self.presented(str(path), self.opener(path), rng)

    def load(self, index: int, rng: np.random.Generator | None = None) -> Sample:
        """Frames of one clip, float32 `[n, 3, H, W]` in [-1, 1]; raises `DataError` when its file cannot be used."""
        path = self.files[index]
        return self.present(Sample(self.modality, {}, key=str(path)), str(path), self.opener(path), rng)
