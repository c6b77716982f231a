"""Loss terms that need nothing but the samples: L1, L2, Charbonnier, KL. `[B]` float32, a value per sample."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

import torch
from torch import Tensor

from tok4d.errors import ConfigError
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


class Charbonnier(Term):
    """Mean of sqrt(error^2 + eps^2): L1 that is smooth at 0 (Charbonnier et al. 1994; LapSRN, arXiv 1704.03915).

    Its minimum is eps, not 0.

    Args:
        eps: where it turns from a parabola to a line, in the units of the data.

    Raises:
        ConfigError: for an eps that is no positive number.
    """

    def __init__(self, eps: float = 1e-3) -> None:
        super().__init__()
        if isinstance(eps, bool) or not isinstance(eps, (int, float)) or not 0 < eps < inf:
            raise ConfigError(f"losses.charbonnier.eps must be a number above 0, got {eps!r}")
        self.eps = float(eps)

    def forward(self, target: Sequence[Sample], reconstruction: Sequence[Sample], encoded: Encoded) -> Tensor:
        errors = [got - wanted for wanted, got in pairs(target, reconstruction)]
        return torch.stack([_mean((error.square() + self.eps**2).sqrt()) for error in errors])


def _mean(errors: Tensor) -> Tensor:
    """Mean; 0 for a sample without values, as for the KL of one without tokens."""
    return errors.sum() / max(1, errors.numel())


class KL(Term):
    """KL divergence of the posterior to the standard normal per token (nats), averaged over a sample's tokens."""

    restores = False

    def forward(self, target: Sequence[Sample], reconstruction: Sequence[Sample], encoded: Encoded) -> Tensor:
        kl_T = encoded.posterior.kl()
        seqs = encoded.features.seqs
        total_B = kl_T.new_zeros(len(seqs)).index_add(0, seqs.index, kl_T)
        return total_B / torch.tensor(seqs.lengths, device=kl_T.device).clamp_min(1)
