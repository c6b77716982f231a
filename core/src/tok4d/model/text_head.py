"""What aligns a model's embedding with a text tower of another width: a projection, and the sigmoid loss's constants.

B = samples, C = encoder channels, D = width of the text tower's embeddings.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tok4d.config.schema import TextConfig

MAX_LOG_SCALE = 5.0  # exp(5) = 148; SigLIP2's learned value is 4.84, and beyond it the loss only grows steeper


class TextHead(nn.Module):
    """Projection `[C] -> [D]` (none where the widths agree), learned log-scale and bias of the logits.

    logit = exp(log_scale) * cosine + bias (SigLIP, arXiv 2303.15343, algorithm 1). The projection starts small and
    random, scale and bias at the config's values.
    """

    def __init__(self, config: TextConfig, channels: int) -> None:
        super().__init__()
        assert config.width is not None
        self.proj = nn.Linear(channels, config.width, bias=False) if config.width != channels else None
        self.log_scale = nn.Parameter(torch.tensor(float(config.log_scale)))
        self.bias = nn.Parameter(torch.tensor(float(config.bias)))

    def forward(self, pooled: Tensor) -> Tensor:
        """Pooled `[B, C]` in the text tower's space `[B, D]`, not normalised."""
        return pooled if self.proj is None else self.proj(pooled)

    @property
    def scale(self) -> Tensor:
        """exp(log_scale), log-scale clamped to `MAX_LOG_SCALE`."""
        return self.log_scale.clamp(max=MAX_LOG_SCALE).exp()
