"""Sources whose samples lie in WebDataset tar shards, local or in object storage."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from tok4d.data.order import BlockOrder
from tok4d.data.shard_entries import Entries
from tok4d.data.shards import Entry, expand
from tok4d.data.source import Source
from tok4d.errors import ConfigError, DataError, unknown_name

ORDERS = ("shuffled", "blocks")
_SHUFFLED_BYTES = 256_000_000  # of indices: about 2.6 million samples of three members, before they are read again


@dataclass
class ShardSource(Source):
    """Samples of WebDataset tars; `.txt` is the caption, `.cls` the label, `.json` may hold both. A base for plugins.

    Other fields of the `.json` land in `meta["json"]`. Samples without a member of `extensions` are left out. An index
    beside a shard (`tok4d data index`) is used in place of the tar's headers, and read when one of its samples is asked
    for; few indices are held at a time.

    Class attributes:
        extensions: those of the main member, without the dot; the first that a sample has counts.
        noun: what that member is, for errors.

    Attributes:
        path: a tar, a folder of tars, a glob (`data/*.tar`) or a range (`data/{000..010}.tar`), local or as a URL that
            fsspec reads (`s3://bucket/{000..010}.tar`).
        order: of training. `shuffled`: all samples, whatever their shard. `blocks`: shards in random order, and their
            samples shuffled inside windows of `window` shards, so that reads stay within few shards for a while.
        window: shards that are mixed at a time in the order `blocks`.
    """

    extensions: ClassVar[tuple[str, ...]]
    noun: ClassVar[str] = "sample"

    path: str = ""
    order: str = "shuffled"
    window: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.order not in ORDERS:
            raise ConfigError(unknown_name("order of shards", self.order, ORDERS))
        if isinstance(self.window, bool) or not isinstance(self.window, int) or self.window < 1:
            raise ConfigError(f"window must be a whole number of shards of at least 1, got {self.window!r}")

    @cached_property
    def entries(self) -> Entries:
        """Samples on this side of the split, in order of shard and member.

        Raises:
            DataError: when a shard is missing, damaged or truncated, an index is stale, or nothing is left.
            Tok4dError: when the driver of a URL's protocol is not installed.
        """
        # A batch may take from two windows, and is looked through once for its tokens and once to be loaded.
        budget = 0 if self.order == "blocks" else _SHUFFLED_BYTES
        found = Entries(expand(self.path), self.extensions, 2 * self.window, budget)
        count = len(found)
        if self.split != "all":
            found.keep_side(self.split, self.folds, self.fold)
        if not found:
            raise DataError(self.path, f"no {self.noun} on the {self.split!r} side of the split ({count} in all)")
        return found

    def __len__(self) -> int:
        return len(self.entries)

    def key(self, index: int) -> str:
        return self.entries[index].name

    def main(self, index: int) -> tuple[Entry, str]:
        """A sample, and the extension of its main member."""
        entry = self.entries[index]
        member = entry.first_of(self.extensions)
        assert member is not None, entry.name  # `entries` keeps no other
        return entry, member

    def ordered(self, offset: int, key: int) -> int:
        if self.order == "shuffled":
            return super().ordered(offset, key)
        if key not in self._blocks:
            self._blocks.clear()  # of the epoch before
            self._blocks[key] = BlockOrder(self.entries.counts(), self.window, key)
        return self._blocks[key].at(offset)

    @cached_property
    def _blocks(self) -> dict[int, BlockOrder]:
        return {}
