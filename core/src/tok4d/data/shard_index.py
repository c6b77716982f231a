"""Sidecar index of a tar shard: where its members lie, so that opening a shard costs one small read.

`NAME.tar.index` is JSON: `format`, `version`, `size` and `changed` of the tar that it belongs to, `kinds` (how many
samples have members of exactly these extensions), `bytes` of the samples, and `samples`, a line each: by key the offset
and size of every member by extension. All but the samples is in the first line, which suffices to open a source; the
samples are read when one of them is asked for. An index of before `kinds` is read as a whole each time.

`tok4d data index` writes it. It is used only for the very file it was made from: when size or time of change (in object
storage: the tag) differ, it is refused by name, since offsets into another file would give wrong bytes without a word.
Copies with a new time need a new index.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from tok4d.data.shard_listing import Listing, check_samples, checked_entry, having, kinds_of
from tok4d.data.shards import Entry, Shard, index_shard
from tok4d.data.storage import Stamp, Stored, stamp_of
from tok4d.errors import DataError

FORMAT, VERSION = "tok4d-shard-index", 1
SUFFIX = ".index"
_OPENING, _CLOSING = b',"samples":{\n', b"\n}}"
_HEAD_BYTES = 1 << 14  # that hold the first line but for thousands of kinds


class Summary(NamedTuple):
    """What opening a source needs of a shard: which content its index belongs to, and how many samples there are."""

    stamp: Stamp
    samples: int
    usable: int  # those with a member of the source's extensions


class _Head(NamedTuple):
    stamp: Stamp
    kinds: list[tuple[tuple[str, ...], int]]
    start: int  # of the samples in the index
    stop: int

    def summary(self, extensions: Sequence[str]) -> Summary:
        return Summary(self.stamp, sum(count for _, count in self.kinds), having(self.kinds, extensions))

    def check_length(self, length: int) -> None:
        if length != self.stop + len(_CLOSING):
            raise ValueError(f"it has {length:,} bytes instead of {self.stop + len(_CLOSING):,}")


def index_file(shard: Shard) -> Path | Stored:
    """Where the index of a shard is."""
    return shard.beside(SUFFIX) if isinstance(shard, Stored) else shard.with_name(shard.name + SUFFIX)


def write_index(shard: Shard) -> list[Entry]:
    """Read a shard's headers and write its index beside it, complete or not at all; returns the samples.

    Raises:
        DataError: when the shard cannot be used, or changes meanwhile.
        OSError: when the index cannot be written.
    """
    before = stamp_of(shard)
    entries = index_shard(shard)
    if stamp_of(shard) != before:
        raise DataError(str(shard), "changed while it was indexed")
    samples = {entry.key: entry.members for entry in entries}
    text = Listing.of(shard, samples).text
    head = {"format": FORMAT, "version": VERSION, "size": before.size, "changed": before.version}
    head |= {"kinds": sorted(kinds_of(samples).items()), "bytes": len(text)}
    content = json.dumps(head, separators=(",", ":")).encode()[:-1] + _OPENING + text + _CLOSING
    target = index_file(shard)
    if isinstance(target, Stored):
        target.write(content)
    else:
        from tok4d.weights.folder import replacing

        with replacing(target) as partial:
            partial.write_bytes(content)
    return entries


def read_index(shard: Shard) -> list[Entry] | None:
    """Samples of a shard by its index, every one checked; None when it has none.

    Raises:
        DataError: when the index is damaged or belongs to another content, with the command that renews it.
    """
    entries, _ = _read(shard)
    return entries


def usable_index(shard: Shard) -> list[Entry] | None:
    """Samples of a shard by its index; None when it has none that can be used, or one without `kinds`."""
    try:
        entries, summarised = _read(shard)
    except DataError:
        return None
    return entries if summarised else None


def _read(shard: Shard) -> tuple[list[Entry] | None, bool]:
    """Samples by the index, and whether its first line tells their kinds."""
    if not _has_index(shard):
        return None, False
    with _damage_named(shard):
        content = _content(shard)
        stamp, samples = _decoded(content)
        entries = [checked_entry(shard, stamp.size, key, members) for key, members in samples.items()]
        if head := _head(content):
            head.check_length(len(content))
            if dict(head.kinds) != kinds_of(samples):
                raise ValueError("its kinds are not those of its samples")
    _refuse_stale(shard, stamp)
    return entries, head is not None


def read_summary(shard: Shard, extensions: Sequence[str]) -> Summary | None:
    """What the first bytes of a shard's index say of it; None when it has none.

    An index without `kinds` is read and checked as a whole. Of another one a local file's length is checked, its
    samples when they are asked for.

    Args:
        shard: the tar.
        extensions: of members that make a sample usable.

    Raises:
        DataError: when the index is damaged or belongs to another content, with the command that renews it.
    """
    if not _has_index(shard):
        return None
    with _damage_named(shard):
        if head := _head(_content(shard, _HEAD_BYTES)):
            if not isinstance(target := index_file(shard), Stored):
                head.check_length(target.stat().st_size)
            summary = head.summary(extensions)
        else:
            stamp, samples = _decoded(_content(shard))
            check_samples(shard, stamp.size, samples)
            summary = _summary(stamp, samples, extensions)
    _refuse_stale(shard, summary.stamp)
    return summary


def read_listing(shard: Shard, extensions: Sequence[str], summary: Summary) -> Listing:
    """Samples of a shard by the index that `read_summary` gave this summary of; each is checked when it is asked for.

    Raises:
        DataError: when the index is damaged or gone, or another one meanwhile.
    """
    with _damage_named(shard):
        content = _content(shard)
        if head := _head(content):
            head.check_length(len(content))
            found = head.summary(extensions)
            listing = Listing(shard, head.stamp.size, content[head.start : head.stop])
            if len(listing) != found.samples:
                raise ValueError(f"it has {len(listing):,} samples instead of {found.samples:,}")
        else:
            stamp, samples = _decoded(content)
            check_samples(shard, stamp.size, samples)
            found, listing = _summary(stamp, samples, extensions), Listing.of(shard, samples)
    if found != summary:
        raise DataError(str(index_file(shard)), "has changed since the source was opened")
    return listing


def damaged(shard: Shard, error: Exception | str) -> DataError:
    """What is said of an index that cannot be right."""
    what = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
    return _refused(shard, f"is damaged ({what})")


def _has_index(shard: Shard) -> bool:
    target = index_file(shard)
    return target.exists() if isinstance(target, Stored) else target.is_file()


def _content(shard: Shard, size: int | None = None) -> bytes:
    """The index, or its first `size` bytes."""
    target = index_file(shard)
    if isinstance(target, Stored):
        return target.read(0, size)
    with target.open("rb") as stream:
        return stream.read() if size is None else stream.read(size)


def _head(content: bytes) -> _Head | None:
    """What the first line says; None when it is not there as a whole, or of an index without `kinds`."""
    found = content.find(_OPENING)
    if found < 0:
        return None
    data = json.loads(content[:found] + b"}")
    stamp = _stamp(data)
    if "kinds" not in data:
        return None
    kinds = [(tuple(kind), count) for kind, count in data["kinds"]]
    numbers = [data["bytes"], *(count for _, count in kinds)]
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise ValueError(f"it has {numbers} bytes and samples of each kind")
    start = found + len(_OPENING)
    return _Head(stamp, kinds, start, start + data["bytes"])


def _decoded(content: bytes) -> tuple[Stamp, dict[str, dict[str, Any]]]:
    data = json.loads(content)
    return _stamp(data), data["samples"]


def _stamp(data: Any) -> Stamp:
    if not isinstance(data, dict) or (data.get("format"), data.get("version")) != (FORMAT, VERSION):
        raise ValueError(f"it is no {FORMAT} of version {VERSION}")
    return Stamp(data["size"], data["changed"])


def _summary(stamp: Stamp, samples: dict[str, dict[str, Any]], extensions: Sequence[str]) -> Summary:
    return Summary(stamp, len(samples), having(kinds_of(samples).items(), extensions))


def _refuse_stale(shard: Shard, stamp: Stamp) -> None:
    if stamp != (found := stamp_of(shard)):
        what = f"{stamp.size:,} bytes of {stamp.version}, now {found.size:,} bytes of {found.version}"
        raise _refused(shard, f"belongs to another content of the shard ({what})")


@contextmanager
def _damage_named(shard: Shard) -> Iterator[None]:
    try:
        yield
    except DataError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise damaged(shard, error) from error  # so that whoever asks may try again after a failing read


def _refused(shard: Shard, reason: str) -> DataError:
    return DataError(str(index_file(shard)), f"{reason}; renew it with: tok4d data index {shard}")
