"""The largest memory while something is done, and not that of what was done before in the same process."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import torch

from tok4d.training.memory import peak_memory

CLEAR = Path("/proc/self/clear_refs")
_PEAK = "5"  # of Linux: forgets the largest resident size, see proc(5)


class Peak:
    """Largest memory from now on: of the process, or of a CUDA device where that computes.

    Attributes:
        lifelong: whether the system could not forget what was before, so that the peak is that of the whole process.
    """

    def __init__(self, device: str = "cpu") -> None:
        self.device = torch.device(device)
        self.lifelong = not self._reset()

    def bytes(self) -> int:
        """The peak so far."""
        found = None if self.lifelong else peak_memory(self.device)
        if found is not None:
            return found
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

    def _reset(self) -> bool:
        """Whether that worked; `tok4d.training.memory.reset_peak` does not tell."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            return True
        try:
            CLEAR.write_text(_PEAK)
        except OSError:
            return False
        return peak_memory(self.device) is not None
