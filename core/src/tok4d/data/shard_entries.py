"""Samples of many shards as one sequence, of which few indices are held at a time."""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, groupby
from typing import NamedTuple, TypeVar, overload

import numpy as np
import numpy.typing as npt

from tok4d.data.shard_index import Summary, damaged, read_listing, read_summary
from tok4d.data.shard_listing import Listing, having, kinds_of
from tok4d.data.shard_split import Digests, digests_of, on_side
from tok4d.data.shards import Entry, Shard, index_shard
from tok4d.data.storage import Stored

_REQUESTS = 16  # at a time, to object storage
_T = TypeVar("_T")
Rows = npt.NDArray[np.int32]


@dataclass(slots=True)
class _Part:
    """A shard with samples.

    Attributes:
        shard: the tar.
        found: what its index says; or, of a shard without one, all of its samples.
        count: samples that belong to the source.
        marks: a bit a sample of the shard, set when it belongs to the source; None: not looked up, or all do.
    """

    shard: Shard
    found: Summary | Listing
    count: int
    marks: bytes | None = None


class _Held(NamedTuple):
    """A part's samples that were asked for; `rows` of the listing belong to the source, None: all do."""

    listing: Listing
    rows: Rows | None

    @property
    def nbytes(self) -> int:
        return self.listing.nbytes + (0 if self.rows is None else self.rows.nbytes)


class Entries(Sequence[Entry]):
    """Samples in order of shard and member; looks like a list of `Entry`, each made when it is asked for.

    To open them takes the first bytes of every index, and a pass over the headers of tars without one, whose samples
    stay in memory as text. Goes to a worker without the indices that it holds.

    Args:
        shards: the tars.
        extensions: samples without a member of one of these do not count.
        least: so many indices are held in any case, those last used.
        budget: bytes of indices beyond which no more than `least` are held.

    Raises:
        DataError: when a shard is missing, damaged or truncated, or an index is damaged or stale. Damage of an index
            beyond its first line shows when a sample of the shard is asked for.
    """

    def __init__(self, shards: Sequence[Shard], extensions: Sequence[str], least: int, budget: int) -> None:
        self._extensions = tuple(extensions)
        self._recent = _Recent(least, budget)
        self._keep(_of_each(partial(_opened, extensions=self._extensions), shards))

    def _keep(self, parts: list[_Part]) -> None:
        self._parts = [part for part in parts if part.count]
        self._firsts = [0, *accumulate(part.count for part in self._parts)]

    def __len__(self) -> int:
        return self._firsts[-1]

    @overload
    def __getitem__(self, index: int) -> Entry: ...
    @overload
    def __getitem__(self, index: slice) -> list[Entry]: ...
    def __getitem__(self, index: int | slice) -> Entry | list[Entry]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        place = range(len(self))[index]
        number = bisect_right(self._firsts, place) - 1
        part = self._parts[number]
        held = self._recent.get(number, lambda: self._loaded(part))
        row = place - self._firsts[number]
        return self._entry(held.listing, row if held.rows is None else int(held.rows[row]))

    def _entry(self, listing: Listing, row: int) -> Entry:
        try:
            entry = listing.entry(row)
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise damaged(listing.shard, error) from None
        if entry.first_of(self._extensions) is None:
            raise damaged(listing.shard, f"sample {entry.key} has no member that its kinds promise")
        return entry

    def counts(self) -> list[int]:
        """Samples of every shard that has any; of one that is named twice in a row together."""
        groups = groupby(self._parts, key=lambda part: part.shard)
        return [sum(part.count for part in parts) for _, parts in groups]

    def keep_side(self, split: str, folds: int, fold: int) -> None:
        """Leave out all samples but those of one side of a split by keys.

        That takes a pass over all indices, and meanwhile about 60 bytes a sample; a bit of each stays.

        Raises:
            DataError: when an index is damaged, gone or another one meanwhile.
        """
        digests = _of_each(self._digests, self._parts)
        sides = np.split(on_side(np.concatenate(digests), split, folds, fold), self._firsts[1:-1]) if digests else []
        for part, side in zip(self._parts, sides, strict=True):
            rows = _rows_of(part)
            marks = np.zeros(_size(part), np.bool_)
            marks[slice(None) if rows is None else rows] = side
            part.count, part.marks = int(side.sum()), np.packbits(marks).tobytes()
        self._recent.clear()
        self._keep(self._parts)

    def _digests(self, part: _Part) -> Digests:
        """Of the keys of a part's samples."""
        listing, rows = self._loaded(part)
        try:
            keys = list(listing.samples())
        except (ValueError, RecursionError) as error:
            raise damaged(listing.shard, error) from None
        return digests_of(keys if rows is None else [keys[row] for row in rows])

    def _loaded(self, part: _Part) -> _Held:
        listing = self._listing(part)
        if part.marks is None and part.count < _size(part):
            part.marks = self._marks(part, listing)
        return _Held(listing, _rows_of(part))

    def _listing(self, part: _Part) -> Listing:
        if isinstance(part.found, Listing):
            return part.found
        return read_listing(part.shard, self._extensions, part.found)

    def _marks(self, part: _Part, listing: Listing) -> bytes:
        """Which samples have a member that makes them count."""
        try:
            marks = [not members.keys().isdisjoint(self._extensions) for members in listing.samples().values()]
        except (ValueError, AttributeError, RecursionError) as error:
            raise damaged(part.shard, error) from None
        if sum(marks) != part.count:
            raise damaged(part.shard, f"{sum(marks):,} samples count, {part.count:,} by its kinds")
        return np.packbits(marks).tobytes()


