"""Evaluation: a model's metrics over held-out samples, by every metric of their modality."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch

from tok4d.data.batches import Batch
from tok4d.metrics import score_all
from tok4d.model.pca import PatchPCA
from tok4d.model.tokenizer import Tokenizer
from tok4d.plugins.registry import modality
from tok4d.tokens import TokenSet
from tok4d.training.module import targets, unpatchify

Reconstruct = Callable[[Batch], TokenSet]


@dataclass
class Scores:
    """Metric values by `modality/metric` and sample key, in order of evaluation; files that were left out."""

    values: dict[str, dict[str, float]] = field(default_factory=dict)
    bad: list[str] = field(default_factory=list)

    def mean(self, metric: str) -> float:
        """Mean over samples."""
        values = self.values[metric].values()
        return sum(values) / len(values)

    def means(self) -> dict[str, float]:
        """Mean of every metric."""
        return {metric: self.mean(metric) for metric in self.values}


def score(batches: Iterable[Batch], reconstruct: Reconstruct, model: Tokenizer | None = None) -> Scores:
    """Score any method that gives patches for a batch.

    Args:
        batches: held-out batches.
        reconstruct: batch -> TokenSet of patches; a tokenizer, a PCA, anything.
        model: its decoder heads are used when given.
    """
    scores = Scores()
    for batch in batches:
        host = modality(batch.modality)
        with torch.no_grad():
            target = targets(batch)
            patches = reconstruct(batch)
            got = unpatchify(model, batch, patches) if model is not None else host.unpatchify(patches)
        scores.bad += batch.bad
        factories = host.metrics()
        for key, one, other in zip(batch.keys, got, target, strict=True):
            for name, value in score_all(factories, one, other).items():
                scores.values.setdefault(f"{batch.modality}/{name}", {})[key] = value
    return scores


def reconstructor(model: Tokenizer, latents: str = "mean") -> Reconstruct:
    """A tokenizer as a method to score: by FSQ codes if it has them, else by posterior `mean` or `sample`."""

    def reconstruct(batch: Batch) -> TokenSet:
        encoded = model.encode(batch.tokens, pool=False)
        if model.quantizer is not None:
            return model.decode(model.quantize(encoded).latents())
        noise = batch.noise(model.config.latent) if latents == "sample" else None
        return model.decode(encoded.latents(latents, noise=noise))

    return reconstruct


def pca_reconstructor(pca: PatchPCA, count: int) -> Reconstruct:
    """The floor: patches through `count` components of a PCA and back."""
    return lambda batch: pca.reconstruct(batch.tokens, count)


@torch.no_grad()
def measure_latents(model: Tokenizer, batches: Iterable[Batch]) -> None:
    """Set the model's per-channel latent mean and deviation from posterior means of some batches."""
    means = torch.cat([model.encode(batch.tokens, pool=False).posterior.mean for batch in batches])
    model.latent_mean.copy_(means.mean(0))
    model.latent_std.copy_(means.std(0, correction=0).clamp_min(1e-6))
