"""Batches as a pure function of the step, for a loader that any number of workers may serve."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from tok4d.config.schema import StageConfig, TaskConfig
from tok4d.data.build import build_source
from tok4d.data.order import MixtureSchedule, sample_index, sample_rng, seed_of
from tok4d.data.source import Source
from tok4d.errors import ConfigError, DataError, PluginError
from tok4d.modality import PatchSize
from tok4d.tokens import TokenSet

log = logging.getLogger(__name__)
MAX_REPLACEMENTS = 16
Inputs = Mapping[str, Mapping[str, Any]]
Extras = dict[str, Tensor]


@dataclass(frozen=True)
class Batch:
    """One step's share of one process.

    Attributes:
        step: stage step it belongs to.
        task: task name.
        modality: name of the modality.
        tokens: patches with origins, packed.
        keys: name of every sample.
        noise_seeds: seed of every sample's posterior noise, keyed by its global position and so by the step.
        bad: files that could not be used and were replaced, with the reason.
        extras: `Modality.extras` of every sample; empty where no sample has any.
        captions, labels: text and class of every sample, None where it has none.
    """

    step: int
    task: str
    modality: str
    tokens: TokenSet
    keys: tuple[str, ...]
    noise_seeds: tuple[int, ...]
    bad: tuple[str, ...] = ()
    extras: tuple[Extras, ...] = ()
    captions: tuple[str | None, ...] = ()
    labels: tuple[int | None, ...] = ()

    def to(self, device: torch.device | str) -> Batch:
        """The batch with its tensors on a device."""
        extras = tuple({name: value.to(device) for name, value in one.items()} for one in self.extras)
        return replace(self, tokens=self.tokens.to(device), extras=extras)

    def unpack(self) -> list[Batch]:
        """One batch per sample."""
        named = ("keys", "noise_seeds", "extras", "captions", "labels")
        return [
            replace(self, tokens=tokens, bad=(), **{name: getattr(self, name)[i : i + 1] for name in named})
            for i, tokens in enumerate(self.tokens.unpack())
        ]

    def noise(self, channels: int) -> Tensor:
        """Standard normal `[T, channels]`, the same for a sample in any batch and on any device."""
        parts = [
            torch.randn(length, channels, generator=torch.Generator().manual_seed(seed))
            for length, seed in zip(self.tokens.lengths, self.noise_seeds, strict=True)
        ]
        return torch.cat(parts).to(self.tokens.device)


@dataclass(frozen=True)
class Loaded:
    """One sample as a batch takes it; the fields are those of `Batch`."""

    tokens: TokenSet
    key: str
    extras: Extras
    caption: str | None = None
    label: int | None = None


def collate(
    step: int, task: str, modality: str, samples: Sequence[Loaded], seeds: Sequence[int], bad: Sequence[str]
) -> Batch:
    """Samples as a batch, in their order."""
    extras = tuple(one.extras for one in samples)
    return Batch(
        step,
        task,
        modality,
        TokenSet.pack([one.tokens for one in samples]),
        tuple(one.key for one in samples),
        tuple(seeds),
        tuple(bad),
        extras if any(extras) else (),
        tuple(one.caption for one in samples),
        tuple(one.label for one in samples),
    )


class StageBatches(Dataset[Batch]):
    """`batches[step]` for the training steps of a stage.

    Args:
        stage, name: the stage and its name (part of all seeds).
        seed: of the run.
        patch_size, inputs: of the model; its options of `patchify` by modality.
        rank, world: this process and how many there are; each takes a strided slice of every batch.
    """

    def __init__(
        self,
        stage: StageConfig,
        name: str,
        seed: int,
        patch_size: PatchSize,
        rank: int = 0,
        world: int = 1,
        inputs: Inputs | None = None,
    ) -> None:
        self.tasks = stage.tasks
        self.steps = stage.steps
        self.patch_size, self.inputs = patch_size, inputs
        self.rank, self.world = rank, world
        self.seed = seed_of(seed, "stage", name)
        self.schedule = MixtureSchedule(self.seed, {key: task.weight for key, task in stage.tasks.items()})
        for key, task in stage.tasks.items():
            if task.batch % world:
                raise DataError(f"task {key!r}", f"batch {task.batch} must be divisible by the {world} processes")
        self._sources: dict[str, Source] = {}

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> Batch:
        key = self.schedule.task(step)
        task, source = self.tasks[key], self.source(key)
        first = self.schedule.count(step) * task.batch
        samples, seeds, bad = [], [], []
        for position in range(first + self.rank, first + task.batch, self.world):
            sample, errors = self._load(source, key, position)
            samples.append(sample)
            bad += errors
            seeds.append(seed_of(self.seed, key, "noise", position))
        return collate(step, key, source.modality, samples, seeds, bad)

    def source(self, key: str) -> Source:
        """Source of a task, built on first use (in the worker that uses it)."""
        if key not in self._sources:
            built = build_source(self.tasks[key])
            if not len(built):
                raise DataError(self.tasks[key].source, f"task {key!r} has no samples on this side of the split")
            self._sources[key] = built
        return self._sources[key]

    def _load(self, source: Source, key: str, position: int) -> tuple[Loaded, list[str]]:
        """The sample at a global position; a bad file is replaced by the next ones in an order of its own.

        Raises:
            DataError: when a position finds no usable file.
        """
        bad: list[str] = []
        for attempt in range(MAX_REPLACEMENTS):
            # Replacements walk the same permutation from far away: deterministic, and no worker needs to know.
            index = sample_index(self.seed, key, position + attempt * 1_000_003, len(source))
            try:
                rng = sample_rng(self.seed, key, position)
                return load_sample(source, index, self.patch_size, rng, self.inputs), bad
            except DataError as error:
                bad.append(str(error))
        raise DataError(f"task {key!r}", f"{MAX_REPLACEMENTS} files in a row cannot be used; last: {bad[-1]}")


def load_tokens(
    source: Source,
    index: int,
    patch_size: PatchSize,
    rng: np.random.Generator | None = None,
    inputs: Inputs | None = None,
) -> TokenSet:
    """The tokens of `load_sample`."""
    return load_sample(source, index, patch_size, rng, inputs).tokens


def load_sample(
    source: Source,
    index: int,
    patch_size: PatchSize,
    rng: np.random.Generator | None = None,
    inputs: Inputs | None = None,
) -> Loaded:
    """Sample `index` of a source as checked tokens, and what goes with them; with `rng` it is augmented.

    Raises:
        DataError: for whatever makes this sample unusable; another may do.
        ConfigError, PluginError: for what would make all of them fail alike.
    """
    try:
        host = source.host.configured((inputs or {}).get(source.modality, {}))
        sample = source.load(index, rng)
        tokens = host.patchify(sample, patch_size).validate()
        return Loaded(tokens, source.key(index), host.extras(sample), sample.caption, sample.label)
    except (ConfigError, PluginError, DataError):
        raise
    except (ValueError, OSError) as error:
        raise DataError(source.key(index), str(error)) from error


class FromStep(Sampler[int]):
    """Steps `start` .. `stop - 1`: where a resumed run goes on."""

    def __init__(self, start: int, stop: int) -> None:
        self.start, self.stop = start, stop

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.start, self.stop))

    def __len__(self) -> int:
        return max(0, self.stop - self.start)


def validation_batches(
    tasks: Mapping[str, TaskConfig],
    patch_size: PatchSize,
    rank: int = 0,
    world: int = 1,
    inputs: Inputs | None = None,
) -> Iterator[Batch]:
    """Every validation sample once, in order and without augmentation, in batches of each task's size.

    Files that cannot be used are left out; `Batch.bad` of the batch names them, and so does the log.
    """
    for key, task in tasks.items():
        source = build_source(task)
        mine = range(rank, len(source), world)
        for start in range(0, len(mine), task.batch):
            samples, bad = [], []
            for index in mine[start : start + task.batch]:
                try:
                    samples.append(load_sample(source, index, patch_size, inputs=inputs))
                except DataError as error:
                    log.warning("left out of validation: %s", error)
                    bad.append(str(error))
            if samples:
                seeds = [seed_of("validation", key, one.key) for one in samples]
                yield collate(-1, key, source.modality, samples, seeds, bad)
