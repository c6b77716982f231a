"""Checks of training-data sources."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tok4d.data.source import Source
from tok4d.modality import Modality, Sample
from tok4d.testing.conformance.base import Case, fail
from tok4d.testing.conformance.files import write_all


def _make(factory: Any, options: dict[str, object]) -> Source:
    """Build a source; `path` is left out where there is no such option."""
    if "path" not in {field.name for field in fields(factory)}:
        options.pop("path")
    source: Source = factory(**options)
    return source


class SourceChecks(Case):
    """Every source of the modality, with the options of `source_options`; `path` defaults to a folder of samples."""

    def _build(self, modality: Modality, samples: list[Sample], folder: Path) -> Iterator[tuple[str, Source]]:
        write_all(modality, samples, folder)
        for name, factory in modality.sources().items():
            if not is_dataclass(factory):
                fail(f"source {name!r} must be a dataclass, so that misspelt options fail by name, got {factory!r}")
            options = self.source_options(name, folder)
            if options is None:
                continue
            try:
                source = _make(factory, {"modality": modality.name, "path": str(folder), **options})
                length = len(source)
            except Exception as error:
                fail(f"source {name!r} cannot be built: {error}; override source_options(name, folder) in the test")
            if length < 1:
                fail(f"source {name!r} is empty; override source_options(name, folder) in the test")
            yield name, source

    def test_sources_give_samples(self, modality: Modality, samples: list[Sample], tmp_path: Path) -> None:
        for name, source in self._build(modality, samples, tmp_path):
            for index in range(min(len(source), 4)):
                sample = source.load(index)
                if not isinstance(sample, Sample) or sample.modality != modality.name:
                    fail(f"source {name!r} gave {sample!r}, expected a Sample of {modality.name!r}")
                modality.patchify(sample, self.patch_size).validate()
                if not isinstance(source.key(index), str) or not source.key(index):
                    fail(f"source {name!r} must name its samples, key({index}) is {source.key(index)!r}")

    def test_sources_are_reproducible(self, modality: Modality, samples: list[Sample], tmp_path: Path) -> None:
        for name, source in self._build(modality, samples, tmp_path):
            for seed in (None, 1):
                order = list(range(min(len(source), 3)))
                first = {i: self._load(source, i, seed, modality.field) for i in order}
                again = {i: self._load(source, i, seed, modality.field) for i in order[::-1]}
                if any(not torch.equal(first[i], again[i]) for i in order):
                    fail(
                        f"source {name!r} gives other samples for the same index and random generator; "
                        "draw from the generator passed to load() only, and keep no state between calls"
                    )

    @staticmethod
    def _load(source: Source, index: int, seed: int | None, field: str) -> torch.Tensor:
        return source.load(index, None if seed is None else np.random.default_rng(seed)).data[field]
