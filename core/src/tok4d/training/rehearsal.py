"""A dry run: one batch of every task of every stage through a whole training step, and nothing kept of it.

The optimiser steps with a learning rate of 0, so that its moments are there but no weight changes; stages after the
first begin with the model that the first began with, grown as they ask for. What will not fit is found before it is
tried: first from the configuration, whatever else is missing, then with the batches.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from math import isfinite

import torch

from tok4d.config.schema import Curriculum
from tok4d.data.batches import Batch, StageBatches
from tok4d.errors import Tok4dError
from tok4d.model.tokenizer import Tokenizer
from tok4d.training import parallel
from tok4d.training.check import problems
from tok4d.training.estimate import Rehearsal, StageCost, TaskCost, too_large
from tok4d.training.grow import Learned, begin_stage, stage_configs
from tok4d.training.memory import available_memory, peak_memory, reset_peak
from tok4d.training.module import TokenizerModule
from tok4d.training.optim import make_adamw, set_lr
from tok4d.training.sizing import device_of, held, processes, sized, with_tokens
from tok4d.training.start import fresh_model

SLOW = 20.0  # seconds; a batch that takes longer is timed the first time it is run
FEW = 64  # samples for starts that are fitted to data: all that they cost is not for a look
LOOK_AHEAD = 10_000  # steps in which a task of the mixture must come up

Tell = Callable[[str], None]


def rehearse(curriculum: Curriculum, tell: Tell = lambda text: None) -> Rehearsal:
    """Run one batch of everything, on the device that training would take, in this process alone.

    Args:
        curriculum: a checked configuration.
        tell: receives a line about every task that was run.

    Returns:
        What everything costs. Where something is missing, weights, files or the device, nothing is run: memory is
        estimated from the configuration, and all that is missing is in `problems`.

    Raises:
        Tok4dError: for what would stop the run: a stage that cannot begin with the model before it, data that cannot
            be used, a start that cannot be made, a loss that is not finite.
    """
    device, absent = device_of(curriculum)
    available = None if absent else available_memory(device)
    stages = list(sized(curriculum, device))
    for stage in stages:
        tell(stage.foretold)
    missing = [*([absent] if absent else []), *_problems(curriculum)]
    # Nothing more will be known of batches where something is missing: then the largest that they may be counts.
    large = _too_large(stages if missing else [_without_batches(curriculum, one, device) for one in stages], available)
    if found := [*large, *missing]:
        return Rehearsal(stages, available, found, fits=not large and (None if available is None else True))
    served = {name: _Served(curriculum, name) for name in curriculum.order}
    stages = [_with_batches(curriculum, stage, served[stage.stage], device, tell) for stage in stages]
    if large := _too_large(stages, available):
        return Rehearsal(stages, available, large, fits=False)
    for stage in stages:
        if alone := too_large(stage.stage, stage.need, available):
            return Rehearsal(stages, available, [f"in one process, which a dry run is: {alone}"], fits=False)
    return Rehearsal(list(_run(curriculum, stages, served, device, tell)), available)


def _problems(curriculum: Curriculum) -> list[str]:
    """What is wrong with a curriculum or missing here; the same thing in many places is said once."""
    places: dict[str, list[str]] = {}
    for problem in problems(curriculum, files=True):
        places.setdefault(problem.reason, []).append(problem.where)
    return [": ".join(part for part in (_spelt(where), reason) if part) for reason, where in places.items()]


def _spelt(places: list[str]) -> str:
    first, *others = places
    return f"{first} (and {len(others)} more)" if others else first


def _too_large(stages: list[StageCost], available: int | None) -> list[str]:
    """Why the run would not fit, for the first stage that does not."""
    found = (too_large(stage.stage, stage.held or stage.need, available) for stage in stages)
    return list(islice(filter(None, found), 1))


def _without_batches(curriculum: Curriculum, stage: StageCost, device: torch.device) -> StageCost:
    need = replace(stage.need, activations=0)
    return replace(stage, need=need, held=held(curriculum, need, device))


class _Served:
    """Batches of a stage's tasks, as the run serves them to its first process.

    Attributes:
        config: of the model in this stage.
        tasks: those that have a batch at all, with their shares of the steps; one with a small weight may come up in
            none of the steps of a short stage.
    """

    def __init__(self, curriculum: Curriculum, name: str) -> None:
        stage, config = curriculum.stages[name], dict(stage_configs(curriculum))[name]
        frames, height, width = config.patch_size
        size, world = (frames, height, width), processes(curriculum)
        self.config = config
        self.batches = StageBatches(stage, name, curriculum.seed, size, 0, world, config.inputs)
        self.micro = stage.micro
        self._places = dict.fromkeys(stage.tasks, 0)
        self._places |= {task: 1 + i for i, task in enumerate(stage.every_step)}
        self._steps = {task: _steps_of(self.batches, task) for task in stage.tasks}
        self._steps |= {task: list(range(min(2, stage.steps))) for task in stage.every_step}
        shares = {**self.batches.schedule.shares, **dict.fromkeys(stage.every_step, 1.0)}
        self.tasks = {task: shares[task] for task in self._places if self._steps[task]}

    def load(self, task: str, which: int) -> tuple[list[Batch], float]:
        """All parts of a task's first (0) or second (1) batch, or of its only one, and the seconds that it took."""
        step = self._steps[task][min(which, len(self._steps[task]) - 1)]
        first = step * self.batches.parts + self._places[task] * self.micro
        begun = time.perf_counter()
        parts = [self.batches[first + part] for part in range(self.micro)]
        return parts, time.perf_counter() - begun


