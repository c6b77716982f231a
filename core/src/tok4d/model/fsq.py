"""Finite scalar quantisation (Mentzer et al. 2023, arXiv 2309.15505), product-quantised in groups as in AToken.

T = packed tokens, L = latent channels, G = groups (codebooks), K = dims a group, L = G * K. Always float32: rounding
in bf16 loses half of the codes.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn

from tok4d.config.schema import FSQConfig
from tok4d.errors import Tok4dError
from tok4d.tokens import TokenSet


@dataclass(frozen=True)
class Codes:
    """Discrete latents of a batch.

    Attributes:
        indices: `[T, G]` int32, each in [0, vocabulary[g]).
        values: the codes as latents `[T, L]` in [-1, 1]; gradients pass straight through to the latents.
        vocabulary: number of codes of every group.
        tokens: coordinates, lengths and origins of the tokens (features are `values`).
    """

    indices: Tensor
    values: Tensor
    vocabulary: tuple[int, ...]
    tokens: TokenSet

    def latents(self) -> TokenSet:
        """What `Tokenizer.decode` takes."""
        return self.tokens.replace(self.values)

    def flatten(self) -> Tensor:
        """One id per (token, group) in a single vocabulary, int64 `[T * G]`, groups of a token in order.

        id = index + sum of the earlier groups' vocabularies: a bijection onto what a language model reads. (One id
        per token would need prod(vocabulary) ids: 2^96 for 8 groups of 4096, beyond any integer type.)
        """
        return (self.indices.long() + _group_offsets(self.vocabulary, self.indices.device)).flatten()


def unflatten(ids: Tensor, vocabulary: tuple[int, ...]) -> Tensor:
    """Inverse of `Codes.flatten`: `[T * G]` ids -> int32 indices `[T, G]`.

    Raises:
        Tok4dError: when the count is no multiple of the groups, or an id lies outside its group's range.
    """
    if len(ids) % len(vocabulary):
        raise Tok4dError(f"{len(ids)} ids are no multiple of the {len(vocabulary)} groups")
    indices = ids.view(-1, len(vocabulary)) - _group_offsets(vocabulary, ids.device)
    _check_range(indices, vocabulary)
    return indices.to(torch.int32)


def _group_offsets(vocabulary: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.tensor([sum(vocabulary[:g]) for g in range(len(vocabulary))], device=device)


def _check_range(indices: Tensor, vocabulary: tuple[int, ...]) -> None:
    sizes = torch.tensor(vocabulary, device=indices.device)
    bad = (indices < 0) | (indices >= sizes)
    if bad.any():
        token, group = bad.nonzero()[0].tolist()
        raise Tok4dError(
            f"code {int(indices[token, group])} of token {token}, group {group} is outside [0, {vocabulary[group]})"
        )


class FSQ(nn.Module):
    """Rounds every channel to a few levels; has no parameters."""

    def __init__(self, config: FSQConfig) -> None:
        super().__init__()
        self.groups, self.levels = config.groups, tuple(config.levels)

    def _constants(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Half range, offset (both float32), middle level and index basis (int64), `[K]` each.

        Rebuilt from integers on every call and not kept as buffers: `model.to(torch.bfloat16)` would round them, and
        a half range of 1.5015 that becomes 1.5 loses codes.
        """
        levels = torch.tensor(self.levels, device=device)
        # The factor keeps rounding away from the outermost border; the offset centres an even number of levels.
        half = (levels - 1).float() * (1 + 1e-3) / 2
        offset = torch.where(levels % 2 == 0, 0.5, 0.0)
        basis = torch.tensor([prod(self.levels[:i]) for i in range(len(self.levels))], device=device)
        return half, offset, levels // 2, basis

    @property
    def vocabulary(self) -> tuple[int, ...]:
        """Codes of every group."""
        return (prod(self.levels),) * self.groups

    @property
    def width(self) -> int:
        """Latent channels L = groups * dims."""
        return self.groups * len(self.levels)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Latents `[T, L]` -> (values `[T, L]` float32 in [-1, 1] with straight-through gradient, indices `[T, G]`)."""
        if z.shape[-1] != self.width:
            raise Tok4dError(f"FSQ of {self.groups} x {len(self.levels)} channels got latents of width {z.shape[-1]}")
        with torch.autocast(z.device.type, enabled=False):
            grouped = z.float().unflatten(-1, (self.groups, len(self.levels)))
            half, offset, middle, basis = self._constants(z.device)
            bounded = torch.tanh(grouped + torch.atanh(offset / half)) * half - offset
            nearest = bounded.detach().round()
            straight_through = nearest + (bounded - bounded.detach())
            indices = ((nearest.long() + middle) * basis).sum(-1).to(torch.int32)
            return (straight_through / middle).flatten(-2), indices

    def values(self, indices: Tensor) -> Tensor:
        """Codes of indices `[T, G]` as latents `[T, L]` float32; exact inverse of the indices that `forward` gives.

        Raises:
            Tok4dError: for a wrong number of groups or an index out of range.
        """
        if indices.ndim != 2 or indices.shape[1] != self.groups or indices.is_floating_point():
            raise Tok4dError(f"indices must be integers [T, {self.groups}], got {indices.dtype} {tuple(indices.shape)}")
        _check_range(indices, self.vocabulary)
        levels = torch.tensor(self.levels, device=indices.device)
        _, _, middle, basis = self._constants(indices.device)
        digits = (indices.long()[..., None] // basis) % levels
        return ((digits - middle) / middle).float().flatten(-2)
