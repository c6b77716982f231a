"""What a model does with its FSQ codes: how many it uses, how evenly, and at which levels.

T = packed tokens, G = groups (codebooks), V = codes of a group, K = dims a group, L = G * K latent channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log, prod
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from tok4d.config.schema import FSQConfig
from tok4d.errors import Tok4dError
from tok4d.losses.gather import processes

MAX_CODES = 1 << 26  # counts of all groups together; half a gigabyte


class CodeStatistics:
    """Counts of codes per group, added batch by batch; the memory is that of one counter a code.

    Sums of integers: the same for any order and batching, and over any number of processes.

    Args:
        groups: codebooks.
        levels: of every dim of a group.

    Raises:
        Tok4dError: for sizes that are no quantiser's, or more than `MAX_CODES` counters.
    """

    def __init__(self, groups: int, levels: Sequence[int]) -> None:
        self.groups, self.levels = groups, tuple(int(level) for level in levels)
        if groups < 1 or not self.levels or min(self.levels) < 2:
            raise Tok4dError(f"FSQ has at least one group and levels of at least 2, got {groups} x {list(levels)}")
        if groups * prod(self.levels) > MAX_CODES:
            raise Tok4dError(
                f"{groups} groups of {prod(self.levels)} codes are more than the {MAX_CODES} that can be counted"
            )
        self.counts = torch.zeros(groups, prod(self.levels), dtype=torch.int64)

    @staticmethod
    def of(config: FSQConfig) -> CodeStatistics:
        """Empty statistics of a quantiser."""
        return CodeStatistics(config.groups, config.levels)

    def add(self, indices: Tensor) -> None:
        """Count one batch.

        Args:
            indices: `[T, G]` integers, as in `Codes.indices`.

        Raises:
            Tok4dError: for another number of groups, or codes out of range.
        """
        if indices.ndim != 2 or indices.shape[1] != self.groups or indices.is_floating_point():
            raise Tok4dError(f"indices must be integers [T, {self.groups}], got {indices.dtype} {list(indices.shape)}")
        codes = self.counts.shape[1]
        flat = indices.detach().to("cpu", torch.int64)
        if flat.numel() and not 0 <= int(flat.min()) <= int(flat.max()) < codes:
            raise Tok4dError(f"codes must be in [0, {codes}), got {int(flat.min())} to {int(flat.max())}")
        places = (flat + codes * torch.arange(self.groups)).flatten()
        self.counts += torch.bincount(places, minlength=self.counts.numel()).view_as(self.counts)

    def merge(self, other: CodeStatistics) -> None:
        """Add what another object counted.

        Raises:
            Tok4dError: when it is of another quantiser.
        """
        if (self.groups, self.levels) != (other.groups, other.levels):
            raise Tok4dError(
                f"codes of {self.groups} x {list(self.levels)} cannot be merged with those of {other.groups} x "
                f"{list(other.levels)}"
            )
        self.counts += other.counts

    def sync(self, device: torch.device | str = "cpu") -> None:
        """Sum over all processes; every one must call it, once. Nothing happens where there is one.

        Args:
            device: where the back end exchanges tensors, e.g. `cuda` for NCCL.
        """
        if processes() > 1:
            counts = self.counts.to(device)
            dist.all_reduce(counts)
            self.counts = counts.cpu()

    @property
    def tokens(self) -> int:
        """How many tokens were counted."""
        return int(self.counts[0].sum())

    @property
    def usage(self) -> Tensor:
        """Share of its codes that a group has shown, `[G]` float64 in [0, 1]; few tokens cannot show many."""
        return (self.counts > 0).double().mean(1)

    @property
    def entropy(self) -> Tensor:
        """Entropy of the codes in bits, `[G]` float64 in [0, log2 V]; the plug-in estimate, low for few tokens."""
        shares = self.counts.double() / max(1, self.tokens)
        bits: Tensor = torch.special.entr(shares).sum(1) / log(2)
        return bits

    @property
    def perplexity(self) -> Tensor:
        """2^entropy, `[G]`: as many codes, used evenly, would carry as much."""
        return torch.exp2(self.entropy)

    def histograms(self) -> list[Tensor]:
        """How often every latent channel had each of its levels, lowest first: L tensors `[levels]` of int64."""
        by_level = self.counts.view(self.groups, *reversed(self.levels))  # the first dim is an index's last digit
        dims = len(self.levels)
        return [
            group.sum([axis for axis in range(dims) if axis != dims - 1 - k]) if dims > 1 else group
            for group in by_level
            for k in range(dims)
        ]

    def figures(self) -> dict[str, float]:
        """For logs: mean and least `usage`, mean `entropy` (bits) and `perplexity` over groups, and `tokens`."""
        return {
            "usage": float(self.usage.mean()),
            "usage_min": float(self.usage.min()),
            "entropy": float(self.entropy.mean()),
            "perplexity": float(self.perplexity.mean()),
            "tokens": float(self.tokens),
        }

    def details(self) -> dict[str, Any]:
        """As JSON: `usage`, `entropy` in bits and `perplexity` by group, `histograms` by channel, and `tokens`."""
        by_group = {name: getattr(self, name).tolist() for name in ("usage", "entropy", "perplexity")}
        return {**by_group, "histograms": [counts.tolist() for counts in self.histograms()], "tokens": self.tokens}
