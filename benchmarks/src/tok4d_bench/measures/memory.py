"""A measure on samples in memory, without a suite: what scripts, cards and `bench explain` use.

n = samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch

from tok4d.errors import Tok4dError
from tok4d.losses.shared import sharing
from tok4d.modality import Sample
from tok4d_bench.contracts import BenchData, ChunkReader, Columns, Measure, Restored, Subject, Value

GROUP = 8  # samples that a measure sees at once


class MemoryReader(ChunkReader):
    """Columns that are in memory, as one piece.

    Args:
        columns: `[n, ...]` each.
        indices: of the rows in their data set; None: 0 to n - 1.

    Raises:
        Tok4dError: for columns of unequal lengths.
    """

    def __init__(self, columns: Mapping[str, np.ndarray], indices: Sequence[int] | None = None) -> None:
        lengths = {name: len(values) for name, values in columns.items()}
        if len(set(lengths.values())) > 1:
            raise Tok4dError(f"columns have unequal lengths: {lengths}")
        self.n = next(iter(lengths.values()), 0)
        self._columns = dict(columns)
        self._indices = np.arange(self.n) if indices is None else np.asarray(indices, dtype=np.int64)

    def __call__(self, *names: str) -> Iterator[Columns]:
        if self.n:
            yield {name: self._columns[name] for name in names}

    def indices(self) -> np.ndarray:
        return self._indices


class MemoryData(BenchData):
    """Samples in memory as a data set."""

    def __init__(self, samples: Sequence[Sample], name: str = "memory", classes: Sequence[str] = ()) -> None:
        self.samples, self.name, self.classes = list(samples), name, tuple(classes)
        self.modality = self.samples[0].modality if self.samples else ""

    @property
    def digest(self) -> str:
        """Of nothing: these samples have no file."""
        return ""

    def __len__(self) -> int:
        return len(self.samples)

    def key(self, index: int) -> str:
        return self.samples[index].key or str(index)

    def load(self, index: int) -> Sample:
        return self.samples[index]

    def protocol(self) -> dict[str, object]:
        return {"samples": len(self.samples)}


def measure_pairs(
    measures: Sequence[Measure],
    originals: Sequence[Sample],
    restored: Sequence[Restored],
    subject: Subject | None = None,
) -> list[list[Value]]:
    """Figures of several measures of kind `pair`, in groups of `GROUP` samples in order.

    Args:
        subject: what some measures ask for facts; None: one that has none.

    Raises:
        Tok4dError: for lists of unequal length, and whatever a measure refuses.
    """
    if len(originals) != len(restored):
        raise Tok4dError(f"{len(restored)} reconstructions for {len(originals)} originals; give one each")
    parts: list[list[Columns]] = [[] for _ in measures]
    with torch.inference_mode():
        for start in range(0, len(originals), GROUP):
            wanted, got = originals[start : start + GROUP], restored[start : start + GROUP]
            with sharing():
                for measure, found in zip(measures, parts, strict=True):
                    found.append({**measure.reference(wanted), **measure.columns(wanted, got)})
    data, asked = MemoryData(originals), subject or _Unknown()
    return [
        measure.finish(MemoryReader(_joined(found)), data, asked)
        for measure, found in zip(measures, parts, strict=True)
    ]


def _joined(parts: Sequence[Columns]) -> Columns:
    return {name: np.concatenate([part[name] for part in parts]) for name in (parts[0] if parts else ())}


class _Unknown(Subject):
    """What made reconstructions of which nothing else is known."""

    name, digest = "unknown", ""
