"""WebDataset tar shards with random access: member offsets from the tar headers, then one seek per sample."""

from __future__ import annotations

import io
import json
import re
import tarfile
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from tok4d.data.source import Source, find_files, split_groups
from tok4d.errors import ConfigError, DataError
from tok4d.modality import Sample
from tok4d_image.augment import ImageOptions
from tok4d_image.reading import SUFFIXES, decode

_KEY = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]+)")  # WebDataset: up to the first dot of the base name
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_IMAGES = tuple(suffix[1:] for suffix in SUFFIXES)
_SIDE_FILES = ("txt", "json", "cls")
_MAX_SIDE_BYTES = 1 << 20
_MAX_SHARDS = 1_000_000
_BLOCK = 512


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

    @property
    def image(self) -> str | None:
        """Extension of the image member; the first of the known ones when there are several."""
        return next((extension for extension in _IMAGES if extension in self.members), None)


@dataclass
class ImageShards(ImageOptions, Source):
    """Images of local WebDataset tars; `.txt` is the caption, `.cls` the label, `.json` may hold both.

    Other fields of the `.json` land in `meta["json"]`. Samples without an image are left out.

    Attributes:
        path: a tar, a folder of tars, a glob (`data/*.tar`) or a range (`data/{000..010}.tar`).
    """

    path: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check()

    @cached_property
    def entries(self) -> list[Entry]:
        """Samples on this side of the split, in order of shard and member.

        Raises:
            DataError: when a shard is missing, damaged or truncated, or when nothing is left.
        """
        found = [entry for shard in expand(self.path) for entry in index_shard(shard) if entry.image]
        kept = [found[i] for i in split_groups([entry.key for entry in found], self.split, self.folds, self.fold)]
        if not kept:
            raise DataError(self.path, f"no image on the {self.split!r} side of the split ({len(found)} in all)")
        return kept

    def __len__(self) -> int:
        return len(self.entries)

    def key(self, index: int) -> str:
        return self.entries[index].name

    def load(self, index: int, rng: np.random.Generator | None = None) -> Sample:
        """One image, float32 `[3, H, W]` in [-1, 1], with caption and label where the shard has them."""
        entry = self.entries[index]
        pixels, meta = self.cache.get(entry.name, lambda: self._decode(entry))
        texts = {name: read_member(entry, name) for name in _SIDE_FILES if name in entry.members}
        image = self.present(pixels, rng)
        return _labelled(Sample(self.modality, {"image": image}, key=entry.name, meta=dict(meta)), entry, texts)

    def _decode(self, entry: Entry) -> tuple[Tensor, dict[str, Any]]:
        member = entry.image
        if member is None:
            raise DataError(entry.name, "has no image")
        return decode(io.BytesIO(read_member(entry, member)), f"{entry.name}.{member}", self.read_options)


def expand(pattern: str) -> list[Path]:
    """Shard files of a path, folder, glob or `{000..010}` range, in order; those of a range must all exist.

    Raises:
        DataError: when one is missing or nothing matches.
    """
    if not pattern:
        raise ConfigError("image/shards needs the option path")
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
    try:
        with entry.shard.open("rb") as stream:
            stream.seek(span.start)
            content = stream.read(span.size)
    except OSError as error:
        raise DataError(entry.shard, f"cannot be read ({error.strerror})") from None
    if len(content) != span.size:
        raise DataError(entry.shard, f"is shorter than when it was indexed (member {entry.key}.{extension})")
    return content


def _labelled(sample: Sample, entry: Entry, texts: dict[str, bytes]) -> Sample:
    """Caption and label from the side files; `.txt` and `.cls` win over the `.json`."""
    try:
        if "json" in texts:
            facts = json.loads(texts["json"])
            if not isinstance(facts, dict):
                raise ValueError(f"the .json must hold an object, got {type(facts).__name__}")
            caption, label = facts.get("caption"), facts.get("label")
            sample.caption = caption if isinstance(caption, str) else None
            sample.label = label if isinstance(label, int) and not isinstance(label, bool) else None
            sample.meta["json"] = facts
        if "txt" in texts:
            sample.caption = texts["txt"].decode("utf-8").strip()
        if "cls" in texts:
            sample.label = int(texts["cls"])
    except (ValueError, RecursionError) as error:  # also JSON and UTF-8 errors
        raise DataError(entry.name, f"caption or label cannot be read: {error}") from None
    return sample
