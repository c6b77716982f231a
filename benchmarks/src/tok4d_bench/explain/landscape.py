"""The loss around a model's weights, on a plane of two random directions (Li et al. 2018, arXiv 1712.09913).

G = points along an axis.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tok4d.data.batches import Batch
from tok4d.errors import ConfigError
from tok4d_bench.explain.subject import Case

Directions = dict[str, Tensor]


@dataclass(frozen=True)
class Landscape:
    """Losses on a grid.

    Attributes:
        steps: places along both axes, G of them from -radius to radius: 1 moves every filter by its own length.
        losses: `losses[i][j]` at `steps[i]` along the first and `steps[j]` along the second direction.
        centre: loss of the model itself.
        seed: of the directions.
        samples: that each loss is the mean of.
    """

    steps: list[float]
    losses: list[list[float]]
    centre: float
    seed: int
    samples: int

    @property
    def rise(self) -> float:
        """Mean loss at the border of the grid, over the loss at its centre."""
        last = len(self.steps) - 1
        border = [value for i, row in enumerate(self.losses) for j, value in enumerate(row) if {i, j} & {0, last}]
        return sum(border) / len(border) / self.centre if self.centre else float("inf")


def check_plane(points: int, radius: float) -> None:
    """Refuse an even number of points, fewer than 3, or a radius that is not positive, as ConfigError."""
    if points < 3 or points % 2 == 0 or not 0 < radius < float("inf"):
        raise ConfigError(f"landscape: {points} points must be odd and at least 3, and the radius {radius} positive")


def landscape(
    case: Case,
    batches: Sequence[Batch] | None = None,
    *,
    points: int = 5,
    radius: float = 0.5,
    seed: int = 0,
    advance: Callable[[float], None] = lambda steps: None,
) -> Landscape:
    """Loss of the objective at G x G sets of weights; the model is left as it was, to the bit.

    Args:
        case: model, objective and data.
        batches: some of the case's; None: all.
        points: G, odd, so that the model itself is one of them.
        radius: of the plane.
        seed: of the two directions.
        advance: told of every point.

    Raises:
        ConfigError: for an even number of points, fewer than 3, or a radius that is not positive.
    """
    check_plane(points, radius)
    chosen = list(case.batches if batches is None else batches)
    axes = [random_direction(case.model, seed, axis) for axis in (0, 1)]
    half = points // 2
    steps = [radius * (i - half) / half for i in range(points)]
    losses = []
    for a in steps:
        row = []
        for b in steps:
            with moved(case.model, axes, (a, b)), torch.no_grad():
                row.append(_loss(case, chosen))
            advance(1)
        losses.append(row)
    return Landscape(steps, losses, losses[half][half], seed, sum(len(batch.keys) for batch in chosen))


def random_direction(model: nn.Module, seed: int, axis: int) -> Directions:
    """A normal direction, every filter of it as long as the model's own (section 4 of the paper).

    A filter is a row of a matrix: what makes one output. Vectors (biases, scales of norms) do not move. Each
    parameter's draw depends on seed, axis and its name alone.
    """
    found = {}
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2 or not parameter.numel():
            continue
        digest = hashlib.sha256(f"{seed}/{axis}/{name}".encode()).digest()
        rng = torch.Generator().manual_seed(int.from_bytes(digest[:4], "little"))
        drawn = torch.randn(parameter.shape, generator=rng, dtype=torch.float32).flatten(1)
        own = parameter.detach().float().cpu().flatten(1).norm(dim=1, keepdim=True)
        scaled = drawn * (own / drawn.norm(dim=1, keepdim=True).clamp_min(1e-12))
        found[name] = scaled.view(parameter.shape).to(parameter)
    return found


@contextmanager
def moved(model: nn.Module, axes: Sequence[Directions], steps: Sequence[float]) -> Iterator[None]:
    """The model with its weights moved along some directions, within this block."""
    before = {name: p.detach().clone() for name, p in model.named_parameters() if any(name in axis for axis in axes)}
    parameters = dict(model.named_parameters())
    try:
        with torch.no_grad():
            for axis, step in zip(axes, steps, strict=True):
                for name, direction in axis.items():
                    parameters[name].add_(direction, alpha=step)
        yield
    finally:
        with torch.no_grad():
            for name, value in before.items():
                parameters[name].copy_(value)


def _loss(case: Case, batches: Sequence[Batch]) -> float:
    """Mean over samples, in float64."""
    weighted = [float(case.loss(batch).total.double()) * len(batch.keys) for batch in batches]
    return sum(weighted) / sum(len(batch.keys) for batch in batches)
