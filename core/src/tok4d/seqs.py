"""`Seqs`: where sequences begin and end in a packed tensor, known on the host and on the device.

Every attention call of a batch shares one `Seqs`, so offsets are built once and lengths never come back from a GPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import torch
from torch import Tensor


@dataclass(frozen=True)
class Seqs:
    """Lengths of consecutive sequences in a packed tensor.

    Attributes:
        lengths: tokens per sequence, host side; may hold zeros.
        device: where `offsets` live.
    """

    lengths: tuple[int, ...]
    device: torch.device

    def __len__(self) -> int:
        return len(self.lengths)

    @cached_property
    def total(self) -> int:
        """Packed length T."""
        return sum(self.lengths)

    @cached_property
    def longest(self) -> int:
        """Longest sequence; 0 when there is none."""
        return max(self.lengths, default=0)

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """First index of every sequence, and the total as last item (host side, B + 1 items)."""
        return tuple(accumulate(self.lengths, initial=0))

    @cached_property
    def offsets(self) -> Tensor:
        """`starts` as int32 on the device, `[B + 1]` (the `cu_seqlens` of variable-length kernels)."""
        return torch.tensor(self.starts, dtype=torch.int32).to(self.device)

    @cached_property
    def index(self) -> Tensor:
        """Sequence number of every token, int64 `[T]`."""
        with torch.inference_mode(False):  # a later pass with gradients may use it too
            counts = torch.tensor(self.lengths, dtype=torch.int64, device=self.device)
            numbers = torch.arange(len(self.lengths), device=self.device)
            return torch.repeat_interleave(numbers, counts, output_size=self.total)
