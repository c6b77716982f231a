"""Clips listed in a file: CSV, TSV, JSONL or Parquet, with captions, labels and time spans."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tok4d.data.manifest import ManifestSource
from tok4d.data.rows import Row
from tok4d.errors import ConfigError, DataError
from tok4d.modality import Sample
from tok4d_video.augment import Indices, Span, VideoOptions, whole
from tok4d_video.decoded import Facts
from tok4d_video.sampling import in_span


@dataclass
class VideoManifest(VideoOptions, ManifestSource):
    """Clips that a manifest names, one row a sample, with its time span; see `tok4d.data.rows` for the columns."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check()

    def shape(self, index: int, rng: np.random.Generator | None = None) -> tuple[int, ...]:
        path = self.file(index)
        return self.presented(str(path), self.opener(path), rng, self._span(index, path))

    def load(self, index: int, rng: np.random.Generator | None = None) -> Sample:
        """Frames of a row's time span, float32 `[n, 3, H, W]` in [-1, 1], with its caption and label."""
        row, path = self.rows[index], self.file(index)
        sample = Sample(self.modality, {}, caption=row.caption, label=row.label, key=self.key(index))
        return self.present(sample, str(path), self.opener(path), rng, self._span(index, path))

    def _span(self, index: int, path: Path) -> Span:
        row = self.rows[index]
        if row.start is None and row.end is None:
            return whole
        return lambda facts: _span(path, row, facts)


def _span(path: Path, row: Row, facts: Facts) -> Indices:
    try:
        return in_span(facts.times, row.start or 0.0, float("inf") if row.end is None else row.end)
    except ConfigError as error:
        raise DataError(path, f"{error} ({row.where} of the manifest)") from None
