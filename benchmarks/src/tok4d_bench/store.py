"""Columns on disk: small files of consecutive groups, each complete or not there, so that a killed run goes on.

A file `000016-000023.npz` holds the columns of groups 16 to 23, with the index of every row in the data set and what
could not be used. Which groups share a file depends on time and on the number of processes; what a reader gives does
not: it cuts the rows of all files, in order, into pieces of a fixed length.

n = rows of a file or piece.
"""

from __future__ import annotations

import json
import re
import time
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import numpy as np

from tok4d.errors import DataError
from tok4d.weights.folder import replacing, write_text
from tok4d_bench.contracts import ChunkReader, Columns
from tok4d_bench.world import BLOCK

PIECE = 512  # rows that a reader gives at once
FLUSH_SECONDS = 5.0  # work that a killed run may lose, beside the group it was at
INDEX, BAD = "_index", "_bad"
FAILED = "failed.json"  # beside the columns: the group that a measure could not take, and why
_NAME = re.compile(r"(\d{6,})-(\d{6,})\.npz")


class Part(NamedTuple):
    """Columns of consecutive groups.

    Attributes:
        columns: `[n, ...]` each.
        rows: index of every row in the data set, int64 `[n]`.
        bad: (index, reason) of samples that could not be used.
    """

    columns: Columns
    rows: np.ndarray
    bad: tuple[tuple[int, str], ...]


