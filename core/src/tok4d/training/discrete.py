"""The entry into FSQ: which latent channels get which levels, at which scale, and how the decoder reads the codes.

A model's channels are not worth the same (of a linear start they are principal components), and FSQ has no parameters
that could learn it. So before the first step with codes, the stage's first batches tell what every channel does to what
is restored; levels, scale and gain follow from that and are folded into the layers around the bottleneck.

L = latent channels, G = groups, K = channels a group, T = packed tokens, C = channels of a patch.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from tok4d.config.schema import FSQConfig
from tok4d.data.batches import Batch
from tok4d.data.order import seed_of
from tok4d.model.fsq import FSQ
from tok4d.model.pca import used_channels
from tok4d.model.tokenizer import Tokenizer

SCALES = (0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0)  # of a channel's root mean square


@dataclass(frozen=True)
class Entry:
    """What is folded into a model when its latents become codes.

    Attributes:
        order: the old channel that each new one is, `[L]` int64.
        scale: what posterior means are divided by, `[L]`, in the new order.
        gain: what codes are multiplied by when the decoder reads them, `[L]`, in the new order.
    """

    order: Tensor
    scale: Tensor
    gain: Tensor


def measure_entry(model: Tokenizer, quantizer: FSQConfig, batches: Iterable[Batch]) -> Entry:
    """The entry that loses least of what a model of continuous latents restores of some batches."""
    return entry_of(*channel_worth(model, batches), quantizer)


def entry_of(means: Tensor, worth: Tensor, quantizer: FSQConfig) -> Entry:
    """The entry from what `channel_worth` gives: several quantizers can be tried on one measurement."""
    order = channel_order(worth, quantizer)
    means = means[:, order]
    scale = best_scale(means, quantizer)
    return Entry(order, scale, level_gain(means / scale, quantizer))


def channel_worth(model: Tokenizer, batches: Iterable[Batch]) -> tuple[Tensor, Tensor]:
    """Posterior means `[T, L]`, and how much of what is restored hangs on every channel `[L]`.

    The worth of a channel is its variance times the squared length of the decoder's derivative by it: to first order,
    the squared error when it is held at its mean. The squared lengths of all columns come from one backward pass of
    random signs (Hutchinson's estimator), over the values of a patch that are in use.
    """
    generator = torch.Generator().manual_seed(seed_of(0, "worth"))
    means = [torch.zeros(0, model.config.latent)]
    squares = torch.zeros(model.config.latent, dtype=torch.float64)
    for batch in batches:
        with torch.no_grad():
            latents = model.encode(batch.tokens, pool=False).latents("mean")
        leaf = latents.feats.detach().requires_grad_()
        restored = model.decode(latents.replace(leaf)).feats[:, : used_channels(batch.tokens)]
        signs = torch.randint(0, 2, restored.shape, generator=generator).mul(2).sub(1).to(restored)
        (slopes,) = torch.autograd.grad(restored, leaf, signs)
        squares += slopes.detach().double().square().sum(0).cpu()
        means.append(latents.feats.float().cpu())
    found = torch.cat(means)
    if not len(found):
        return found, squares.float()
    return found, (found.double().var(0, unbiased=False) * squares / len(found)).float()


def channel_order(worth: Tensor, quantizer: FSQConfig) -> Tensor:
    """The old channel for every new one, `[L]`: those worth most, one to each group in turn, where most levels are.

    With as many levels everywhere, nothing moves.
    """
    levels, groups = quantizer.levels, quantizer.groups
    if len(set(levels)) == 1:
        return torch.arange(len(worth))
    ranked = worth.argsort(descending=True, stable=True).tolist()
    order = torch.empty(len(worth), dtype=torch.long)
    for k in sorted(range(len(levels)), key=lambda k: -levels[k]):
        for group in range(groups):
            order[group * len(levels) + k] = ranked.pop(0)
    return order


@torch.no_grad()
def best_scale(means: Tensor, quantizer: FSQConfig) -> Tensor:
    """What to divide every channel's posterior means `[T, L]` by, `[L]`, so that its codes tell most of them.

    Few levels want a small divisor (more values reach the outer levels), many a large one (tanh then hardly bends).
    The scale is one of `SCALES` times the root mean square about zero and not about the mean, since the mean stays:
    tanh sees both.
    """
    unit = means.double().square().mean(0).sqrt().nan_to_num(0).clamp_min(1e-6).float()
    best, left = unit.clone(), torch.full_like(unit, float("inf"))
    for factor in SCALES:
        lost = _lost(means / (unit * factor), quantizer)
        better = lost < left
        best, left = torch.where(better, unit * factor, best), torch.where(better, lost, left)
    return best


@torch.no_grad()
def level_gain(means: Tensor, quantizer: FSQConfig) -> Tensor:
    """By how much every channel's codes fall short of what they stand for, `[L]`: least squares over `means` `[T, L]`.

    FSQ bends and bounds a value, so that its codes are smaller; the decoder expects the value.
    """
    codes: Tensor = FSQ(quantizer)(means)[0].double()
    products = (codes * means.double()).sum(0)
    return (products / codes.square().sum(0).clamp_min(1e-6)).clamp(0.05, 20.0).float()


def _lost(means: Tensor, quantizer: FSQConfig) -> Tensor:
    """The share of every channel's squares `[L]` that its codes, times the best gain, do not tell."""
    codes: Tensor = FSQ(quantizer)(means)[0].double()
    z = means.double()
    told = (codes * z).sum(0).square() / codes.square().sum(0).clamp_min(1e-12)
    return (1 - told / z.square().sum(0).clamp_min(1e-12)).float()
