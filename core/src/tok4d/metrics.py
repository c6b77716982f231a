"""Metrics over lists of samples, as torchmetrics: the same value for any batch size and number of processes."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from tok4d.errors import Tok4dError
from tok4d.modality import Sample

__all__ = [
    "CAP_DB",
    "PieceMean",
    "SampleMean",
    "SamplePSNR",
    "applies",
    "decibels",
    "psnr",
    "score_all",
    "squared_error",
]

CAP_DB = 100.0  # an exact copy would be infinite, and one infinite sample would hide all the others


def psnr(reconstruction: Tensor, target: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of two tensors of one shape with values in [-1, 1] (data range 2).

    Values outside are clamped, as they would be when written; at most `CAP_DB`. The error is summed in float64.
    """
    return decibels(squared_error(reconstruction, target) / target.numel())


def squared_error(reconstruction: Tensor, target: Tensor) -> float:
    """Sum over all values of the squared difference in float64, values clamped to [-1, 1]."""
    error = reconstruction.detach().clamp(-1, 1).double() - target.detach().clamp(-1, 1).double()
    return float(error.square().sum())


def decibels(mse: float) -> float:
    """PSNR of a mean squared error at a data range of 2, at most `CAP_DB`."""
    return CAP_DB if mse == 0 else min(CAP_DB, 10 * math.log10(4 / mse))


class SampleMean(Metric):
    """Mean over samples of a score that compares a reconstruction with its target.

    A subclass implements `score`; the sums are float64 and added over processes.

    Args:
        field: key of the tensor in `Sample.data` that is compared.
    """

    higher_is_better: bool | None = True  # None: a signed value, best at 0
    is_differentiable = False
    full_state_update = False

    total: Tensor
    count: Tensor

    def __init__(self, field: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.field = field
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    @abstractmethod
    def score(self, reconstruction: Tensor, target: Tensor) -> float:
        """Score of one pair of tensors, checked to be of equal shape, not empty and finite."""

    def applies(self, reconstruction: Sample, target: Sample) -> bool:
        """Whether these samples are of a kind that this metric compares (some assets have pictures, some have not)."""
        return True

    def update(self, reconstruction: Sequence[Sample], target: Sequence[Sample]) -> None:
        """Add one batch.

        Raises:
            Tok4dError: when the lists or a pair of tensors do not match, a tensor is empty, or a value is not finite:
                a broken reconstruction must be seen, not averaged.
        """
        if len(reconstruction) != len(target):
            raise Tok4dError(f"{len(reconstruction)} reconstructions for {len(target)} targets; give one each")
        scores = [self.score(*self._pair(a, b)) for a, b in zip(reconstruction, target, strict=True)]
        self.total += sum(scores)
        self.count += len(scores)

    def compute(self) -> Tensor:
        """Mean score, float64; raises `Tok4dError` when nothing was added."""
        if self.count == 0:
            raise Tok4dError(f"{type(self).__name__} has no samples to average; call update first")
        return self.total / self.count

    def _pair(self, reconstruction: Sample, target: Sample) -> tuple[Tensor, Tensor]:
        pair = []
        for role, sample in (("reconstruction", reconstruction), ("target", target)):
            if self.field not in sample.data:
                raise Tok4dError(f"{role} {sample.key!r} has no tensor {self.field!r}, only {sorted(sample.data)}")
            values = sample.data[self.field]
            if values.numel() == 0:
                raise Tok4dError(f"{role} {sample.key!r} is empty: {self.field} has shape {tuple(values.shape)}")
            if bad := int((~torch.isfinite(values)).sum()):
                raise Tok4dError(f"{role} {sample.key!r} has {bad} non-finite values of {values.numel()}")
            pair.append(values)
        if pair[0].shape != pair[1].shape:
            shapes = f"{tuple(pair[0].shape)} and {tuple(pair[1].shape)}"
            raise Tok4dError(f"reconstruction and target of {target.key!r} differ in shape: {shapes}")
        return pair[0], pair[1]


class PieceMean(SampleMean):
    """A `SampleMean` whose samples may also come in consecutive pieces along their first axis, too long for memory.

    A subclass implements `begin`, `more` and `end`; a sample given whole is one piece.
    """

    def __init__(self, field: str, **kwargs: Any) -> None:
        super().__init__(field, **kwargs)
        self.begin()

    @abstractmethod
    def begin(self) -> None:
        """Forget the current sample."""

    @abstractmethod
    def more(self, reconstruction: Tensor, target: Tensor) -> None:
        """Take in the next piece of the current sample."""

    @abstractmethod
    def end(self) -> float:
        """Score of the current sample."""

    def piece(self, reconstruction: Sample, target: Sample) -> None:
        """Add the next piece of the current sample; checks and errors as in `update`."""
        self.more(*self._pair(reconstruction, target))

    def close(self) -> float:
        """End the current sample: it counts for the mean. Returns its score."""
        score = self.end()
        self.begin()
        self.total += score
        self.count += 1
        self._computed, self._update_count = None, self._update_count + 1  # as torchmetrics does around `update`
        return score

    def reset(self) -> None:
        super().reset()
        self.begin()

    def score(self, reconstruction: Tensor, target: Tensor) -> float:
        self.begin()
        self.more(reconstruction, target)
        score = self.end()
        self.begin()
        return score


class SamplePSNR(PieceMean):
    """Mean over samples of the PSNR in dB, one mean squared error a sample; see `psnr` for range, clamping and cap.

    Args:
        field: key of the tensor in `Sample.data`, values in [-1, 1].
    """

    def begin(self) -> None:
        self.squares, self.values = 0.0, 0

    def more(self, reconstruction: Tensor, target: Tensor) -> None:
        self.squares += squared_error(reconstruction, target)
        self.values += target.numel()

    def end(self) -> float:
        return decibels(self.squares / self.values)


def score_all(factories: Mapping[str, Callable[[], Any]], reconstruction: Sample, target: Sample) -> dict[str, float]:
    """Values on one sample of all metrics that apply to it, by name."""
    values = {}
    for name, factory in factories.items():
        metric = factory()
        metric.distributed_available_fn = _alone  # one sample's value: processes each have others, or none
        if applies(metric, reconstruction, target):
            metric.update([reconstruction], [target])
            values[name] = float(metric.compute())
    return values


def _alone() -> bool:
    return False


def applies(metric: Any, reconstruction: Sample, target: Sample) -> bool:
    """Whether a metric compares samples like these; one that does not say so compares all."""
    asked = getattr(metric, "applies", None)
    return asked is None or bool(asked(reconstruction, target))
