"""Groups: which samples are worked on together, read ahead by threads; broken ones replaced for the computation."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from tok4d.errors import DataError
from tok4d.modality import Sample
from tok4d_bench.contracts import BenchData


@dataclass(frozen=True)
class Group:
    """One group, ready to be worked on.

    Attributes:
        number: its place in the data set, in groups.
        samples: exactly `inner_batch`: what could not be used is a copy of a neighbour, the end is filled with the last
            one. Empty when nothing could be used.
        kept: places in `samples` whose results count.
        index: index in the data set of each of those.
        bad: (index, reason) of what could not be used.
    """

    number: int
    samples: list[Sample]
    kept: list[int]
    index: list[int]
    bad: tuple[tuple[int, str], ...]


def read_groups(
    data: BenchData, numbers: Sequence[int], inner_batch: int, batch_size: int = 0, workers: int = 1
) -> Generator[Group, None, None]:
    """Groups in the order given.

    Args:
        numbers: which groups.
        batch_size: samples that are in memory ahead of the work; at least one group for each worker.
        workers: threads that read, a group each; 0: none, samples are read when they are needed.
    """
    members = [range(number * inner_batch, min((number + 1) * inner_batch, len(data))) for number in numbers]
    if workers == 0:
        for number, indices in zip(numbers, members, strict=True):
            yield make_group(number, indices, _load_all(data, indices), inner_batch)
        return
    ahead = max(workers, batch_size // inner_batch)
    pool = ThreadPoolExecutor(workers, "read")
    try:
        waiting: deque[Future[list[Sample | DataError]]] = deque()
        upcoming = iter(members)
        for number, indices in zip(numbers, members, strict=True):
            while len(waiting) <= ahead and (following := next(upcoming, None)) is not None:
                waiting.append(pool.submit(_load_all, data, following))
            yield make_group(number, indices, waiting.popleft().result(), inner_batch)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def make_group(number: int, indices: Sequence[int], loaded: Sequence[Sample | DataError], inner_batch: int) -> Group:
    """A group of what was loaded: samples, and errors where there is none."""
    good = [place for place, item in enumerate(loaded) if isinstance(item, Sample)]
    bad = tuple((indices[place], str(item)) for place, item in enumerate(loaded) if isinstance(item, DataError))
    if not good:
        return Group(number, [], [], [], bad)
    nearest = [
        min(good, key=lambda other: (abs(other - min(place, len(loaded) - 1)), other)) for place in range(inner_batch)
    ]
    samples = [item for place in nearest if isinstance(item := loaded[place], Sample)]
    return Group(number, samples, good, [indices[place] for place in good], bad)


def _load_all(data: BenchData, indices: Sequence[int]) -> list[Sample | DataError]:
    """Samples of a group, and errors where there is none. A whole group at a time: handing over costs."""
    return [_load(data, index) for index in indices]


def _load(data: BenchData, index: int) -> Sample | DataError:
    try:
        return data.load(index)
    except DataError as error:
        return error
