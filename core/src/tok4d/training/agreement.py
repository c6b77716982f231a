"""Whether all processes did their part, asked from any thread."""

from __future__ import annotations

import torch
import torch.distributed as dist

from tok4d.training import parallel


class Agreement:
    """Counts failures over all processes, on a channel of its own: training's exchanges go on beside it.

    Every process makes it at the same place, as making the channel is an exchange too.
    """

    def __init__(self) -> None:
        self._group = _channel() if parallel.world() > 1 else None

    def failures(self, failed: bool) -> int:
        """How many processes failed; waits until all have said."""
        if self._group is None:
            return int(failed)
        count = torch.tensor([int(failed)])
        dist.all_reduce(count, group=self._group)
        return int(count)


def _channel() -> dist.ProcessGroup:
    made = dist.new_group(backend="gloo")
    assert isinstance(made, dist.ProcessGroup)
    return made
