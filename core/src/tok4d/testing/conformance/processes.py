"""Checks that everything crosses process borders, as loader workers need."""

from __future__ import annotations

import pickle
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from tok4d.modality import Modality, PatchSize, Sample
from tok4d.testing.conformance.base import Case, describe, fail, same_values
from tok4d.tokens import TokenSet


class Patchified(Dataset[Any]):
    """Samples that a loader worker patchifies."""

    def __init__(self, modality: Modality, samples: list[Sample], patch_size: PatchSize) -> None:
        self.modality = modality
        self.samples = samples
        self.patch_size = patch_size

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Sample, TokenSet]:
        return self.samples[index], self.modality.patchify(self.samples[index], self.patch_size)


def first_item(batch: list[Any]) -> Any:
    """Collate a batch of one."""
    return batch[0]


def _pickled(value: Any, what: str) -> Any:
    try:
        return pickle.loads(pickle.dumps(value))
    except Exception as error:
        fail(f"{what} cannot be pickled: {type(error).__name__}: {error}; hold no open files, locks or local functions")


class ProcessChecks(Case):
    """Pickling, and the same tokens from a worker process."""

    def test_pickle(self, modality: Modality, samples: list[Sample], tokens: list[TokenSet]) -> None:
        again = _pickled(modality, f"{type(modality).__name__} object")
        for index, (sample, t) in enumerate(zip(samples, tokens, strict=True)):
            other = again.patchify(_pickled(sample, describe(index, sample)), self.patch_size)
            if not torch.equal(other.feats, t.feats) or other.origins != t.origins:
                fail(f"{describe(index, sample)}: the pickled modality patchifies differently; is it stateless?")
            if _pickled(t, "TokenSet").origins != t.origins:
                fail(f"{describe(index, sample)}: Origin changes when pickled; keep plain values in Origin.extra")

    def test_loader_worker(self, modality: Modality, samples: list[Sample], tokens: list[TokenSet]) -> None:
        data = Patchified(modality, samples, self.patch_size)
        loader = DataLoader(data, batch_size=1, num_workers=1, collate_fn=first_item, timeout=120)
        for index, (sample, t) in enumerate(loader):
            what = f"{describe(index, samples[index])} from a worker process"
            self.assert_same(sample, samples[index], 0.0, what)
            same_values(t.feats, tokens[index].feats, 0.0, f"{what}: its features")
            if t.origins != tokens[index].origins:
                fail(f"{what}: Origin is {t.origins[0]}, was {tokens[index].origins[0]}")
