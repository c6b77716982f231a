"""Processes that share one run, and the threads of each.

No collective is needed: processes take blocks of groups in turn, write columns into one store, and rank 0 reads them
all. A process learns its place from torchrun's variables, Lightning's, or those of a SLURM step.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass

from tok4d.errors import ConfigError

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
BLOCK = 8  # groups that one process takes together


@dataclass(frozen=True)
class World:
    """This process among those of a run.

    Attributes:
        rank: 0 to size - 1.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.size:
            raise ConfigError(f"rank {self.rank} is not one of {self.size} processes, 0 to {self.size - 1}")

    def owns(self, group: int) -> bool:
        """Whether this process works on a group."""
        return group // BLOCK % self.size == self.rank

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> World:
        """From RANK and WORLD_SIZE (torchrun), WORLD_SIZE with NODE_RANK and LOCAL_RANK (Lightning), or a SLURM step.

        Raises:
            ConfigError: for values that are no numbers or contradict each other.
        """
        found = os.environ if environ is None else environ
        size = _number(found, "WORLD_SIZE")
        if size is None:
            steps = _number(found, "SLURM_STEP_NUM_TASKS") or 1
            return cls(_number(found, "SLURM_PROCID") or 0, steps) if steps > 1 else cls()
        rank = _number(found, "RANK")
        if rank is None:
            node, local = _number(found, "NODE_RANK") or 0, _number(found, "LOCAL_RANK") or 0
            rank = node * (_number(found, "LOCAL_WORLD_SIZE") or size) + local
        return cls(rank, size)


def _number(environ: Mapping[str, str], name: str) -> int | None:
    text = environ.get(name, "")
    if not text:
        return None
    if not text.isdecimal():
        raise ConfigError(f"the environment variable {name} must be a whole number, got {text!r}")
    return int(text)


def set_threads(count: int) -> None:
    """Let torch and BLAS compute with that many threads: their number changes the last bits of sums.

    Raises:
        ConfigError: for less than one.
    """
    if count < 1:
        raise ConfigError(f"threads must be at least 1, got {count}")
    import torch
    from threadpoolctl import threadpool_limits

    threadpool_limits(count)
    torch.set_num_threads(count)


def announce_threads(environ: MutableMapping[str, str], count: int) -> None:
    """The same for libraries that load later, or in another process."""
    for name in THREAD_VARIABLES:
        environ[name] = str(count)
