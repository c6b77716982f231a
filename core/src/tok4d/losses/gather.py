"""Rows of all processes, in order of their ranks, with gradients.

n = rows of this process, N = rows of all.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from tok4d.errors import Tok4dError

_standing_by: ContextVar[bool] = ContextVar("tok4d_losses_standing_by", default=False)


@contextmanager
def standing_by(whether: bool) -> Iterator[None]:
    """Where this process has only a sample that another has too (`Batch.share` is 0), its rows are nobody's.

    `gather` still exchanges, and gives what the others have.
    """
    token = _standing_by.set(whether)
    try:
        yield
    finally:
        _standing_by.reset(token)


def processes() -> int:
    """How many processes train together; 1 without `torch.distributed`."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def gather(rows: Tensor) -> Tensor:
    """`[n, ...]` of every process as `[N, ...]`, the same on all; with one process, the tensor itself.

    Processes may have different numbers of rows, none included; all must call it, with rows of one shape and type. A
    row's gradient is the sum of what all processes want of it: with gradients averaged afterwards, as DDP does, a mean
    over own samples on every process trains like the mean over all of them. Whether rows require gradients must be
    the same on all processes too, since the way back is an exchange as well.

    Raises:
        Tok4dError: for a scalar, which has no rows.
    """
    if not rows.ndim:
        raise Tok4dError("gather takes a tensor of rows [n, ...], got a scalar")
    if processes() == 1:
        return rows
    gathered: Tensor = _Gather.apply(rows[:0] if _standing_by.get() else rows)
    return gathered


class _Gather(torch.autograd.Function):
    """Forward: padded to the longest, since back ends exchange equal shapes. Backward: own rows of the sum."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        own = torch.tensor([len(rows)], device=rows.device)
        counts = [torch.empty_like(own) for _ in range(processes())]
        dist.all_gather(counts, own)
        lengths = [int(count) for count in counts]
        padded = rows.new_zeros(max(lengths), *rows.shape[1:])
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in lengths]
        dist.all_gather(parts, padded)
        rank = dist.get_rank()
        ctx.start, ctx.length = sum(lengths[:rank]), len(rows)
        return torch.cat([part[:length] for part, length in zip(parts, lengths, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        return total.narrow(0, ctx.start, ctx.length)
