"""Memory: what this machine has, what a process uses at most, and what a training run will need.

T = packed tokens, C = channels, M = hidden width of an MLP, W = patch width.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from tok4d.config.schema import StackConfig, TokenizerConfig
from tok4d.modality import patch_width

WORD = 4  # bytes of a float32
PROGRAM = 900_000_000  # bytes of Python, torch, Lightning and a data set: 0.94 GB were seen with a model of 3 M
SPARE = 1.1  # allocators keep more than is in use, and operations need room for their results
CLEAR = Path("/proc/self/clear_refs")
CGROUPS = Path("/proc/self/cgroup")  # lines like `0::/slurm/job_5` (version 2) and `4:memory:/docker/ab` (1)
_VERSIONS = {  # controllers: root, names of limit, use, and of what can be freed at once in memory.stat
    "": (Path("/sys/fs/cgroup"), "memory.max", "memory.current", "inactive_file"),
    "memory": (
        Path("/sys/fs/cgroup/memory"),
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        "total_inactive_file",
    ),
}


@dataclass(frozen=True)
class Need:
    """Bytes that a training step holds at once.

    Attributes:
        weights: parameters and buffers.
        averages: the averaged weights.
        gradients: of the parameters that are trained.
        moments: AdamW's two.
        activations: what the forward pass keeps for the backward pass of the largest batch.
        copies: of the state, while a checkpoint is written beside the training (`asynchronous`).
    """

    weights: int
    averages: int
    gradients: int
    moments: int
    activations: int = 0
    copies: int = 0

    @property
    def total(self) -> int:
        """All of it, with a tenth to spare, and the program's own."""
        counted: int = sum(vars(self).values())
        return PROGRAM + round(SPARE * counted)

    def times(self, factor: float) -> Need:
        """The same with everything but the activations multiplied."""
        return replace(Need(*(round(value * factor) for value in vars(self).values())), activations=self.activations)

    def spelt(self) -> str:
        """The parts for people."""
        return ", ".join(f"{name} {gigabytes(value)}" for name, value in vars(self).items() if value)


def need_of(model: nn.Module, *, copied: bool = False) -> Need:
    """What training a model takes, from its parameters' sizes alone: it may be on `meta`.

    Args:
        copied: whether checkpoints are written from copies.
    """
    parameters = list(model.parameters())
    held = sum(p.nbytes for p in parameters)
    trained = sum(p.nbytes for p in parameters if p.requires_grad)
    buffers = sum(b.nbytes for b in model.buffers())
    copies = held + buffers + held + 2 * trained if copied else 0
    return Need(held + buffers, held, trained, 2 * trained, copies=copies)


def activations_of(config: TokenizerConfig, tokens: int, *, recomputed: bool = False) -> int:
    """Bytes that a pass over a batch keeps in float32, roughly: what every operation's backward needs, block by block.

    A block keeps its two normalised inputs, q, k and v before and after norms and rotation, the attention's output,
    the sums, and the MLP's hidden layer before and after its activation. Losses and extra decoders are not in it.

    Args:
        tokens: T of the batch.
        recomputed: blocks keep their input alone, and one of them at a time everything (`checkpoint_activations`).
    """
    frames, height, width = config.patch_size
    ends = 4 * patch_width((frames, height, width))  # patches, their target, the reconstruction and its gradient
    blocks = sum(_kept(stack, recomputed) for stack in (config.encoder, config.decoder))
    return WORD * tokens * (ends + blocks + 8 * config.latent)


def _kept(stack: StackConfig, recomputed: bool) -> int:
    """Values a token."""
    once = 12 * stack.width + 2 * stack.mlp
    return stack.blocks * stack.width + once if recomputed else stack.blocks * once


def total_memory() -> int | None:
    """Bytes that this machine, or the container that this process is in, has; None when it does not say."""
    limits = [limit for limit, _ in _container()]
    with suppress(AttributeError, OSError, ValueError):
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    return min(limits, default=None)


def available_memory(device: torch.device) -> int | None:
    """Bytes that are still free for this process on a device; None when the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = [limit - used for limit, used in _container()]
    if (found := _entry(Path("/proc/meminfo"), "MemAvailable")) is not None:
        free.append(found)
    return min(free, default=None)


def _container() -> list[tuple[int, int]]:
    """Limit and use of every group that this process is in, as far as they have a limit. Cached files are no use."""
    try:
        lines = [line.split(":", 2) for line in CGROUPS.read_text().splitlines()]
    except (OSError, ValueError):
        return []
    found = []
    for _, controllers, group in lines:
        if controllers not in _VERSIONS:
            continue
        root, limit, used, cached = _VERSIONS[controllers]
        inner = root / group.lstrip("/")
        # A container may see its own group as the root, under a path that is there outside alone.
        for folder in (inner, *(parent for parent in inner.parents if parent.is_relative_to(root))):
            with suppress(OSError, ValueError):  # not there, or "max"
                most, now = int((folder / limit).read_text()), int((folder / used).read_text())
                found.append((most, now - (_entry(folder / "memory.stat", cached) or 0)))
    return found


def reset_peak(device: torch.device) -> bool:
    """Begin a new measurement of `peak_memory`; whether the system can."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return True
    try:
        CLEAR.write_text("5")  # of Linux: forgets the largest resident size, see proc(5)
    except OSError:
        return False
    return peak_memory(device) is not None


def peak_memory(device: torch.device) -> int | None:
    """Most bytes that this process held on a device since `reset_peak`; None when the system does not say."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return _entry(Path("/proc/self/status"), "VmHWM")


def _entry(path: Path, name: str) -> int | None:
    """A value of a file of lines like `VmHWM: 1234 kB` or `inactive_file 1234`, in bytes."""
    try:
        lines = [line.split() for line in path.read_text().splitlines()]
    except OSError:
        return None
    found = (line for line in lines if line and line[0].rstrip(":") == name)
    return next((int(line[1]) * (1024 if line[-1] == "kB" else 1) for line in found), None)


def gigabytes(count: float) -> str:
    """Bytes for people."""
    return f"{count / 1e9:.2f} GB" if count < 1e10 else f"{count / 1e9:.1f} GB"
