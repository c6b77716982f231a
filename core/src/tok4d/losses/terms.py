"""Loss terms that need nothing but the samples: L1, L2, KL. Each gives a value per sample, `[B]` float32."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tok4d.losses.objective import Term, pairs
from tok4d.modality import Sample
from tok4d.model.bottleneck import Encoded


class L1(Term):
    """Mean absolute error over a sample's values, in the units of the data ([-1, 1] for pictures)."""

    def forward(self, target: Sequence[Sample], reconstruction: Sequence[Sample], encoded: Encoded) -> Tensor:
        return torch.stack([_mean((got - wanted).abs()) for wanted, got in pairs(target, reconstruction)])


class L2(Term):
    """Mean squared error over a sample's values."""

    def forward(self, target: Sequence[Sample], reconstruction: Sequence[Sample], encoded: Encoded) -> Tensor:
        return torch.stack([_mean((got - wanted).square()) for wanted, got in pairs(target, reconstruction)])


def _mean(errors: Tensor) -> Tensor:
    """Mean; 0 for a sample without values, as for the KL of one without tokens."""
    return errors.sum() / max(1, errors.numel())


class KL(Term):
    """KL divergence of the posterior to the standard normal per token (nats), averaged over a sample's tokens."""

    def forward(self, target: Sequence[Sample], reconstruction: Sequence[Sample], encoded: Encoded) -> Tensor:
        kl_T = encoded.posterior.kl()
        seqs = encoded.features.seqs
        total_B = kl_T.new_zeros(len(seqs)).index_add(0, seqs.index, kl_T)
        return total_B / torch.tensor(seqs.lengths, device=kl_T.device).clamp_min(1)
