"""What subjects share: digests of settings, groups of equal shapes, samples with other pixels.

n = samples, F = frames, H, W = height and width.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from tok4d.errors import DataError
from tok4d.modality import Sample
from tok4d.plugins.registry import modality

PRECISIONS = {"float32": torch.float32, "bf16": torch.bfloat16}


def digest_of(**parts: Any) -> str:
    """SHA-256 of settings by name, as JSON."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def main_tensor(sample: Sample) -> Tensor:
    """The tensor that the sample's modality compares.

    Raises:
        DataError: when the sample does not have it.
    """
    field = modality(sample.modality).field
    if field not in sample.data:
        raise DataError(sample.key or "sample", f"has no tensor {field!r}, only {sorted(sample.data)}")
    return sample.data[field]


def pixels(sample: Sample) -> Tensor:
    """Pixels of a picture `[3, H, W]` or a clip `[F, 3, H, W]`.

    Raises:
        DataError: for a sample of another kind.
    """
    found = main_tensor(sample)
    if found.ndim not in (3, 4) or found.shape[-3] != 3 or not found.is_floating_point():
        raise DataError(sample.key or "sample", f"is no picture or clip: its tensor is {list(found.shape)}")
    return found


def with_main(sample: Sample, tensor: Tensor) -> Sample:
    """The same sample with another main tensor, and nothing of what it was."""
    field = modality(sample.modality).field
    return replace(sample, data={field: tensor}, meta={})


def by_shape(
    tensors: Sequence[Tensor], run: Callable[[Tensor], Sequence[Any]], at_most: int | None = None
) -> list[Any]:
    """Stack tensors of equal shape, run each stack, and give one result a tensor in the order given.

    Args:
        run: a stack `[n, ...]` -> n results.
        at_most: values in a stack; None: no bound.
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for place, tensor in enumerate(tensors):
        groups.setdefault(tuple(tensor.shape), []).append(place)
    results: list[Any] = [None] * len(tensors)
    for shape, places in groups.items():
        size = len(places) if at_most is None else max(1, at_most // max(1, torch.Size(shape).numel()))
        for start in range(0, len(places), size):
            some = places[start : start + size]
            for place, result in zip(some, run(torch.stack([tensors[p] for p in some])), strict=True):
                results[place] = result
    return results


def parameters(module: torch.nn.Module) -> int:
    """Number of parameters."""
    return sum(p.numel() for p in module.parameters())
