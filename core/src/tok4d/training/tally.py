"""What the parts of one step gave, over all processes: mean losses by task, faults, parameters reached."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import isfinite

import torch
from torch import Tensor

from tok4d.data.batches import Batch
from tok4d.errors import DataError
from tok4d.training.parallel import gathered, summed, world

PLACES = 97  # positions are compared modulo this: sums of squares over a thousand processes are exact in float32


@dataclass(frozen=True)
class StepReport:
    """A finished step.

    Attributes:
        losses: `task/loss` and `task/term`, means over the step's samples of all processes.
        norm: of the gradient, before clipping.
        bad: files replaced while loading, with the reason.
        skipped: whether its gradients were dropped, as something was not finite.
    """

    losses: dict[str, float] = field(default_factory=dict)
    norm: float = 0.0
    bad: tuple[str, ...] = ()
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
        self.bad: list[str] = []
        self.tasks: set[str] = set()
        self.shares, self.place = 0.0, 0
        self.keys: list[str] = []

    def add(self, batch: Batch, total: Tensor, terms: dict[str, Tensor]) -> None:
        """One part's mean losses, weighted by its share of the step's samples."""
        self.bad += batch.bad
        self.tasks.add(batch.task)
        self.shares += batch.share
        self.place = (self.place + batch.next_start[1]) % PLACES
        self.keys += batch.keys
        for name, value in {**terms, "loss": total.detach()}.items():
            key = f"{batch.task}/{name}"
            weighted = value.detach().float() * batch.share
            self.losses[key] = self.losses[key] + weighted if key in self.losses else weighted

    def fault(self, text: str) -> None:
        """Something in this process's part was not finite."""
        self.faults.append(text)

    def close(self) -> tuple[StepReport, int, set[Tensor]]:
        """The step's report (without the norm), how many parts had a fault, and parameters that nothing reached.

        Raises:
            DataError: on all processes, when they took other samples than they share.
        """
        names = sorted(self.losses)
        counts = (len(self.faults), len(self.bad), self.shares, self.place, self.place**2)
        head = torch.tensor(counts, dtype=torch.float32, device=self._device())
        hit = [parameter in self.reached for parameter in self.parameters] if world() > 1 else []
        mask = torch.tensor(hit, dtype=torch.float32, device=head.device)
        values = [self.losses[name].reshape(1) for name in names]
        merged = summed(torch.cat([head, *values, mask])).tolist()
        (faults, bad, *alike), rest = merged[: len(head)], merged[len(head) :]
        self._refuse_other_samples(*alike)
        losses = dict(zip(names, rest, strict=False))
        missed = {p for p, count in zip(self.parameters, rest[len(names) :], strict=False) if not count}
        named = tuple(text for texts in gathered(self.bad) for text in texts) if bad else ()
        return StepReport(losses, bad=named), int(faults), missed

    def _refuse_other_samples(self, shares: float, places: float, squares: float) -> None:
        """Every process finds by itself which samples a step has: a file that one could not read may part them."""
        count = len(self.tasks)
        if abs(shares - count) > 1e-3 * count or abs(world() * squares - places**2) > 0.5:
            raise DataError(
                f"the step with {', '.join(self.keys[:4])}",
                f"the processes disagree on its samples (their shares are {shares:.3f} of {count}): one of them "
                "could not read the size of a file that others read; go on from the last checkpoint with --resume",
            )

    def named_faults(self) -> str:
        """The faults of all processes, for people; every process must ask."""
        found = [text for texts in gathered(self.faults) for text in texts]
        return "; ".join(found[:4]) + ("; ..." if len(found) > 4 else "")

    def _device(self) -> torch.device:
        return next(iter(self.losses.values())).device if self.losses else torch.device("cpu")


def finite(value: Tensor) -> bool:
    """Whether a scalar is finite."""
    return isfinite(float(value.detach()))
