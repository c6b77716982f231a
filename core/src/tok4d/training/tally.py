"""What the parts of one step gave, over all processes: mean losses by task, faults, parameters reached."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import isfinite

import torch
from torch import Tensor

from tok4d.data.batches import Batch
from tok4d.training.parallel import gathered, summed, world


@dataclass(frozen=True)
class StepReport:
    """A finished step.

    Attributes:
        losses: `task/loss` and `task/term`, means over the step's samples of all processes.
        norm: of the gradient, before clipping.
        bad_files: replaced while loading.
        skipped: whether its gradients were dropped, as something was not finite.
    """

    losses: dict[str, float] = field(default_factory=dict)
    norm: float = 0.0
    bad_files: int = 0
    skipped: bool = False


class Tally:
    """Collects a step part by part; `close` sums over the processes, in one exchange.

    Args:
        parameters: those being trained; `reached` tells which of them some part's loss depends on.
    """

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self.parameters = parameters
        self.losses: dict[str, Tensor] = {}
        self.reached: set[Tensor] = set()
        self.faults: list[str] = []
        self.bad_files = 0
        self.keys: list[str] = []

    def add(self, batch: Batch, total: Tensor, terms: dict[str, Tensor]) -> None:
        """One part's mean losses, weighted by its share of the step's samples."""
        self.bad_files += len(batch.bad)
        self.keys += batch.keys
        for name, value in {**terms, "loss": total.detach()}.items():
            key = f"{batch.task}/{name}"
            weighted = value.detach().float() * batch.share
            self.losses[key] = self.losses[key] + weighted if key in self.losses else weighted

    def fault(self, text: str) -> None:
        """Something in this process's part was not finite."""
        self.faults.append(text)

    def close(self) -> tuple[StepReport, int, set[Tensor]]:
        """The step's report (without the norm), how many parts had a fault, and parameters that nothing reached."""
        names = sorted(self.losses)
        head = torch.tensor([float(len(self.faults)), float(self.bad_files)], device=self._device())
        hit = [parameter in self.reached for parameter in self.parameters] if world() > 1 else []
        mask = torch.tensor(hit, dtype=torch.float32, device=head.device)
        values = [self.losses[name].reshape(1) for name in names]
        merged = summed(torch.cat([head, *values, mask])).tolist()
        faults, bad, rest = int(merged[0]), int(merged[1]), merged[2:]
        losses = dict(zip(names, rest, strict=False))
        missed = {p for p, count in zip(self.parameters, rest[len(names) :], strict=False) if not count}
        return StepReport(losses, bad_files=bad), faults, missed

    def named_faults(self) -> str:
        """The faults of all processes, for people; every process must ask."""
        found = [text for texts in gathered(self.faults) for text in texts]
        return "; ".join(found[:4]) + ("; ..." if len(found) > 4 else "")

    def _device(self) -> torch.device:
        return next(iter(self.losses.values())).device if self.losses else torch.device("cpu")


def finite(value: Tensor) -> bool:
    """Whether a scalar is finite."""
    return isfinite(float(value.detach()))
