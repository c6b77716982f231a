"""WebDataset tar shards with random access: member offsets from the tar headers, then one seek per sample.

Sources of any modality build on this: `expand` finds the shards, `index_shard` lists their samples, `read_member` gives
bytes, `copy_member` a file, and `label` fills in caption and label from the members beside the main one.
"""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, NamedTuple

from tok4d.data.source import find_files
from tok4d.errors import ConfigError, DataError
from tok4d.modality import Sample

_KEY = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]+)")  # WebDataset: up to the first dot of the base name
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_SIDE_FILES = ("txt", "json", "cls")
_MAX_SIDE_BYTES = 1 << 20
_MAX_SHARDS = 1_000_000
_BLOCK = 512
_CHUNK = 1 << 20


class Span(NamedTuple):
    """Where a member's bytes lie in its shard."""

    start: int
    size: int


@dataclass(frozen=True)
class Entry:
    """One sample of a shard: the bytes of its members by extension."""

    shard: Path
    key: str
    members: dict[str, Span] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """For logs and errors: shard and key."""
        return f"{self.shard}:{self.key}"

    def first_of(self, extensions: Sequence[str]) -> str | None:
        """The first of these extensions (without the dot) that the sample has a member of."""
        return next((extension for extension in extensions if extension in self.members), None)


def expand(pattern: str) -> list[Path]:
    """Shard files of a path, folder, glob or `{000..010}` range, in order; those of a range must all exist.

    Raises:
        DataError: when one is missing or nothing matches.
    """
    if not pattern:
        raise ConfigError("a source of shards needs the option path")
    return [path for name in _ranges(pattern) for path in find_files(name, (".tar",))]


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


def index_shard(shard: Path) -> list[Entry]:
    """Samples of one tar by reading its headers alone.

    Raises:
        DataError: when it is no tar, is compressed (no random access), damaged in the middle, truncated, or holds a
            member twice.
    """
    entries: dict[str, Entry] = {}
    try:
        size = shard.stat().st_size
        with tarfile.open(shard, "r:") as tar:
            for member in tar:
                if member.isreg() and not member.issparse():
                    _add(entries, shard, member, size)
            _check_end(shard, tar.offset, size)
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(shard, f"is not a readable uncompressed tar ({error})") from None
    return list(entries.values())


def _add(entries: dict[str, Entry], shard: Path, member: tarfile.TarInfo, size: int) -> None:
    if member.offset_data + member.size > size:
        raise DataError(shard, f"is truncated: {member.name} ends at byte {member.offset_data + member.size} of {size}")
    named = _KEY.fullmatch(member.name.removeprefix("./"))
    if named is None:
        return
    entry = entries.setdefault(named[1], Entry(shard, named[1]))
    extension = named[2].lower()
    if extension in entry.members:
        raise DataError(shard, f"holds {member.name} twice")
    entry.members[extension] = Span(member.offset_data, member.size)


def _check_end(shard: Path, offset: int, size: int) -> None:
    """tarfile ends quietly at a damaged header; a whole archive ends at a block of zeros."""
    with shard.open("rb") as stream:
        stream.seek(offset)
        block = stream.read(_BLOCK)
    if block != bytes(_BLOCK):
        what = "truncated (no end mark)" if offset + _BLOCK > size else "damaged"
        raise DataError(shard, f"is {what} at byte {offset} of {size}")


def read_member(entry: Entry, extension: str) -> bytes:
    """The bytes of one member.

    Raises:
        DataError: when the shard has changed since it was indexed or cannot be read.
    """
    span = entry.members[extension]
    if extension in _SIDE_FILES and span.size > _MAX_SIDE_BYTES:
        raise DataError(f"{entry.name}.{extension}", f"{span.size} bytes exceed the limit of {_MAX_SIDE_BYTES}")
    return b"".join(_pieces(entry, extension))


def copy_member(entry: Entry, extension: str, target: IO[bytes]) -> None:
    """Write one member to an open file, piece by piece, for decoders that need a file.

    Raises:
        DataError: as `read_member`.
    """
    for piece in _pieces(entry, extension):
        target.write(piece)


def _pieces(entry: Entry, extension: str) -> Iterator[bytes]:
    span = entry.members[extension]
    left = span.size
    try:
        with entry.shard.open("rb") as stream:
            stream.seek(span.start)
            while left and (piece := stream.read(min(left, _CHUNK))):
                left -= len(piece)
                yield piece
    except OSError as error:
        raise DataError(entry.shard, f"cannot be read ({error.strerror})") from None
    if left:
        raise DataError(entry.shard, f"is shorter than when it was indexed (member {entry.key}.{extension})")


def label(sample: Sample, entry: Entry) -> Sample:
    """Caption and label from the members `.txt`, `.cls` and `.json` (`caption`, `label`); the first two win.

    All of the `.json` lands in `sample.meta["json"]`.

    Raises:
        DataError: when they cannot be read or have another type.
    """
    texts = {name: read_member(entry, name) for name in _SIDE_FILES if name in entry.members}
    try:
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
    except (ValueError, RecursionError) as error:  # also JSON and UTF-8 errors
        raise DataError(entry.name, f"caption or label cannot be read: {error}") from None
    return sample