def _steps_of(batches: StageBatches, task: str) -> list[int]:
    """The first two steps that have a task."""
    steps = range(min(batches.steps, LOOK_AHEAD))
    return list(islice((step for step in steps if batches.schedule.task(step) == task), 2))


def _with_batches(
    curriculum: Curriculum, stage: StageCost, served: _Served, device: torch.device, tell: Tell
) -> StageCost:
    """A stage's costs with the size of its first batches, and the activations of the largest part of one."""
    largest, tasks = 0, []
    for task, share in served.tasks.items():
        parts, seconds = served.load(task, 0)
        sizes = [part.tokens.num_tokens for part in parts]
        tell(f"{stage.stage}/{task}: first batch loaded in {seconds:.2f} s")
        largest = max(largest, *sizes)
        tasks.append(TaskCost(task, share, sum(len(part.tokens) for part in parts), sum(sizes), seconds))
    return with_tokens(curriculum, replace(stage, tasks=tasks, unknown=()), served.config, largest, device)


def _run(
    curriculum: Curriculum,
    stages: list[StageCost],
    served: Mapping[str, _Served],
    device: torch.device,
    tell: Tell,
) -> Iterator[StageCost]:
    """Every stage with what its tasks cost when they are run."""
    curriculum = replace(curriculum, init_samples=min(FEW, curriculum.init_samples))
    learned = Learned(fresh_model(curriculum))
    for stage in stages:
        begun = time.perf_counter()
        learned = begin_stage(curriculum, stage.stage, learned)
        tell(f"{stage.stage}: the model began in {time.perf_counter() - begun:.2f} s")
        step = _Step(curriculum, stage.stage, learned.model.train(), device)
        tasks = []
        for task in stage.tasks:
            parts, seconds = served[stage.stage].load(task.task, 1)
            tasks.append(step.cost(replace(task, loading=seconds), parts))
            tell(_line(stage.stage, tasks[-1]))
        yield replace(stage, tasks=tasks, update=step.update())
        learned = Learned(learned.model.cpu())
        del step  # its averages and moments, before the next stage makes its own


def _line(stage: str, task: TaskCost) -> str:
    losses = ", ".join(f"{name} {value:.4g}" for name, value in task.losses.items())
    return f"{stage}/{task.task}: {task.samples} samples, {task.tokens:,} tokens, {task.seconds:.2f} s; {losses}"


class _Step:
    """Training steps of a stage that change nothing."""

    def __init__(self, curriculum: Curriculum, name: str, model: Tokenizer, device: torch.device) -> None:
        stage = curriculum.stages[name]
        self.module = TokenizerModule(model, stage).to(device)
        self.module.ema.to(device)
        parallel.prepare_blocks(model, recompute=curriculum.checkpoint_activations, compiled=curriculum.compile)
        self.optimizer = make_adamw(model, stage.optimizer)
        self.device, self.bf16 = device, curriculum.precision == "bf16"
        self.trained = [p for group in self.optimizer.param_groups for p in group["params"]]
        self._fill()
        self.update()  # makes the moments, so that memory is measured with them

    def _fill(self) -> None:
        for parameter in self.trained:
            parameter.grad = torch.zeros_like(parameter)

    def update(self) -> float:
        """Seconds of an optimiser step and of averaging, with a learning rate of 0."""
        self._fill()
        begun = self._now()
        set_lr(self.optimizer, 0.0)
        self.optimizer.step()
        self.module.ema.update(self.module.tokenizer, 1)
        spent = self._now() - begun
        self.optimizer.zero_grad(set_to_none=True)
        return spent

    def cost(self, task: TaskCost, parts: list[Batch]) -> TaskCost:
        """Cost of a task's batch; run twice, since the first time also loads and compiles, unless that is slow.

        Raises:
            Tok4dError: for a loss that is not finite, naming the samples.
        """
        task = replace(
            task,
            samples=sum(len(part.tokens) for part in parts),
            tokens=sum(part.tokens.num_tokens for part in parts),
        )
        reset_peak(self.device)
        seconds, losses = self._pass(parts)
        if seconds < SLOW:
            seconds, losses = self._pass(parts)
        memory = peak_memory(self.device)
        if bad := [name for name, value in losses.items() if not isfinite(value)]:
            keys = ", ".join(key for part in parts for key in part.keys[:8])
            raise Tok4dError(f"task {task.task!r}: {', '.join(bad)} not finite; samples: {keys}")
        return replace(task, seconds=seconds, losses=losses, memory=memory)

    def _pass(self, parts: list[Batch]) -> tuple[float, dict[str, float]]:
        losses: dict[str, float] = {}
        begun = self._now()
        for part in parts:
            batch = part.to(self.device)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
                total, terms = self.module.stage_loss(batch)
            total.backward()
            for name, value in {"loss": total.detach(), **terms}.items():
                losses[name] = losses.get(name, 0.0) + float(value) / len(parts)
        spent = self._now() - begun
        self.optimizer.zero_grad(set_to_none=True)
        return spent, losses

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()
