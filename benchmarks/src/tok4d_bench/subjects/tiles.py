"""Clips that are too long for one pass: one temporal tile after the other, as `tok4d reconstruct` does with files.

T = tokens of a clip, G = FSQ groups, F = frames.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tok4d.modality import Sample
from tok4d.model.streams import EncodeStream
from tok4d.plugins.registry import modality
from tok4d.tokens import TokenSet
from tok4d_bench.contracts import Restored

if TYPE_CHECKING:
    from tok4d_bench.subjects.tok4d_model import Tok4dSubject


def tile_samples(sample: Sample, frames: int) -> Iterator[Sample]:
    """A clip in pieces of `frames` frames along the first axis of its main tensor, the last one shorter."""
    field = modality(sample.modality).field
    whole = sample.data[field]
    for start in range(0, len(whole), frames):
        yield replace(sample, data={field: whole[start : start + frames]})


def by_tiles(subject: Tok4dSubject, sample: Sample, count: int) -> Restored:
    """Reconstruct a clip tile by tile: what one pass over all tiles gives, in the memory of one.

    Args:
        count: tokens of the whole clip.
    """
    model, field = subject.model, modality(sample.modality).field
    decode = model.decode_stream(cached_steps=subject.cached_steps)
    parts: list[Tensor] = []
    indices: list[Tensor] = []
    for number, tokens in enumerate(tiles_of(subject, sample)):
        encoded = model.encode(tokens, pool=False)
        latents = encoded.latents("mean")
        if subject.codes:
            codes = model.quantize(encoded)
            indices.append(codes.indices.cpu())
            latents = codes.latents()
        patches = decode(latents, number * model.config.tile_steps)
        parts.append(subject.sample_of(patches).data[field])
    restored = replace(sample, data={field: torch.cat(parts)}, meta={})
    return Restored(restored, subject.bits(count), count, torch.cat(indices) if indices else None)


def embed_by_tiles(subject: Tok4dSubject, sample: Sample) -> EncodeStream:
    """An encoder that has seen all tiles of a clip: its `pooled` and `embedding` are those of the whole."""
    stream = subject.model.encode_stream()
    for tokens in tiles_of(subject, sample):
        stream(tokens)
    return stream


def tiles_of(subject: Tok4dSubject, sample: Sample) -> Iterator[TokenSet]:
    """Tokens of every tile, t counted from its start."""
    frames = subject.model.config.tile_steps * subject.model.patch_size[0]
    for piece in tile_samples(sample, frames):
        yield subject.tokens_of(piece)