class Store:
    """A folder of such files.

    Args:
        folder: made with the first file.
        inner_batch: samples of a group: group g holds the samples from index g * inner_batch on.
    """

    def __init__(self, folder: Path, inner_batch: int) -> None:
        self.folder = folder
        self.inner_batch = inner_batch

    def spans(self) -> list[tuple[int, int]]:
        """First and last group of every file, in order."""
        if not self.folder.is_dir():
            return []
        found = [_NAME.fullmatch(path.name) for path in self.folder.iterdir()]
        return sorted((int(match[1]), int(match[2])) for match in found if match)

    def groups(self) -> set[int]:
        """Groups that are there."""
        return {group for first, last in self.spans() for group in range(first, last + 1)}

    def path(self, first: int, last: int) -> Path:
        """File of groups `first` to `last`."""
        return self.folder / f"{first:06d}-{last:06d}.npz"

    def write(self, first: int, last: int, parts: Sequence[Part]) -> None:
        """Write the parts of groups `first` to `last` as one file.

        Raises:
            DataError: when it cannot be written.
        """
        bad = json.dumps([item for part in parts for item in part.bad])
        arrays = {INDEX: np.concatenate([part.rows for part in parts]), BAD: np.array(bad)}
        filled = [part for part in parts if len(part.rows)]
        for name in filled[0].columns if filled else ():
            arrays[name] = np.concatenate([part.columns[name] for part in filled])
        path = self.path(first, last)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with replacing(path) as partial, partial.open("wb") as stream:
                np.savez(stream, **arrays)  # type: ignore[arg-type]
        except OSError as error:
            raise DataError(path, f"cannot be written ({error.strerror or error})") from error

    def read(self, first: int, last: int, names: Sequence[str] | None = None) -> Part:
        """Read one file: all columns, or those of these names that it has.

        Raises:
            DataError: when it cannot be read; removing it lets a run compute it anew.
        """
        path = self.path(first, last)
        try:
            with np.load(path, allow_pickle=False) as file:
                chosen = [name for name in file.files if name not in (INDEX, BAD) and (names is None or name in names)]
                arrays = {name: file[name] for name in chosen}
                index, said = file[INDEX], json.loads(str(file[BAD]))
            bad = tuple((int(place), str(reason)) for place, reason in said)
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise DataError(path, f"stored columns cannot be read ({error}); remove the file and run again") from error
        return Part(arrays, index, bad)

    def fail(self, group: int, why: str) -> None:
        """Leave word, for this process and others, that a group has no columns because its measure failed on it.

        Raises:
            DataError: when it cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_text(self.folder / FAILED, json.dumps({"group": group, "why": why}) + "\n")
        except OSError as error:
            raise DataError(self.folder / FAILED, f"cannot be written ({error.strerror or error})") from error

    def failure(self) -> tuple[int, str] | None:
        """The group that failed and why; None: none did."""
        try:
            held = json.loads((self.folder / FAILED).read_text(encoding="utf-8"))
            return int(held["group"]), str(held["why"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def forgive(self) -> None:
        """Forget a failure: the group works by now."""
        (self.folder / FAILED).unlink(missing_ok=True)

    def parts(self, names: Sequence[str] | None = None) -> Iterator[Part]:
        """All groups once, in order, with all columns or some.

        Files may overlap when two runs fill one store; then their bits are equal.
        """
        reached = -1
        for first, last in self.spans():
            if last > reached:
                part = self.read(first, last, names)
                yield part if first > reached else _after(part, (reached + 1) * self.inner_batch)
                reached = last


def _after(part: Part, start: int) -> Part:
    """Samples from index `start` on."""
    keep = part.rows >= start
    columns = {name: values[keep] for name, values in part.columns.items()}
    return Part(columns, part.rows[keep], tuple(item for item in part.bad if item[0] >= start))


class Writer:
    """Collects groups and writes them in files: when a block ends, when time passes, and when the work ends.

    A context manager: whatever ends the block, complete groups are kept.
    """

    def __init__(self, store: Store, flush_seconds: float = FLUSH_SECONDS) -> None:
        self.store = store
        self.flush_seconds = flush_seconds
        self._parts: list[tuple[int, Part]] = []
        self._since = time.monotonic()

    def add(self, group: int, part: Part) -> None:
        """Take the columns of one group."""
        if self._parts and group != self._parts[-1][0] + 1:
            self.flush()
        self._parts.append((group, part))
        if group % BLOCK == BLOCK - 1 or time.monotonic() - self._since > self.flush_seconds:
            self.flush()

    def flush(self) -> None:
        """Write what was collected."""
        if self._parts:
            self.store.write(self._parts[0][0], self._parts[-1][0], [part for _, part in self._parts])
        self._parts, self._since = [], time.monotonic()

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.flush()


class StoreReader(ChunkReader):
    """Columns of several stores of the same groups side by side: those of a subject, and those of the originals."""

    def __init__(self, stores: Sequence[Store]) -> None:
        self.stores = list(stores)
        parts = list(self.stores[0].parts(()))
        self._indices = np.concatenate([np.zeros(0, np.int64), *(part.rows for part in parts)])
        self._bad = [item for part in parts for item in part.bad]
        self.n = len(self._indices)

    def indices(self) -> np.ndarray:
        return self._indices

    def bad(self) -> list[tuple[int, str]]:
        """(index, reason) of samples that could not be used, in order."""
        return self._bad

    def __call__(self, *names: str) -> Iterator[Columns]:
        streams = [_pieces(store, names) for store in self.stores]
        rows = 0
        while rows < self.n:
            merged: Columns = {}
            for stream in streams:
                merged |= next(stream, {})
            if missing := [name for name in names if name not in merged]:
                raise KeyError(f"no column {missing[0]!r}; the piece has {', '.join(sorted(merged)) or 'none'}")
            rows += len(next(iter(merged.values())))
            yield merged


def _pieces(store: Store, names: Sequence[str]) -> Iterator[Columns]:
    """Rows of the columns asked for that a store has, or of all, `PIECE` at a time."""
    kept: list[Columns] = []
    rows = 0
    for part in store.parts(names or None):
        if not part.columns or not len(part.rows):
            continue
        kept.append(part.columns)
        rows += len(part.rows)
        while rows >= PIECE:
            joined = _joined(kept)
            yield {name: values[:PIECE] for name, values in joined.items()}
            kept, rows = [{name: values[PIECE:] for name, values in joined.items()}], rows - PIECE
    if rows:
        yield _joined(kept)


def _joined(parts: Sequence[Columns]) -> Columns:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
