"""WebDataset tar shards with random access: member offsets from the tar headers, then one seek per sample.

`expand` finds the shards, `index_shard` lists their samples, `read_member` gives bytes, `copy_member` a file, and
`label` fills in caption and label from the members beside the main one. Shards are local files, or URLs that fsspec
reads by ranges (`tok4d.data.storage`). Sources of any modality build on `tok4d.data.sharded`.
"""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, NamedTuple

from tok4d.data.source import find_files
from tok4d.data.storage import Stored, find_stored, is_url, stamp_of
from tok4d.errors import ConfigError, DataError
from tok4d.modality import Sample

_KEY = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]+)")  # WebDataset: up to the first dot of the base name
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_SIDE_FILES = ("txt", "json", "cls")
_MAX_SIDE_BYTES = 1 << 20
_MAX_SHARDS = 1_000_000
_BLOCK = 512
_CHUNK = 1 << 20
_STORED_CHUNK = 1 << 23  # a request to object storage is worth more bytes

Shard = Path | Stored


class Span(NamedTuple):
    """Where a member's bytes lie in its shard."""

    start: int
    size: int


@dataclass(frozen=True)
class Entry:
    """One sample of a shard: the bytes of its members by extension."""

    shard: Shard
    key: str
    members: dict[str, Span] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """For logs and errors: shard and key."""
        return f"{self.shard}:{self.key}"

    def first_of(self, extensions: Sequence[str]) -> str | None:
        """The first of these extensions (without the dot) that the sample has a member of."""
        return next((extension for extension in extensions if extension in self.members), None)


def expand(pattern: str) -> list[Shard]:
    """Shards of a path, folder, glob or `{000..010}` range, local or as URLs, in order.

    Those of a range must all exist; of URLs that shows when they are opened.

    Raises:
        DataError: when one is missing or nothing matches.
    """
    if not pattern:
        raise ConfigError("a source of shards needs the option path")
    return [shard for name in _ranges(pattern) for shard in _found(name)]


def _found(name: str) -> Sequence[Shard]:
    return find_stored(name, ".tar") if is_url(name) else find_files(name, (".tar",))


def _ranges(pattern: str) -> list[str]:
    found = _RANGE.search(pattern)
    if found is None:
        return [pattern]
    first, last = int(found[1]), int(found[2])
    if not 0 <= last - first < _MAX_SHARDS:
        raise ConfigError(f"range {found[0]} must rise and name at most {_MAX_SHARDS:,} shards")
    width = len(found[1]) if found[1].startswith("0") else 0
    head, tail = pattern[: found.start()], pattern[found.end() :]
    return [f"{head}{number:0{width}d}{rest}" for number in range(first, last + 1) for rest in _ranges(tail)]


def index_shard(shard: Shard) -> list[Entry]:
    """Samples of one tar by reading its headers alone.

    Raises:
        DataError: when it is no tar, is compressed (no random access), damaged in the middle, truncated, or holds a
            member twice.
    """
    entries: dict[str, Entry] = {}
    try:
        size = stamp_of(shard).size
        with _opened(shard) as stream, tarfile.open(fileobj=stream, mode="r:") as tar:
            for member in tar:
                if member.isreg() and not member.issparse():
                    _add(entries, shard, member, size)
            _check_end(shard, stream, tar.offset, size)
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(str(shard), f"is not a readable uncompressed tar ({error})") from None
    return list(entries.values())


def _opened(shard: Shard) -> AbstractContextManager[IO[bytes]]:
    return shard.open() if isinstance(shard, Stored) else shard.open("rb")


def _add(entries: dict[str, Entry], shard: Shard, member: tarfile.TarInfo, size: int) -> None:
    if member.offset_data + member.size > size:
        end = member.offset_data + member.size
        raise DataError(str(shard), f"is truncated: {member.name} ends at byte {end} of {size}")
    named = _KEY.fullmatch(member.name.removeprefix("./"))
    if named is None:
        return
    entry = entries.setdefault(named[1], Entry(shard, named[1]))
    extension = named[2].lower()
    if extension in entry.members:
        raise DataError(str(shard), f"holds {member.name} twice")
    entry.members[extension] = Span(member.offset_data, member.size)


