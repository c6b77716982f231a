"""How a run starts: a fresh model from the curriculum's preset, at random, at the PCA of its training patches,
or with a SigLIP2 vision tower in the encoder.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from tok4d.config.loader import load_preset
from tok4d.config.schema import Curriculum, TaskConfig
from tok4d.data.batches import load_tokens
from tok4d.data.build import build_source
from tok4d.data.order import permuted, seed_of
from tok4d.errors import DataError
from tok4d.modality import PatchSize
from tok4d.model.pca import PatchPCA, used_channels
from tok4d.model.tokenizer import Tokenizer
from tok4d.weights.linear import init_linear
from tok4d.weights.siglip2 import init_from_siglip2

MAX_PATCHES = 100_000


def fresh_model(curriculum: Curriculum) -> Tokenizer:
    """A new model as the curriculum asks for it; the same one for the same seed.

    Raises:
        ConfigError, DataError: for a model that cannot start this way, or training data that cannot be read.
    """
    config = load_preset(curriculum.model.preset, curriculum.model.overrides)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(curriculum.seed)
        model = Tokenizer(config)
    if curriculum.init == "linear":
        tasks = list(curriculum.stages[curriculum.order[0]].tasks.values())
        init_linear(model, PatchPCA.fit(patches_of(tasks, model.patch_size, curriculum)))
    elif curriculum.init == "siglip2":
        init_from_siglip2(model, curriculum.init_from)
    return model


def patches_of(tasks: Sequence[TaskConfig], patch_size: PatchSize, curriculum: Curriculum) -> Tensor:
    """Patches of several tasks `[N, channels in use]`, each with its share of `init_samples` and of 100,000 patches.

    Tasks whose patches hold other numbers of values than the first one's are left out.

    Raises:
        DataError: when a task has no sample that can be read.
    """
    total = sum(task.weight for task in tasks)
    found: list[Tensor] = []
    for task in tasks:
        share = task.weight / total
        count = max(1, round(curriculum.init_samples * share))
        patches = sample_patches(task, patch_size, count, curriculum.seed)[: max(1, round(MAX_PATCHES * share))]
        if not found or patches.shape[1] == found[0].shape[1]:
            found.append(patches)
    return torch.cat(found)


def fit_pca(task: TaskConfig, patch_size: PatchSize, samples: int, seed: int) -> PatchPCA:
    """PCA of `sample_patches`."""
    return PatchPCA.fit(sample_patches(task, patch_size, samples, seed))


def sample_patches(task: TaskConfig, patch_size: PatchSize, samples: int, seed: int) -> Tensor:
    """Patches of up to `samples` training samples, unaugmented, at most 100,000: `[N, channels in use]`.

    Raises:
        DataError: when no sample can be read.
    """
    source = build_source(task)
    chosen: list[Tensor] = []
    total = 0
    for position in range(min(samples, len(source))):
        try:
            index = permuted(position, len(source), seed_of(seed, "pca"))
            tokens = load_tokens(source, index, patch_size)
        except DataError:
            continue  # a bad file is named when training meets it
        chosen.append(tokens.feats[:, : used_channels(tokens)])
        total += tokens.num_tokens
        if total >= MAX_PATCHES:
            break
    if not chosen:
        raise DataError(task.source, "no training sample could be read for the linear start")
    used = max(patches.shape[1] for patches in chosen)  # samples of one source may fill patches differently
    return torch.cat([F.pad(p, (0, used - p.shape[1])) for p in chosen])[:MAX_PATCHES]