def _opened(shard: Shard, extensions: Sequence[str]) -> _Part:
    summary = read_summary(shard, extensions)
    if summary is not None:
        return _Part(shard, summary, summary.usable)
    samples = {entry.key: entry.members for entry in index_shard(shard)}
    return _Part(shard, Listing.of(shard, samples), having(kinds_of(samples).items(), extensions))


def _size(part: _Part) -> int:
    """Samples of a shard, whether they belong to the source or not."""
    return len(part.found) if isinstance(part.found, Listing) else part.found.samples


def _rows_of(part: _Part) -> Rows | None:
    if part.marks is None:
        return None
    bits = np.unpackbits(np.frombuffer(part.marks, np.uint8), count=_size(part))
    return np.flatnonzero(bits).astype(np.int32)


def _of_each(function: Callable[..., _T], items: Sequence[_Part] | Sequence[Shard]) -> list[_T]:
    """A function of every item, in order; several at a time where one is in object storage."""
    if any(isinstance(item.shard if isinstance(item, _Part) else item, Stored) for item in items):
        with ThreadPoolExecutor(_REQUESTS) as pool:
            return list(pool.map(function, items))
    return [function(item) for item in items]


class _Recent:
    """Parts by number that were last used, within bounds; empty after pickling to a worker."""

    def __init__(self, least: int, budget: int) -> None:
        self.least, self.budget = least, budget
        self.nbytes = 0
        self._kept: OrderedDict[int, _Held] = OrderedDict()

    def __reduce__(self) -> tuple[type[_Recent], tuple[int, int]]:
        return _Recent, (self.least, self.budget)

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, number: int, make: Callable[[], _Held]) -> _Held:
        """The part of a number, loaded now if it is not kept."""
        if number in self._kept:
            self._kept.move_to_end(number)
            return self._kept[number]
        made = self._kept[number] = make()
        self.nbytes += made.nbytes
        while self.nbytes > self.budget and len(self._kept) > self.least:
            _, dropped = self._kept.popitem(last=False)
            self.nbytes -= dropped.nbytes
        return made

    def clear(self) -> None:
        """Keep none."""
        self._kept.clear()
        self.nbytes = 0
