"""One step's samples as a process gets them, and loading one of them from a source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tok4d.data.source import Source
from tok4d.errors import ConfigError, DataError, PluginError
from tok4d.modality import PatchSize
from tok4d.tokens import TokenSet

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
        share: which part of the step's samples, over all processes, these are. A loss that is a mean over samples
            counts that much: the gradients of the whole step are the sum over processes of `share` times theirs (with
            DDP, which divides by the number of processes, `loss * share * world`). 0: this process got none and has
            one that another has too, so that it takes part in every exchange; it counts nowhere.
        next_start: number and first position of the task's next batch, for `StageBatches.go_on`.
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
    share: float = 1.0
    next_start: tuple[int, int] = (0, 0)

    def to(self, device: torch.device | str) -> Batch:
        """The batch with its tensors on a device."""
        extras = tuple({name: value.to(device) for name, value in one.items()} for one in self.extras)
        return replace(self, tokens=self.tokens.to(device), extras=extras)

    def unpack(self) -> list[Batch]:
        """One batch per sample."""
        named = ("keys", "noise_seeds", "extras", "captions", "labels")
        whole = replace(self, bad=(), share=self.share / max(1, len(self.keys)))
        return [
            replace(whole, tokens=tokens, **{name: getattr(self, name)[i : i + 1] for name in named})
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
    step: int,
    task: str,
    modality: str,
    samples: Sequence[Loaded],
    seeds: Sequence[int],
    bad: Sequence[str],
    share: float = 1.0,
    next_start: tuple[int, int] = (0, 0),
) -> Batch:
    """Samples as a batch, in their order; the arguments are fields of `Batch`."""
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
        share,
        next_start,
    )


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
