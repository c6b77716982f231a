"""What the stages of a curriculum will hold, from the configuration alone: no weights, data or devices are needed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import ceil

import torch

from tok4d.config.schema import Curriculum, StageConfig, TaskConfig, TokenizerConfig
from tok4d.data.build import build_source
from tok4d.errors import Tok4dError
from tok4d.modality import PatchSize
from tok4d.model.tokenizer import Tokenizer
from tok4d.training.estimate import StageCost
from tok4d.training.grow import stage_configs
from tok4d.training.launch import GPUS
from tok4d.training.memory import Need, activations_of, need_of


def device_of(curriculum: Curriculum) -> tuple[torch.device, str]:
    """Where training would be, and why it cannot be there on this machine; empty when it can."""
    wanted = curriculum.accelerator
    if wanted in ("auto", *GPUS) and torch.cuda.is_available():
        return torch.device("cuda"), ""
    if wanted in ("auto", "cpu"):
        return torch.device("cpu"), ""
    if wanted in GPUS:
        return torch.device("cuda"), (
            f"accelerator: {wanted} is asked for and torch sees none here; run this where there is one, or see what "
            "this machine does with accelerator=cpu precision=float32"
        )
    return torch.device("cpu"), f"accelerator: {wanted!r} cannot be rehearsed; a dry run takes auto, cpu or gpu"


def processes(curriculum: Curriculum) -> int:
    """Processes of the run, as far as a dry run knows: of `devices: auto` it takes one."""
    return 1 if curriculum.devices == "auto" else int(curriculum.devices) * curriculum.nodes


def sized(curriculum: Curriculum, device: torch.device) -> Iterator[StageCost]:
    """Every stage by the sizes of its model, which is never made, and of the largest batch that it may have."""
    for name, config in stage_configs(curriculum):
        stage = curriculum.stages[name]
        with torch.device("meta"):
            model = Tokenizer(config)
        model.freeze(stage.freeze)
        parameters = list(model.parameters())
        trained = sum(p.numel() for p in parameters if p.requires_grad)
        total = sum(p.numel() for p in parameters)
        tokens, unknown = _most_tokens(stage, config, processes(curriculum))
        need = need_of(model, copied=curriculum.asynchronous)
        cost = StageCost(name, stage.steps, total, trained, need, workers=curriculum.workers, unknown=unknown)
        yield with_tokens(curriculum, cost, config, tokens, device)


def with_tokens(
    curriculum: Curriculum, cost: StageCost, config: TokenizerConfig, tokens: int, device: torch.device
) -> StageCost:
    """A stage's cost where the largest part of a batch has this many tokens in one process."""
    kept = activations_of(config, tokens, recomputed=curriculum.checkpoint_activations)
    need = replace(cost.need, activations=kept)
    return replace(cost, need=need, held=held(curriculum, need, device))


def held(curriculum: Curriculum, need: Need, device: torch.device) -> Need:
    """What a device's memory is to hold of the run, where one process that has all of the state holds `need`."""
    factor, sharing = spread(curriculum, device)
    return replace(need.times(factor), activations=need.activations * sharing)


def spread(curriculum: Curriculum, device: torch.device) -> tuple[float, int]:
    """How many times a device's memory holds a model's state and a process's activations.

    Processes on a CPU share its memory, GPUs have their own; sharded, a process holds its part of the state.
    """
    here = 1 if curriculum.devices == "auto" else int(curriculum.devices)
    sharing = here if device.type == "cpu" else 1
    return (sharing / (here * curriculum.nodes) if curriculum.strategy == "fsdp" else float(sharing)), sharing


def _most_tokens(stage: StageConfig, config: TokenizerConfig, world: int) -> tuple[int, tuple[str, ...]]:
    """Most tokens of a part of a step in one process, and the tasks that only their data can tell it of."""
    frames, height, width = config.patch_size
    most, unknown = 0, list[str]()
    for key, task in {**stage.tasks, **stage.every_step}.items():
        sample = _largest_sample(task, (frames, height, width), config)
        slots = world * stage.micro
        if task.tokens:
            # Parts, and processes within a part, are even but for less than one sample (`share_out`).
            uneven = (stage.micro > 1) / world + (world > 1)
            most = max(most, min(task.tokens, ceil(task.tokens / slots + uneven * (sample or 0))))
        elif sample is not None:
            most = max(most, max(1, task.batch // slots) * sample)
        else:
            unknown.append(key)
    return most, tuple(unknown)


def _largest_sample(task: TaskConfig, patch_size: PatchSize, config: TokenizerConfig) -> int | None:
    """Most tokens that a sample of a task may have by the source's options; None where they set no limit."""
    try:
        source = build_source(task)
        host = source.host.configured(config.inputs.get(source.modality, {}))
    except Tok4dError:  # the check of the curriculum says it, with all else
        return None
    return source.most_tokens(patch_size, host)
