"""Batches as a pure function of the step, for a loader that any number of workers may serve."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

from torch.utils.data import Dataset, Sampler

from tok4d.config.schema import StageConfig, TaskConfig
from tok4d.data.batch import Batch, Extras, Inputs, Loaded, collate, load_sample, load_tokens
from tok4d.data.build import build_source
from tok4d.data.order import MixtureSchedule, seed_of
from tok4d.data.packing import share_out
from tok4d.data.source import Source
from tok4d.data.task_order import TaskOrder
from tok4d.errors import DataError
from tok4d.modality import PatchSize

__all__ = [
    "Batch",
    "Extras",
    "FromStep",
    "Inputs",
    "StageBatches",
    "load_sample",
    "load_tokens",
    "validation_batches",
]

log = logging.getLogger(__name__)

Parts = Iterator[Loaded | DataError]
Chunks = Iterator[tuple[list[Loaded], list[str]]]


class StageBatches(Dataset[Batch]):
    """`batches[step]` for the training steps of a stage.

    Of a stage with tasks of every step or micro-batches, a step has several parts: `batches[step * parts + part]`,
    the parts of the scheduled task first, then those of the others in order.

    Args:
        stage, name: the stage and its name (part of all seeds).
        seed: of the run.
        patch_size, inputs: of the model; its options of `patchify` by modality.
        rank, world: this process and how many there are. Each takes a strided slice of every batch; of one that is
            packed by tokens, samples of about as many tokens as the others.
    """

    def __init__(
        self,
        stage: StageConfig,
        name: str,
        seed: int,
        patch_size: PatchSize,
        rank: int = 0,
        world: int = 1,
        inputs: Inputs | None = None,
    ) -> None:
        self.tasks = {**stage.tasks, **stage.every_step}
        self.riders = list(stage.every_step)
        self.steps, self.parts, self.micro = stage.steps, stage.parts, stage.micro
        self.patch_size, self.inputs = patch_size, inputs
        self.rank, self.world = rank, world
        self.seed = seed_of(seed, "stage", name)
        self.schedule = MixtureSchedule(self.seed, {key: task.weight for key, task in stage.tasks.items()})
        for key, task in self.tasks.items():
            if not task.tokens and task.batch % world:
                raise DataError(f"task {key!r}", f"batch {task.batch} must be divisible by the {world} processes")
            if not task.tokens and task.batch % (world * self.micro):
                raise DataError(
                    f"task {key!r}", f"batch {task.batch} must be divisible by {world} processes x micro {self.micro}"
                )
        self._sources: dict[str, Source] = {}
        self._orders: dict[str, TaskOrder] = {}
        self._starts: dict[str, tuple[int, int]] = {}

    def __len__(self) -> int:
        return self.steps * self.parts

    def __getitem__(self, index: int) -> Batch:
        step, part = divmod(index, self.parts)
        place, micro = divmod(part, self.micro)
        key, number = self._at(step, place)
        order = self._order(key)
        whole = order.batch(number)
        positions, share = self._mine(order, whole, micro)
        samples, bad = [], []
        for position in positions:
            sample, errors = order.load(position)
            samples.append(sample)
            bad += errors
        seeds = [order.noise_seed(position) for position in positions]
        return collate(step, key, order.source.modality, samples, seeds, bad, share, (number + 1, whole.stop))

    def _at(self, step: int, place: int) -> tuple[str, int]:
        """Task and number of its batch: the scheduled one at place 0, then those that have a batch in every step."""
        if place:
            return self.riders[place - 1], step
        return self.schedule.task(step), self.schedule.count(step)

    def go_on(self, starts: Mapping[str, Sequence[int]]) -> None:
        """Go on from the last trained batch's `next_start` of every task, so that a long run resumes at once.

        Without it the sizes of all earlier samples are looked up again where batches are packed by tokens; what is
        served is the same.
        """
        self._starts = {key: (int(start[0]), int(start[1])) for key, start in starts.items()}
        for key, order in self._orders.items():
            order.go_on(*self._starts.get(key, (0, 0)))

    def source(self, key: str) -> Source:
        """Source of a task, built on first use (in the worker that uses it).

        Raises:
            DataError: for a source without samples.
        """
        if key not in self._sources:
            built = build_source(self.tasks[key])
            if not len(built):
                raise DataError(self.tasks[key].source, f"task {key!r} has no samples on this side of the split")
            self._sources[key] = built
        return self._sources[key]

    def _order(self, key: str) -> TaskOrder:
        if key not in self._orders:
            made = TaskOrder(key, self.tasks[key], self.source(key), self.seed, self.patch_size, self.inputs)
            made.go_on(*self._starts.get(key, (0, 0)))
            self._orders[key] = made
        return self._orders[key]

    def _mine(self, order: TaskOrder, positions: range, micro: int) -> tuple[Sequence[int], float]:
        """This process's positions of one of a batch's parts, and which share of the whole batch they are.

        A part holds the same samples however many processes there are: losses that compare samples with each other see
        those of a part.
        """
        slots = self.world * self.micro
        if not order.task.tokens or slots == 1:
            return positions[micro :: self.micro][self.rank :: self.world], 1 / slots
        counts = [order.count(position) for position in positions]
        part = share_out(counts, self.micro)[micro]
        own = share_out([counts[place] for place in part], self.world)[self.rank]
        if own:
            return [positions[part[place]] for place in own], len(own) / len(positions)
        return [positions[counts.index(min(counts))]], 0.0


class FromStep(Sampler[int]):
    """Steps `start` .. `stop - 1`: where a resumed run goes on."""

    def __init__(self, start: int, stop: int) -> None:
        self.start, self.stop = start, stop

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.start, self.stop))

    def __len__(self) -> int:
        return max(0, self.stop - self.start)


def validation_batches(
    tasks: Mapping[str, TaskConfig],
    patch_size: PatchSize,
    rank: int = 0,
    world: int = 1,
    inputs: Inputs | None = None,
) -> Iterator[Batch]:
    """Every validation sample once, in order and without augmentation, in batches of each task's size.

    Files that cannot be used are left out; `Batch.bad` of the batch names them, and so does the log. With a budget of
    tokens a batch is full when the next sample does not fit into this process's part of it.
    """
    for key, task in tasks.items():
        source = build_source(task)
        parts = _loaded(source, range(rank, len(source), world), patch_size, inputs)
        for samples, bad in _filled(parts, task.tokens // world) if task.tokens else _slices(parts, task.batch):
            if samples:
                seeds = [seed_of("validation", key, one.key) for one in samples]
                yield collate(-1, key, source.modality, samples, seeds, bad)


def _loaded(source: Source, indices: Sequence[int], patch_size: PatchSize, inputs: Inputs | None) -> Parts:
    for index in indices:
        try:
            yield load_sample(source, index, patch_size, inputs=inputs)
        except DataError as error:
            log.warning("left out of validation: %s", error)
            yield error


def _slices(parts: Parts, size: int) -> Chunks:
    """Good samples and reasons of every `size` files."""
    while taken := list(islice(parts, size)):
        yield _sorted_out(taken)


def _filled(parts: Parts, budget: int) -> Chunks:
    """Good samples and reasons of as many files as fit into a budget of tokens; at least one sample each."""
    taken: list[Loaded | DataError] = []
    total = 0
    for part in parts:
        size = part.tokens.num_tokens if isinstance(part, Loaded) else 0
        if total and total + size > budget:
            yield _sorted_out(taken)
            taken, total = [], 0
        taken.append(part)
        total += size
    yield _sorted_out(taken)


def _sorted_out(parts: Sequence[Loaded | DataError]) -> tuple[list[Loaded], list[str]]:
    good = [part for part in parts if isinstance(part, Loaded)]
    return good, [str(part) for part in parts if isinstance(part, DataError)]
