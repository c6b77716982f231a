"""`Objective`: a weighted sum of registered terms, each a value per sample.

B = samples. A term averages inside a sample, the objective over samples: the value does not depend on how samples of
different sizes are packed, and equal shares of a batch on several processes average to the whole batch.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tok4d.errors import ConfigError
from tok4d.losses.shared import sharing
from tok4d.modality import Sample
from tok4d.model.bottleneck import Encoded
from tok4d.plugins.registry import lookup


class Term(nn.Module):
    """One loss term. Options are the keyword arguments of its constructor.

    Class attributes:
        pools: whether it reads `encoded.embedding`; encoding pools only where some term does.
        restores: whether it reads the reconstruction; where no term does, nothing is decoded, and the targets stand in.
    """

    pools: ClassVar[bool] = False
    restores: ClassVar[bool] = True

    @abstractmethod
    def forward(self, target: Sequence[Sample], reconstruction: Sequence[Sample], encoded: Encoded) -> Tensor:
        """Value per sample, `[B]` float32, differentiable.

        Args:
            target: the samples as they went in, without padding.
            reconstruction: what the decoder made of them, unclamped, in the same order.
            encoded: posterior and features of the same batch.
        """


@dataclass(frozen=True)
class Loss:
    """`total` to minimise (a scalar) and the unweighted mean of every term, for the log."""

    total: Tensor
    terms: dict[str, Tensor]


class Objective(nn.Module):
    """Weighted sum of terms."""

    def __init__(self, terms: Mapping[str, tuple[float, Term]]) -> None:
        super().__init__()
        self.weights = {name: weight for name, (weight, _) in terms.items()}
        self.terms = nn.ModuleDict({name: term for name, (_, term) in terms.items()})
        self.pools = any(term.pools for _, term in terms.values())
        self.restores = any(term.restores for _, term in terms.values())

    @staticmethod
    def from_config(config: Mapping[str, Any]) -> Objective:
        """From `{"l1": 1.0, "kl": {"weight": 1e-8, option: value}}`.

        Raises:
            ConfigError: for an unknown term, option or weight, or when nothing is left to minimise.
        """
        terms: dict[str, tuple[float, Term]] = {}
        for name, value in config.items():
            options = dict(value) if isinstance(value, Mapping) else {"weight": value}
            weight = options.pop("weight", 1.0)
            if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 <= weight < inf:
                raise ConfigError(f"losses.{name}: weight must be a number >= 0, got {weight!r}")
            if weight == 0:
                continue
            factory = lookup("losses", name)
            try:
                terms[name] = (float(weight), factory(**options))
            except TypeError as error:
                raise ConfigError(f"losses.{name}: {error}") from error
        if not terms:
            raise ConfigError(f"losses {dict(config)} have no term with a positive weight; e.g. {{l1: 1, kl: 1e-8}}")
        return Objective(terms)

    def forward(self, target: Sequence[Sample], reconstruction: Sequence[Sample], encoded: Encoded) -> Loss:
        """The loss of one batch."""
        with sharing():  # pictures and features that several terms want
            terms = {name: term(target, reconstruction, encoded).mean() for name, term in self.terms.items()}
        weighted = [self.weights[name] * value for name, value in terms.items()]
        total = torch.stack(weighted).sum()
        return Loss(total, {name: value.detach() for name, value in terms.items()})


def no_difference(reconstruction: Sequence[Sample]) -> Tensor:
    """Zero, a float32 scalar that depends on every tensor of the samples: what an optional term gives for samples that
    have nothing to compare.

    Sharded training exchanges the gradients of what has one, so the graph must be the same on every process, whatever
    its samples have.
    """
    values = [value for sample in reconstruction for value in sample.data.values() if value.is_floating_point()]
    return torch.stack([value.flatten()[:0].float().sum() for value in values]).sum()


def pairs(target: Sequence[Sample], reconstruction: Sequence[Sample]) -> Iterator[tuple[Tensor, Tensor]]:
    """Floating-point tensors of every sample that both sides have, flattened to `[n]` float32 each.

    Raises:
        ConfigError: when the two sides share no tensor.
    """
    for wanted, got in zip(target, reconstruction, strict=True):
        common = [name for name in wanted.data if name in got.data and wanted.data[name].is_floating_point()]
        if not common:
            raise ConfigError(
                f"sample {wanted.key!r}: target has {sorted(wanted.data)}, reconstruction {sorted(got.data)}; "
                "unpatchify must return at least one tensor of the same name"
            )
        yield (
            torch.cat([wanted.data[name].float().flatten() for name in common]),
            torch.cat([got.data[name].float().flatten() for name in common]),
        )
