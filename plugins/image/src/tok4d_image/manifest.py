"""Images listed in a file: CSV, TSV, JSONL or Parquet, with captions and labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tok4d.data.manifest import ManifestSource
from tok4d.errors import DataError
from tok4d.modality import Sample
from tok4d_image.augment import ImageOptions
from tok4d_image.reading import read_pixels, read_size


@dataclass
class ImageManifest(ImageOptions, ManifestSource):
    """Images that a manifest names, one row a sample; see `tok4d.data.rows` for the columns."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check()

    def shape(self, index: int, rng: np.random.Generator | None = None) -> tuple[int, ...]:
        path = self.file(index)
        return self.presented(self.size_of(path, lambda: read_size(path, self.read_options)), rng)

    def load(self, index: int, rng: np.random.Generator | None = None) -> Sample:
        """One image, float32 `[3, H, W]` in [-1, 1], with its caption and label.

        Raises:
            DataError: when its file cannot be used, or its row gives a span of time.
        """
        row, path = self.rows[index], self.file(index)
        if row.start is not None or row.end is not None:
            raise DataError(self.path, f"{row.where}: a picture has no time, so no start and no end")
        pixels, meta = self.cache.get(path, lambda: read_pixels(path, self.read_options))
        image = self.present(pixels, rng)
        return Sample(
            self.modality,
            {"image": image},
            caption=row.caption,
            label=row.label,
            key=self.key(index),
            meta=dict(meta),
        )
