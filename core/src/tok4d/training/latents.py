"""Per-channel mean and deviation of the latents, measured on a stage's first batches when it ends."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import pytorch_lightning as pl
import torch

from tok4d.config.schema import Curriculum
from tok4d.data.batches import Batch, StageBatches
from tok4d.model.tokenizer import Tokenizer
from tok4d.training import parallel
from tok4d.training.callbacks import averaged
from tok4d.training.evaluate import measure_latents
from tok4d.training.grow import LATENT_BATCHES
from tok4d.training.module import TokenizerModule


class LatentStatistics(pl.Callback):
    """Sets the model's latent statistics at the end of a stage; every process measures its part of the batches."""

    def __init__(self, curriculum: Curriculum, name: str) -> None:
        self.curriculum, self.name = curriculum, name

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        module = cast(TokenizerModule, pl_module)
        stage = self.curriculum.stages[self.name]
        if not module.between_steps or module.trained < stage.steps:
            return
        share = (parallel.rank(), parallel.world())
        size, inputs = module.tokenizer.patch_size, module.tokenizer.config.inputs
        batches = StageBatches(stage, self.name, self.curriculum.seed, size, *share, inputs)
        count = min(LATENT_BATCHES, stage.steps) * batches.parts
        sizes: list[int] = []
        with averaged(module) as model:
            measure_latents(model, _one_by_one(batches, count, module.device, sizes))
            if parallel.world() > 1:
                _merge(model, sum(sizes))


def _one_by_one(batches: StageBatches, count: int, device: torch.device, sizes: list[int]) -> Iterator[Batch]:
    """The first batches on a device, of which no more than two are there at a time; `sizes` gets their tokens."""
    for index in range(count):
        batch = batches[index].to(device)
        if not batch.share:  # a stand-in: another process measures this sample
            continue
        sizes.append(batch.tokens.num_tokens)
        yield batch
        del batch  # before the next one is made


@torch.no_grad()
def _merge(model: Tokenizer, count: int) -> None:
    """Statistics of all processes' tokens from those of each process's."""
    mean, std = model.latent_mean.double(), model.latent_std.double()
    sums = torch.stack([mean * count, (std.square() + mean.square()) * count, torch.full_like(mean, float(count))])
    first, second, total = parallel.summed(sums).unbind()
    model.latent_mean.copy_(first / total)
    model.latent_std.copy_((second / total - (first / total).square()).clamp_min(0).sqrt().clamp_min(1e-6))
