"""AdamW groups, learning-rate schedule and averaged weights, all functions of a step counter that the run owns."""

from __future__ import annotations

from math import cos, pi
from typing import Any

import torch
from torch import Tensor, nn

from tok4d.config.schema import OptimizerConfig
from tok4d.errors import ConfigError
from tok4d.training.parallel import like, local

# Projections into and out of the token stream. A linear start (`init: linear`) lives in them.
ENDS = ("encoder.input_layer", "proj.", "decoder.input_layer", "decoder.out_layer")


def param_groups(model: nn.Module, config: OptimizerConfig) -> list[dict[str, Any]]:
    """Groups by (learning-rate factor, weight decay): only the blocks' matrices decay.

    Norms, biases, tables, probes, the ends of the model and what `slow` names take `ends_scale`; encoder parameters
    also `encoder_scale`. Every group has its factor as `scale`, and `ends_scale` alone, where it takes that, as
    `counts`: what it counts in the gradient's norm.
    """
    groups: dict[tuple[float, float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        matrix = parameter.ndim >= 2 and not name.endswith(("gamma", "position_embedding.weight"))
        end = name.startswith((*ENDS, *config.slow)) or not matrix
        counts = config.ends_scale if end else 1.0
        scale = counts * (config.encoder_scale if name.startswith(("encoder.", "proj.")) else 1.0)
        groups.setdefault((scale, 0.0 if end else config.weight_decay, counts), []).append(parameter)
    return [
        {"params": params, "scale": scale, "weight_decay": decay, "counts": counts}
        for (scale, decay, counts), params in groups.items()
    ]


def make_adamw(model: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW over `param_groups`; the learning rate is set before every step by `set_lr`.

    Raises:
        ConfigError: when every parameter is frozen.
    """
    betas = (config.betas[0], config.betas[1])
    groups = param_groups(model, config)
    if not groups:
        raise ConfigError("freeze leaves no parameter to train")
    return torch.optim.AdamW(groups, lr=config.lr, betas=betas, fused=True)


def learning_rate(config: OptimizerConfig, step: int, steps: int) -> float:
    """Linear warm-up to `lr`, then cosine to `min_lr` at the last of `steps` (counted from 0)."""
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    progress = (step - config.warmup) / max(1, steps - 1 - config.warmup)
    return config.min_lr + (config.lr - config.min_lr) * 0.5 * (1 + cos(pi * min(1.0, progress)))


def set_lr(optimizer: torch.optim.Optimizer, value: float) -> None:
    """Set every group's learning rate to `value` times its `scale`."""
    for group in optimizer.param_groups:
        group["lr"] = value * group["scale"]


class AveragedWeights:
    """Exponential moving average of a model's parameters; what is evaluated and saved as the model.

    Of a sharded model every process averages its own shards.

    The decay is min(decay, (1 + t) / (10 + t)), so that a short run does not average in its start.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.values: dict[str, Tensor] = {name: p.detach().clone() for name, p in model.named_parameters()}

    def to(self, device: torch.device | str) -> None:
        """Move to a device."""
        self.values = {name: value.to(device) for name, value in self.values.items()}

    def shard_like(self, model: nn.Module) -> None:
        """Keep of every average only this process's part, as the model does."""
        self.values = {name: like(self.values[name], parameter) for name, parameter in model.named_parameters()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Average in the parameters after step `step` (counted from 1 over the whole run)."""
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        names, params = zip(*model.named_parameters(), strict=True)
        averages, current = [local(self.values[name]) for name in names], [local(p.detach()) for p in params]
        torch._foreach_lerp_(averages, current, weight)

    @torch.no_grad()
    def swap(self, model: nn.Module) -> None:
        """Exchange the model's parameters with the averages; call again to undo."""
        for name, parameter in model.named_parameters():
            mine, average = local(parameter), local(self.values[name])
            held = mine.clone()
            mine.copy_(average)
            average.copy_(held)
