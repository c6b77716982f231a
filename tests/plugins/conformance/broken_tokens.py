"""Modalities with one fault each in their tokens: what patchify, unpatchify and grid do."""

from __future__ import annotations

import os
from dataclasses import replace

import torch
import torch.nn.functional as F
from rows import PER_TOKEN, Rows

from tok4d.errors import Tok4dError
from tok4d.modality import DEFAULT_PATCH, Sample
from tok4d.tokens import TokenSet


class ByOrder(Rows):
    def restore(self, part, origin):
        return Sample(self.name, {"row": part.feats[:, :PER_TOKEN].flatten()[: origin.shape[0]]})


class SlidesToTheFront(Rows):
    def restore(self, part, origin):
        order = part.coords[:, 1].argsort()
        row = part.feats[order, :PER_TOKEN].flatten()
        return Sample(self.name, {"row": F.pad(row, (0, origin.grid[1] * PER_TOKEN - len(row)))[: origin.shape[0]]})


class DirtyPadding(Rows):
    def patchify(self, sample, patch_size=DEFAULT_PATCH):
        tokens = super().patchify(sample, patch_size)
        tokens.feats[:, -1] = 1
        return tokens


class Narrow(Rows):
    def patchify(self, sample, patch_size=DEFAULT_PATCH):
        tokens = super().patchify(sample, patch_size)
        return tokens.replace(tokens.feats[:, :PER_TOKEN])


class SameCoordinate(Rows):
    def patchify(self, sample, patch_size=DEFAULT_PATCH):
        tokens = super().patchify(sample, patch_size)
        return TokenSet(tokens.feats, torch.zeros_like(tokens.coords), tokens.lengths, tokens.origins)


class OtherAxis(Rows):
    axes = ("y",)


class WithOrigin(Rows):
    """Changes the origin."""

    def patchify(self, sample, patch_size=DEFAULT_PATCH):
        tokens = super().patchify(sample, patch_size)
        origin = replace(tokens.origins[0], **self.changed(tokens))
        return TokenSet(tokens.feats, tokens.coords, tokens.lengths, (origin,))


class TupleInOrigin(WithOrigin):
    def changed(self, tokens):
        return {"extra": {"window": (1, 2)}}


class WorkerInOrigin(WithOrigin):
    def changed(self, tokens):
        return {"extra": {"pid": os.getpid()}}


class PaddedShape(WithOrigin):
    def changed(self, tokens):
        return {"shape": (tokens.num_tokens * PER_TOKEN,)}


class WrongGrid(Rows):
    def grid(self, shape, patch_size=DEFAULT_PATCH):
        coords, origin = super().grid(shape, patch_size)
        return coords.flip(0), replace(origin, channels=1)


class LosesPrecision(Rows):
    def patchify(self, sample, patch_size=DEFAULT_PATCH):
        return super().patchify(Sample("rows", {"row": sample.data["row"].half().float()}), patch_size)


class Restored(Rows):
    """Spoils the restored values."""

    def restore(self, part, origin):
        sample = super().restore(part, origin)
        return Sample(self.name, {"row": self.spoil(sample.data["row"])})


class Clamps(Restored):
    def spoil(self, row):
        return row.clamp(-1, 1)


class Detaches(Restored):
    def spoil(self, row):
        return row.detach()


class SoftLimit(Restored):
    def spoil(self, row):
        return row / row.abs().max().clamp_min(1.0)


class OneType(Rows):
    def restore(self, part, origin):
        blank = torch.zeros(origin.grid[1], PER_TOKEN)
        row = blank.index_copy(0, part.coords[:, 1].long(), part.feats[:, :PER_TOKEN]).flatten()
        return Sample(self.name, {"row": row[: origin.shape[0]]})


class ShortestFirst(Rows):
    def unpatchify(self, tokens, head=None):
        return sorted(super().unpatchify(tokens), key=lambda sample: len(sample.data["row"]))


class OnlyTheFirst(Rows):
    def unpatchify(self, tokens, head=None):
        return super().unpatchify(tokens)[:1]


class NeedsOne(Rows):
    def unpatchify(self, tokens, head=None):
        first = tokens.unpack()[0]
        return super().unpatchify(tokens) if first else []


class TrustsOrigins(Rows):
    def unpatchify(self, tokens, head=None):
        return [self.restore(part, part.origins[0]) for part in tokens.unpack()]


class ChangesItsArgument(Rows):
    def patchify(self, sample, patch_size=DEFAULT_PATCH):
        tokens = super().patchify(sample, patch_size)
        sample.data["row"].mul_(0.5)
        return tokens


class Dithers(Rows):
    def patchify(self, sample, patch_size=DEFAULT_PATCH):
        row = sample.data["row"]
        return super().patchify(Sample("rows", {"row": row + 1e-7 * torch.randn_like(row)}), patch_size)


class HoldsAFunction(Rows):
    def __init__(self):
        self.scale = lambda value: value


class DistrustsTheModel(Rows):
    def unpatchify(self, tokens, head=None):
        if tokens.feats[:, PER_TOKEN:].any():
            raise Tok4dError("the padding must be zero")
        return super().unpatchify(tokens)
