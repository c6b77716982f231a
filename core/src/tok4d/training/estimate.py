"""What a curriculum will cost: seconds and memory of its stages, from the cost of one batch of every task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tok4d.training.memory import Need, gigabytes


@dataclass(frozen=True)
class TaskCost:
    """One batch of a task, as a step has it.

    Attributes:
        task: its name.
        share: of the stage's steps; 1 for a task of every step.
        samples, tokens: of the batch, all its parts together.
        loading: seconds that making it took.
        seconds: of its forward and backward pass; None: it was not run.
        losses: `task/term`, means over the samples.
        memory: most bytes that the process held; None: not run, or the system does not say.
    """

    task: str
    share: float
    samples: int
    tokens: int
    loading: float
    seconds: float | None = None
    losses: dict[str, float] = field(default_factory=dict)
    memory: int | None = None


@dataclass(frozen=True)
class StageCost:
    """A stage.

    Attributes:
        stage: its name.
        steps: how many it has.
        parameters, trained: of the model, and those that are not frozen.
        need: bytes of one process by what they are for, counted from the model's sizes and the largest batch.
        held: the same, as a device of the run holds it: several processes on one CPU, or its part of what is sharded.
        unknown: tasks whose batches are not in it, since only their data tell how large they are.
        tasks: costs of its tasks.
        update: seconds of an optimiser step and of averaging the weights; None: not run.
        workers: data-loading processes of the run.
    """

    stage: str
    steps: int
    parameters: int
    trained: int
    need: Need
    tasks: Sequence[TaskCost] = ()
    update: float | None = None
    workers: int = 0
    held: Need | None = None
    unknown: Sequence[str] = ()

    @property
    def foretold(self) -> str:
        """What is known before anything is tried, for people."""
        need = self.held or self.need
        left_out = f"; batches of {', '.join(self.unknown)} are known from their data alone" if self.unknown else ""
        return (
            f"{self.stage}: {self.parameters / 1e6:,.1f}M parameters, {self.trained / 1e6:,.1f}M of them trained; a "
            f"device holds about {gigabytes(need.total)} ({need.spelt()}){left_out}"
        )

    @property
    def step_seconds(self) -> float | None:
        """Mean over the mixture. Without workers the step waits for its batch; with some, only when they are slower."""
        working = self.working
        if working is None:
            return None
        return max(working, self.loading / self.workers) if self.workers else working + self.loading

    @property
    def working(self) -> float | None:
        """Seconds of a step without loading."""
        if self.update is None or any(task.seconds is None for task in self.tasks):
            return None
        return self.update + sum(task.share * (task.seconds or 0.0) for task in self.tasks)

    @property
    def loading(self) -> float:
        """Seconds of making a step's batches, mean over the mixture."""
        return sum(task.share * task.loading for task in self.tasks)

    @property
    def waiting(self) -> float | None:
        """Seconds of the whole stage in which nothing but loading goes on."""
        if self.step_seconds is None or self.working is None:
            return None
        return self.steps * (self.step_seconds - self.working)

    @property
    def seconds(self) -> float | None:
        """All steps of the stage; without validation and checkpoints."""
        return None if self.step_seconds is None else self.steps * self.step_seconds

    @property
    def tokens(self) -> float:
        """Tokens a step, mean over the mixture."""
        return sum(task.share * task.tokens for task in self.tasks)

    @property
    def memory(self) -> int | None:
        """Most bytes that were held, over the tasks."""
        return max((task.memory for task in self.tasks if task.memory is not None), default=None)

    def mapping(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "stage": self.stage,
            "steps": self.steps,
            "parameters": self.parameters,
            "trained_parameters": self.trained,
            "tokens_per_step": self.tokens,
            "seconds_per_step": self.step_seconds,
            "update_seconds": self.update,
            "seconds": self.seconds,
            "peak_memory": self.memory,
            "estimated_memory": _bytes(self.held or self.need),
            "estimated_memory_of_one_process": _bytes(self.need),
            "not_estimated": list(self.unknown),
            "tasks": [{**vars(task)} for task in self.tasks],
        }


@dataclass(frozen=True)
class Rehearsal:
    """A dry run.

    Attributes:
        stages: costs, in order.
        available: bytes that were free when it began; None when the system does not say.
        problems: why nothing was run, for people; empty when all was.
        fits: whether the run that the curriculum asks for has enough memory here; None: the device is not here.
    """

    stages: Sequence[StageCost]
    available: int | None = None
    problems: Sequence[str] = ()
    fits: bool | None = True

    @property
    def seconds(self) -> float | None:
        """The whole curriculum."""
        found = [stage.seconds for stage in self.stages]
        return None if None in found else sum(seconds for seconds in found if seconds is not None)

    @property
    def waiting(self) -> float:
        """Part of it in which nothing but loading goes on."""
        return sum(stage.waiting or 0.0 for stage in self.stages)

    def mapping(self) -> dict[str, Any]:
        """For JSON."""
        peaks = [stage.memory for stage in self.stages if stage.memory is not None]
        return {
            "stages": [stage.mapping() for stage in self.stages],
            "seconds": self.seconds,
            "waiting_seconds": self.waiting,
            "peak_memory": max(peaks, default=None),
            "available_memory": self.available,
            "fits": self.fits,
            "problems": list(self.problems),
        }


def _bytes(need: Need) -> dict[str, int]:
    return {**vars(need), "total": need.total}


def too_large(stage: str, need: Need, available: int | None) -> str:
    """Why a stage will not fit, and what makes it smaller; empty when it fits or the system does not say."""
    if available is None or need.total <= available:
        return ""
    return (
        f"stage {stage!r} needs about {gigabytes(need.total)} ({need.spelt()}) and {gigabytes(available)} are free "
        "here; less need checkpoint_activations: true, a larger micro, smaller batches or budgets of tokens, "
        "parts that are frozen, strategy: fsdp over several devices, a smaller preset"
    )
