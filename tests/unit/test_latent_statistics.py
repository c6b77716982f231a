"""Statistics of the latents at the end of a stage: over its first batches, without holding them all."""

from __future__ import annotations

import weakref
from typing import Any

import torch

from tok4d.config.loader import from_mapping
from tok4d.config.schema import Curriculum
from tok4d.data.batches import Batch, StageBatches
from tok4d.testing.models import tiny_tokenizer
from tok4d.training.evaluate import measure_latents
from tok4d.training.latents import LatentStatistics, _one_by_one
from tok4d.training.module import TokenizerModule

PATCH = (1, 8, 8)
TASK = {"source": "image/shapes", "batch": 4, "options": {"count": 40, "side": 24}}
STAGE = {"steps": 9, "micro": 2, "tasks": {"image": TASK}, "every_step": {"rider": TASK}}


def test_they_are_those_of_eight_steps_of_which_two_batches_are_there_at_a_time(monkeypatch):
    curriculum = from_mapping(Curriculum, {"order": ["s"], "stages": {"s": STAGE}}, "test")
    stage = curriculum.stages["s"]
    model = tiny_tokenizer(PATCH)
    module = TokenizerModule(model, stage, start=stage.steps)
    batches = StageBatches(stage, "s", curriculum.seed, PATCH)
    with torch.no_grad():
        means = [model.encode(batches[index].tokens, pool=False).posterior.mean for index in range(8 * 4)]
    expected = torch.cat(means)

    alive: weakref.WeakSet[Any] = weakref.WeakSet()
    most, moved = [0], []
    real = Batch.to

    def to(self: Batch, device: torch.device | str) -> Batch:
        batch = real(self, device)
        alive.add(batch.tokens)
        most[0] = max(most[0], len(alive))
        moved.append(batch.step)
        return batch

    monkeypatch.setattr(Batch, "to", to)
    trainer: Any = None
    LatentStatistics(curriculum, "s").on_train_batch_end(trainer, module)
    assert moved == [step for step in range(8) for _ in range(4)]
    assert most[0] <= 2
    assert torch.equal(model.latent_mean, expected.mean(0))
    assert torch.equal(model.latent_std, expected.std(0, correction=0).clamp_min(1e-6))


def test_samples_that_stand_in_for_none_are_not_measured():
    """Of one sample a step, the second of two processes gets a copy, so that it takes part in every exchange."""
    task = {"source": "image/shapes", "tokens": 9, "options": {"count": 40, "side": 24}}
    curriculum = from_mapping(Curriculum, {"order": ["s"], "stages": {"s": {"steps": 3, "tasks": {"i": task}}}}, "test")
    counts = []
    for rank in range(2):
        batches, sizes = StageBatches(curriculum.stages["s"], "s", 0, PATCH, rank, 2), list[int]()
        measure_latents(tiny_tokenizer(PATCH), _one_by_one(batches, 3, torch.device("cpu"), sizes))
        counts.append(sum(sizes))
    assert counts == [27, 0]
