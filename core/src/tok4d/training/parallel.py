"""Several processes: which strategy, what is summed over them, and a model in shards.

A sharded tensor is a `DTensor` of which every process holds some rows; `local` is what it holds.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recomputed

from tok4d.config.schema import Curriculum
from tok4d.errors import ConfigError
from tok4d.model.tokenizer import Tokenizer
from tok4d.nn.block import Block

if TYPE_CHECKING:
    from pytorch_lightning.strategies import Strategy
    from torch.distributed.device_mesh import DeviceMesh

_T = TypeVar("_T")


def world() -> int:
    """Number of processes."""
    return dist.get_world_size() if _many() else 1


def rank() -> int:
    """Number of this process."""
    return dist.get_rank() if _many() else 0


def _many() -> bool:
    return dist.is_available() and dist.is_initialized()


def summed(values: Tensor) -> Tensor:
    """Sum over all processes, in place."""
    if world() > 1:
        dist.all_reduce(values)
    return values


def gathered(value: _T) -> list[_T]:
    """What every process has, in order of their numbers. For small things: names, scores."""
    if world() == 1:
        return [value]
    found: list[Any] = [None] * world()
    dist.all_gather_object(found, value)
    return cast(list[_T], found)


def processes(curriculum: Curriculum) -> int:
    """Processes that a curriculum will train with, before they have found each other."""
    if "WORLD_SIZE" in os.environ:  # torchrun, or a process that Lightning has started
        return int(os.environ["WORLD_SIZE"])
    if curriculum.devices != "auto":
        return int(curriculum.devices) * curriculum.nodes
    return max(1, torch.cuda.device_count()) * curriculum.nodes


def is_first() -> bool:
    """Whether this is process 0, also before the processes have found each other."""
    from pytorch_lightning.utilities import rank_zero_only

    return int(getattr(rank_zero_only, "rank", 0)) == 0


def strategy_of(curriculum: Curriculum) -> Strategy | str:
    """The Lightning strategy that a curriculum asks for."""
    kind = curriculum.strategy
    if kind == "auto":
        kind = "single" if curriculum.devices == 1 and curriculum.nodes == 1 else "ddp"
    if kind == "single":
        return "auto"
    if kind == "ddp":
        from pytorch_lightning.strategies import DDPStrategy

        # Buffers change at the end of a stage only, on all processes alike.
        return DDPStrategy(broadcast_buffers=False, gradient_as_bucket_view=True)
    from pytorch_lightning.strategies import ModelParallelStrategy

    return _sharded_strategy(ModelParallelStrategy)


def _sharded_strategy(base: type[Any]) -> Strategy:
    class Sharded(base):
        """All processes hold shards; none of them splits a matrix."""

        def setup_environment(self) -> None:
            self._data_parallel_size, self._tensor_parallel_size = self.num_nodes * self.num_processes, 1
            super().setup_environment()

    return cast("Strategy", Sharded())


def is_sharded(module: nn.Module) -> bool:
    """Whether some parameter is a shard."""
    return any(isinstance(parameter, _dtensor()) for parameter in module.parameters())


def shard(root: nn.Module, model: Tokenizer, mesh: DeviceMesh) -> None:
    """Shard a model in place, block by block; `root` is the module whose forward runs it.

    Parameters that are single numbers stay whole on every process (`whole`): there is nothing to split.
    """
    from torch.distributed.fsdp import fully_shard

    inside = set(model.parameters())
    ignored = {p for p in root.parameters() if p not in inside or p.ndim == 0}
    for module in model.modules():
        if isinstance(module, Block):
            fully_shard(module, mesh=mesh)
    fully_shard(root, mesh=mesh, ignored_params=ignored)


@contextmanager
def gathered_model(root: nn.Module) -> Iterator[None]:
    """A sharded model whole on every process, so that processes may use it apart from each other; else nothing."""
    from torch.distributed.fsdp import FSDPModule

    if not isinstance(root, FSDPModule):
        yield
        return
    root.set_reshard_after_forward(False)
    parts = [module for module in root.modules() if isinstance(module, FSDPModule)]
    for part in parts:
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            part.reshard()
        root.set_reshard_after_forward(True)


def whole(model: nn.Module) -> list[nn.Parameter]:
    """Parameters of a sharded model that every process holds in full."""
    return [p for p in model.parameters() if not isinstance(p, _dtensor())]


def splits(value: Tensor) -> bool:
    """Whether a tensor is a shard."""
    return isinstance(value, _dtensor())


def local(value: Tensor) -> Tensor:
    """This process's part of a tensor; the tensor itself where it is not sharded."""
    return value.to_local() if isinstance(value, _dtensor()) else value


