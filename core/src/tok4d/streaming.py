"""Samples that are too long for memory: read, encode, decode and written piece by piece.

A piece is one temporal tile of one sample: `tile_steps * frames of a patch` frames, the last one shorter. The main
tensor of such a sample has time as its first axis. F = frames of the sample, L = latent channels, G = FSQ groups.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from tok4d.errors import DataError, Tok4dError
from tok4d.modality import Modality, Sample, SampleStream
from tok4d.model.bottleneck import Encoded
from tok4d.model.fsq import Codes
from tok4d.model.tiling import split_tiles
from tok4d.origin import Origin
from tok4d.tokens import TokenSet

if TYPE_CHECKING:
    from pathlib import Path

    from tok4d.model.tokenizer import Tokenizer


@dataclass(frozen=True)
class Piece:
    """One temporal tile of a sample: what was read, its tokens with t counted from the piece's start, and that start.

    `sample` holds what the tokens hold, without what a model's `inputs` cut away.
    """

    sample: Sample
    tokens: TokenSet
    first_step: int


def open_stream(owner: Modality, path: str | Path, model: Tokenizer, options: Mapping[str, Any]) -> SampleStream | None:
    """The file in pieces of one temporal tile of the model, or None where the modality reads files whole."""
    chosen = owner.configured(model.config.inputs.get(owner.name, {}))
    return chosen.stream(path, model.config.tile_steps * model.patch_size[0], model.patch_size, options)


def pieces(
    stream: SampleStream, owner: Modality, model: Tokenizer, advance: Callable[[float], None] = lambda share: None
) -> Iterator[Piece]:
    """Pieces as tokens, checked.

    Args:
        stream, owner, model: see `open_stream`.
        advance: told the share of the sample's expected frames in each piece, once the piece has been dealt with.

    Raises:
        DataError: when the stream gives nothing, or fails on the way.
    """
    chosen = owner.configured(model.config.inputs.get(owner.name, {}))
    number = -1
    for number, sample in enumerate(stream):
        tokens = chosen.patchify(sample, model.patch_size).validate()
        if tuple(sample.data[owner.field].shape) != tokens.origins[0].shape:
            sample = replace(sample, data=chosen.unpatchify(tokens)[0].data)
        yield Piece(sample, tokens, number * model.config.tile_steps)
        advance(len(sample.data[owner.field]) / stream.frames if stream.frames else 0.0)
    if number < 0:
        raise DataError(stream.path, "holds nothing")


def reconstruct(
    parts: Iterator[Piece], owner: Modality, model: Tokenizer, codes: bool
) -> Iterator[tuple[Sample, Sample]]:
    """(reconstruction, target) of every piece, the keys of the tile before being visible to each."""
    decode = model.decode_stream()
    for piece in parts:
        encoded = _encoded(piece, model)
        latents = model.quantize(encoded).latents() if codes else encoded.latents("mean")
        yield _restored(decode(latents, piece.first_step), owner, model), piece.sample


def encode(parts: Iterator[Piece], owner: Modality, model: Tokenizer, codes: bool) -> TokenSet | Codes:
    """Latents or codes of the whole sample, with the origin of the whole; patches are held one piece at a time."""
    places: list[torch.Tensor] = []
    kept: list[Codes | torch.Tensor] = []
    frames, last = 0, None
    for piece in parts:
        encoded = _encoded(piece, model)
        kept.append(model.quantize(encoded) if codes else encoded.posterior.mean)
        shift = torch.tensor([piece.first_step, 0, 0, 0], dtype=torch.int32)
        places.append(piece.tokens.coords.cpu() + shift)
        last = piece.tokens.origins[0]
        frames += last.shape[0]
    if last is None:
        raise Tok4dError("there is no piece to encode")
    coords = torch.cat(places)
    origin = whole_origin(owner, last, frames)
    if not codes:
        feats = torch.cat([item for item in kept if isinstance(item, torch.Tensor)])
        return TokenSet(feats, coords.to(feats.device), (len(feats),), (origin,))
    some = [item for item in kept if isinstance(item, Codes)]
    values, indices = torch.cat([c.values for c in some]), torch.cat([c.indices for c in some])
    tokens = TokenSet(values, coords.to(values.device), (len(values),), (origin,))
    return Codes(indices, values, some[0].vocabulary, tokens)


def decode(latents: TokenSet, owner: Modality, model: Tokenizer) -> Iterator[Sample]:
    """Pieces of one sample from its latents (the values of codes are latents too), first to last.

    Raises:
        Tok4dError: when a tile of the sample has no tokens.
    """
    (origin,) = latents.origins
    tile_frames = model.config.tile_steps * origin.patch[0]
    stream = model.decode_stream()
    for expected, tile in enumerate(split_tiles(latents, model.config.tile_steps)):
        first = int(tile.coords[:, 0].min()) // model.config.tile_steps
        if first != expected:
            raise Tok4dError(f"tile {expected} of the sample has no tokens; it cannot be written piece by piece")
        frames = min(tile_frames, origin.shape[0] - first * tile_frames)
        part = whole_origin(owner, origin, frames)
        shift = torch.tensor([first * model.config.tile_steps, 0, 0, 0], dtype=torch.int32, device=tile.device)
        local = TokenSet(tile.feats, tile.coords - shift, tile.lengths, (part,))
        yield _restored(stream(local, first * model.config.tile_steps), owner, model)


def whole_origin(owner: Modality, piece: Origin, frames: int) -> Origin:
    """Origin of a sample like `piece`, but `frames` long."""
    _, origin = owner.grid((frames, *piece.shape[1:]), piece.patch)
    return replace(origin, fps=piece.fps, extra=piece.extra)


def _encoded(piece: Piece, model: Tokenizer) -> Encoded:
    weight = model.proj.weight
    return model.encode(piece.tokens.to(weight.device, weight.dtype), pool=False)


def _restored(patches: TokenSet, owner: Modality, model: Tokenizer) -> Sample:
    head = dict(model.heads.items()).get(owner.name)
    (sample,) = owner.unpatchify(patches.to("cpu" if head is None else None, dtype=torch.float32), head)
    return sample
