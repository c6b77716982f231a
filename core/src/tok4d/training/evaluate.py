"""Evaluation: a model's metrics over held-out samples, by every metric of their modality, and what it understands."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from math import fsum

import torch

from tok4d.data.batches import Batch
from tok4d.losses.codes import CodeStatistics
from tok4d.metrics import score_all
from tok4d.model.bottleneck import Encoded
from tok4d.model.fsq import Codes
from tok4d.model.pca import PatchPCA
from tok4d.model.tokenizer import Tokenizer
from tok4d.plugins.registry import modality
from tok4d.tokens import TokenSet
from tok4d.training.alignment import Alignment, Seen
from tok4d.training.merging import merged_codes, merged_seen
from tok4d.training.parallel import gathered
from tok4d.training.stage_loss import targets, unpatchify

Reconstruct = Callable[[Batch], TokenSet]
Watch = Callable[[Batch, Encoded, Codes | None], None]


@dataclass
class Scores:
    """What an evaluation found.

    Attributes:
        tasks: metric values by modality, `task/metric` and sample key, in order of evaluation.
        figures: what is no mean over samples, such as `task/accuracy`.
        codes: by modality, of a model with FSQ.
        bad: files that were left out.
    """

    tasks: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    figures: dict[str, float] = field(default_factory=dict)
    codes: dict[str, CodeStatistics] = field(default_factory=dict)
    bad: list[str] = field(default_factory=list)

    def add(self, batch: Batch, key: str, metric: str, value: float) -> None:
        """One value of one sample."""
        self.tasks.setdefault(batch.modality, {}).setdefault(f"{batch.task}/{metric}", {})[key] = value

    @property
    def values(self) -> dict[str, dict[str, float]]:
        """Metric values by `modality/metric` and sample key, task by task.

        Several tasks may have a sample of one name: the later ones' get their task's.
        """
        found: dict[str, dict[str, float]] = {}
        for host, by_task in self.tasks.items():
            for name, values in by_task.items():
                task, _, metric = name.rpartition("/")
                here = found.setdefault(f"{host}/{metric}", {})
                for key, value in values.items():
                    here[key if key not in here else f"{task}: {key}"] = value
        return found

    def mean(self, metric: str) -> float:
        """Mean over samples."""
        return _mean(self.values[metric])

    def means(self) -> dict[str, float]:
        """Mean of every metric; by task too where a modality has several; then the figures.

        A task that is called like a modality has no rows of its own: those are the modality's.
        """
        found = {metric: _mean(values) for metric, values in self.values.items()}
        for by_task in self.tasks.values():
            if len({name.rpartition("/")[0] for name in by_task}) > 1:
                found = {name: _mean(values) for name, values in by_task.items()} | found
        return found | self.figures


def _mean(values: Mapping[str, float]) -> float:
    """The same in any order, and so for any number of processes."""
    return fsum(values.values()) / len(values)


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
                scores.add(batch, key, name, value)
    return scores


def evaluate(model: Tokenizer, batches: Iterable[Batch], alignment: Alignment | None = None) -> Scores:
    """Metrics of a model's reconstructions, use of its codes and, with a text tower, accuracy and retrieval.

    One pass over the samples; several processes each see a part of them, and all must call this.

    Args:
        model: in evaluation mode.
        batches: held-out batches.
        alignment: the text side of these tasks, for a model that is aligned with a text tower.
    """
    seen: dict[str, Seen] = {}
    counted: dict[str, CodeStatistics] = {}

    def watch(batch: Batch, encoded: Encoded, codes: Codes | None) -> None:
        if alignment is not None:
            seen.setdefault(batch.task, Seen()).add(batch, encoded)
        if codes is not None and model.config.quantizer is not None:
            counted.setdefault(batch.modality, CodeStatistics.of(model.config.quantizer)).add(codes.indices)

    scores = score(batches, reconstructor(model, watch=watch, pool=alignment is not None), model)
    scores.codes = merged_codes(gathered(counted))
    for host, statistics in scores.codes.items():
        scores.figures |= {f"{host}/codes/{name}": value for name, value in statistics.figures().items()}
    if alignment is not None:
        scores.figures |= alignment.figures(merged_seen(gathered(seen)))
    return scores


def reconstructor(
    model: Tokenizer, latents: str = "mean", *, watch: Watch | None = None, pool: bool = False
) -> Reconstruct:
    """A tokenizer as a method to score: by FSQ codes if it has them, else by posterior `mean` or `sample`.

    Args:
        watch: sees what is encoded on the way, and the codes where the model has some.
        pool: whether to compute embeddings, for `watch`.
    """

    def reconstruct(batch: Batch) -> TokenSet:
        encoded = model.encode(batch.tokens, pool=pool)
        codes = None if model.quantizer is None else model.quantize(encoded)
        if watch is not None:
            watch(batch, encoded, codes)
        if codes is not None:
            return model.decode(codes.latents())
        noise = batch.noise(model.config.latent) if latents == "sample" else None
        return model.decode(encoded.latents(latents, noise=noise))

    return reconstruct


def pca_reconstructor(pca: PatchPCA, count: int) -> Reconstruct:
    """The floor: patches through `count` components of a PCA and back."""
    return lambda batch: pca.reconstruct(batch.tokens, count)


@torch.no_grad()
def measure_latents(model: Tokenizer, batches: Iterable[Batch]) -> None:
    """Set the model's per-channel latent mean and deviation from posterior means of some batches; of none: leave it."""
    parts = [model.encode(batch.tokens, pool=False).posterior.mean for batch in batches]
    if not parts:
        return
    means = torch.cat(parts)
    model.latent_mean.copy_(means.mean(0))
    model.latent_std.copy_(means.std(0, correction=0).clamp_min(1e-6))