def like(value: Tensor, parameter: Tensor) -> Tensor:
    """A whole tensor sharded as a parameter is, on its device; a copy in any case."""
    if value.shape != parameter.shape or not isinstance(parameter, _dtensor()):
        return value.to(parameter.device, copy=True)
    from torch.distributed.tensor import distribute_tensor

    mesh, placements = parameter.device_mesh, parameter.placements
    return distribute_tensor(value.to(parameter.device), mesh, placements, src_data_rank=None).clone()


def _dtensor() -> type[Any]:
    from torch.distributed.tensor import DTensor

    return DTensor


def prepare_blocks(model: Tokenizer, *, recompute: bool, compiled: bool) -> None:
    """Blocks that are computed again in the backward pass, or compiled, as the curriculum says."""
    for module in model.modules():
        if not isinstance(module, Block):
            continue
        plain = type(module).forward
        module.__dict__.pop("forward", None)
        if recompute:
            module.__dict__["forward"] = partial(recomputed, partial(plain, module), use_reentrant=False)
        if compiled:
            module.compile(dynamic=True)


def clip(groups: Sequence[Mapping[str, Any]], bound: float) -> Tensor:
    """Scale all gradients down so that their norm, over everything and all shards, is at most `bound`.

    What `ends_scale` slows counts by that factor, so that what hardly moves does not take the step from what does: the
    switch of `grow: clips` has gradients ten times those of everything else together.

    Args:
        groups: AdamW's: `params` and `counts` (1 where it is missing).

    Returns:
        The norm before that, a scalar; the same on all processes.
    """
    shards, plain = list[Tensor](), list[Tensor]()
    total = torch.zeros((), dtype=torch.float32)
    spread = torch.zeros((), dtype=torch.float32)
    for group in groups:
        given = [p for p in group["params"] if p.grad is not None]
        apart = [local(cast(Tensor, p.grad)) for p in given if isinstance(p, _dtensor())]
        whole = [cast(Tensor, p.grad) for p in given if not isinstance(p, _dtensor())]
        factor = float(group.get("counts", 1.0)) ** 2
        spread = spread + factor * _squares(apart)
        total = total + factor * _squares(whole)
        shards += apart
        plain += whole
    norm = (summed(spread) + total if shards else total).sqrt()
    if shards or plain:
        torch._foreach_mul_(shards + plain, (bound / (norm + 1e-6)).clamp(max=1.0))
    return norm


def _squares(values: list[Tensor]) -> Tensor:
    """Sum of squares; of no tensors it is zero."""
    if not values:
        return torch.zeros(())
    return torch.stack(torch._foreach_norm(values)).square().sum()


def reached(loss: Tensor) -> set[Tensor]:
    """Leaves that a loss depends on, by its graph."""
    seen: set[Any] = set()
    found: set[Tensor] = set()
    open_ = [loss.grad_fn]
    while open_:
        node = open_.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if (leaf := getattr(node, "variable", None)) is not None:
            found.add(leaf)
        open_ += [following for following, _ in node.next_functions]
    return found


def touching(loss: Tensor, others: Iterable[Tensor]) -> Tensor:
    """The same loss, of which some more parameters are a part, with gradient zero: DDP waits for all of them."""
    return loss + sum((parameter.sum() * 0.0 for parameter in others), start=loss.new_zeros(()))


def refuse_unfit(curriculum: Curriculum) -> None:
    """Batches that the processes cannot share evenly, found before any work.

    Raises:
        ConfigError: naming stage and task.
    """
    if curriculum.devices == "auto":
        return
    count = int(curriculum.devices) * curriculum.nodes
    for name in curriculum.order:
        stage = curriculum.stages[name]
        tasks: Mapping[str, Any] = {**stage.tasks, **stage.every_step}
        for key, task in tasks.items():
            if not task.tokens and task.batch % (count * stage.micro):
                raise ConfigError(
                    f"stages.{name}: batch {task.batch} of task {key!r} must be divisible by {count} processes x "
                    f"micro {stage.micro}"
                )
