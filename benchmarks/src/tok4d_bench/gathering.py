"""Measuring in memory: for a few hundred samples at most, what the runner does on disk.

n = samples of a group, D = width of a vector.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from tok4d.errors import DataError
from tok4d_bench.contracts import BenchData, ChunkReader, Columns, Measure, Restored, Subject, Value
from tok4d_bench.groups import Group, read_groups


class Gathered(ChunkReader):
    """Columns in memory, one piece a group."""

    def __init__(self) -> None:
        self._pieces: list[Columns] = []
        self._indices: list[int] = []
        self.n = 0

    def add(self, group: Group, columns: Columns) -> None:
        """Columns of a whole group; rows that only fill it up are dropped."""
        self._pieces.append({name: values[group.kept] for name, values in columns.items()})
        self._indices += group.index
        self.n += len(group.kept)

    def __call__(self, *names: str) -> Iterator[Columns]:
        for piece in self._pieces:
            yield {name: piece[name] for name in names} if names else dict(piece)

    def indices(self) -> np.ndarray:
        return np.array(self._indices, dtype=np.int64)


def groups_of(data: BenchData, inner_batch: int, bad: list[dict[str, str]]) -> Iterator[Group]:
    """All groups that have a sample, in order, read as they are needed.

    Args:
        bad: receives `{key, reason}` of what could not be used, also of groups that have no sample.
    """
    numbers = range(-(-len(data) // inner_batch))
    for group in read_groups(data, numbers, inner_batch, workers=0):
        bad += [{"key": data.key(index), "reason": reason} for index, reason in group.bad]
        if group.samples:
            yield group


def gather(
    groups: Sequence[tuple[Group, Sequence[Any]]], measure: Measure, data: BenchData, subject: Subject
) -> list[Value]:
    """Figures of one measure.

    Args:
        groups: of every group what the measure reads of its samples, `Restored` for a `pair`.
    """
    reader = Gathered()
    for group, results in groups:
        reader.add(group, {**measure.reference(group.samples), **measure.columns(group.samples, results)})
    return measure.finish(reader, data, subject)


@torch.no_grad()
def reconstruct_all(
    data: BenchData, subject: Subject, inner_batch: int, bad: list[dict[str, str]]
) -> list[tuple[Group, list[Restored]]]:
    """Reconstructions of all groups, unrounded; noise is drawn from a state of each group's own.

    Args:
        bad: receives what could not be used.

    Raises:
        DataError: when that is everything.
    """
    made = []
    for group in groups_of(data, inner_batch, bad):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(group.number)
            made.append((group, subject.reconstruct(group.samples)))
    if not made:
        raise DataError(data.name, f"no sample could be used: {bad[0]['reason'] if bad else 'there is none'}")
    return made