def _check_end(shard: Shard, stream: IO[bytes], offset: int, size: int) -> None:
    """tarfile ends quietly at a damaged header; a whole archive ends at a block of zeros."""
    stream.seek(offset)
    block = stream.read(_BLOCK)
    if block != bytes(_BLOCK):
        what = "truncated (no end mark)" if offset + _BLOCK > size else "damaged"
        raise DataError(str(shard), f"is {what} at byte {offset} of {size}")


def read_member(entry: Entry, extension: str, limit: int | None = None) -> bytes:
    """The bytes of one member, or the first `limit` of them.

    Raises:
        DataError: when the shard has changed since it was indexed or cannot be read.
    """
    span = entry.members[extension]
    _refuse_long(entry, extension)
    size = span.size if limit is None else min(limit, span.size)
    return b"".join(_pieces(entry, extension, size))


def read_members(entry: Entry, extensions: Sequence[str]) -> dict[str, bytes]:
    """The bytes of several members; of object storage asked for at once.

    Raises:
        DataError: as `read_member`.
    """
    if not isinstance(entry.shard, Stored):
        return {extension: read_member(entry, extension) for extension in extensions}
    for extension in extensions:
        _refuse_long(entry, extension)
    asked = [extension for extension in extensions if entry.members[extension].size]
    found = dict(zip(asked, entry.shard.read_ranges([entry.members[name] for name in asked]), strict=True))
    for name, content in found.items():
        _refuse_short(entry, name, entry.members[name].size - len(content))
    return {extension: found.get(extension, b"") for extension in extensions}


def _refuse_long(entry: Entry, extension: str) -> None:
    size = entry.members[extension].size
    if extension in _SIDE_FILES and size > _MAX_SIDE_BYTES:
        raise DataError(f"{entry.name}.{extension}", f"{size} bytes exceed the limit of {_MAX_SIDE_BYTES}")


def _refuse_short(entry: Entry, extension: str, missing: int) -> None:
    if missing:
        raise DataError(str(entry.shard), f"is shorter than when it was indexed (member {entry.key}.{extension})")


def copy_member(entry: Entry, extension: str, target: IO[bytes]) -> None:
    """Write one member to an open file, piece by piece, for decoders that need a file.

    Raises:
        DataError: as `read_member`.
    """
    for piece in _pieces(entry, extension, entry.members[extension].size):
        target.write(piece)


def _pieces(entry: Entry, extension: str, size: int) -> Iterator[bytes]:
    start = entry.members[extension].start
    if isinstance(entry.shard, Stored):
        for offset in range(0, size, _STORED_CHUNK):
            wanted = min(size - offset, _STORED_CHUNK)
            piece = entry.shard.read(start + offset, wanted)
            _refuse_short(entry, extension, wanted - len(piece))
            yield piece
        return
    left = size
    try:
        with entry.shard.open("rb") as stream:
            stream.seek(start)
            while left and (piece := stream.read(min(left, _CHUNK))):
                left -= len(piece)
                yield piece
    except OSError as error:
        raise DataError(entry.shard, f"cannot be read ({error.strerror})") from None
    _refuse_short(entry, extension, left)


def label(sample: Sample, entry: Entry) -> Sample:
    """Caption and label from the members `.txt`, `.cls` and `.json` (`caption`, `label`); the first two win.

    All of the `.json` lands in `sample.meta["json"]`.

    Raises:
        DataError: when they cannot be read or have another type.
    """
    texts = read_members(entry, [name for name in _SIDE_FILES if name in entry.members])
    try:
        _tell(sample, texts)
    except (ValueError, RecursionError) as error:  # also JSON and UTF-8 errors
        raise DataError(entry.name, f"caption or label cannot be read: {error}") from None
    return sample


def _tell(sample: Sample, texts: Mapping[str, bytes]) -> None:
    if "json" in texts:
        facts = json.loads(texts["json"])
        if not isinstance(facts, dict):
            raise ValueError(f"the .json must hold an object, got {type(facts).__name__}")
        caption, number = facts.get("caption"), facts.get("label")
        sample.caption = caption if isinstance(caption, str) else None
        sample.label = number if isinstance(number, int) and not isinstance(number, bool) else None
        sample.meta["json"] = facts
    if "txt" in texts:
        sample.caption = texts["txt"].decode("utf-8").strip()
    if "cls" in texts:
        sample.label = int(texts["cls"])
