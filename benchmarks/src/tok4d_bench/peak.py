"""The largest memory while something is done, and not that of what was done before in the same process."""

from __future__ import annotations

import resource
import sys

import torch

from tok4d.training.memory import peak_memory, reset_peak


class Peak:
    """Largest memory from now on: of the process, or of a CUDA device where that computes.

    Attributes:
        lifelong: whether the system could not forget what was before, so that the peak is that of the whole process.
    """

    def __init__(self, device: str = "cpu") -> None:
        self.device = torch.device(device)
        self.lifelong = not reset_peak(self.device)

    def bytes(self) -> int:
        """The peak so far."""
        found = None if self.lifelong else peak_memory(self.device)
        if found is not None:
            return found
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
