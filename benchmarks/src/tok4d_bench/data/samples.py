"""Benchmark data over files that a layout lists, and over any registered source.

Both present samples as a protocol wants them (`Prepare`), in their own order, evenly thinned when there is a limit.
"""

from __future__ import annotations

import hashlib
import threading
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from tok4d.data.manifest import ManifestSource
from tok4d.data.sharded import ShardSource
from tok4d.data.source import FolderSource, Source
from tok4d.errors import DataError, Tok4dError
from tok4d.modality import Sample
from tok4d.plugins.registry import modality
from tok4d_bench.contracts import BenchData
from tok4d_bench.data.listing import IMAGES, Item, Listing, files_of
from tok4d_bench.fingerprint import content, sha256
from tok4d_bench.prepare import Prepare


class Thinned(BenchData):
    """What both kinds share: the limit, the digest, the protocol.

    Args:
        name: of the data set and its split.
        prepare: sizes.
        limit: at most that many samples, evenly spread over all; 0: all.
        about: layout or source, split and options, for the protocol.

    Attributes:
        apart: keeps columns of the originals apart where which samples can be used depends on more than the protocol.
    """

    apart = ""

    def __init__(self, name: str, prepare: Prepare, limit: int, about: Mapping[str, Any], total: int) -> None:
        self.name, self.prepare, self.total = name, prepare, total
        self._about = dict(about)
        count = min(limit, total) if limit else total
        self._places: Sequence[int] = range(total) if count == total else [i * total // count for i in range(count)]

    def __len__(self) -> int:
        return len(self._places)

    def protocol(self) -> dict[str, Any]:
        return {**self._about, "samples": len(self), "of": self.total, "prepare": self.prepare.protocol()}

    @cached_property
    def digest(self) -> str:
        sha = hashlib.sha256()
        for place in self._places:
            sha.update(sha256(self.identity(place)).encode())
        return sha.hexdigest()

    @abstractmethod
    def identity(self, place: int) -> Any:
        """What tells one sample from another without decoding it."""


class ListedData(Thinned):
    """Samples of a `Listing`.

    The digest is over keys, what the files hold, captions and labels.
    """

    def __init__(
        self,
        name: str,
        listing: Listing,
        prepare: Prepare,
        limit: int,
        about: Mapping[str, Any],
        options: dict[str, Any],
    ) -> None:
        super().__init__(name, prepare, limit, about, len(listing.items))
        self.modality, self.classes, self.listing = listing.modality, listing.classes, listing
        self._options = options
        self._source: Source | None = None
        if listing.source:
            self._source = _source_of_files(listing, options)
            self._lock = threading.Lock()

    def item(self, index: int) -> Item:
        """What the listing says of a sample."""
        return self.listing.items[self._places[index]]

    def key(self, index: int) -> str:
        return self.item(index).key

    def captions(self, index: int) -> tuple[str, ...]:
        return self.item(index).captions

    def identity(self, place: int) -> Any:
        item = self.listing.items[place]
        files = files_of(item.path, IMAGES) if self.listing.frames else [item.path]
        return [item.key, [content(path) for path in files], list(item.captions), item.label]

    def load(self, index: int) -> Sample:
        item = self.item(index)
        if self._source is not None:
            with self._lock:
                sample = self._source.load(self._places[index])
        elif self.listing.frames:
            sample = read_frames(item.path, self.modality, self.prepare)
        else:
            sample = modality(self.modality).read(item.path, **clip_options(self.prepare), **self._options)
        sample.key, sample.label = item.key, item.label
        sample.caption = item.captions[0] if item.captions else None
        return self.prepare.apply(sample)


class SourceData(Thinned):
    """Samples of a registered source.

    The digest is over its options, the keys, and what the files are: a recipe's digest, or what each file holds.
    """

    def __init__(self, name: str, source: Source, prepare: Prepare, limit: int, about: Mapping[str, Any]) -> None:
        super().__init__(name, prepare, limit, about, len(source))
        self.modality, self.classes, self.source = source.modality, tuple(source.class_names), source
        self._lock = threading.Lock()  # sources keep caches that know of one thread

    def key(self, index: int) -> str:
        return self.source.key(self._places[index])

    def identity(self, place: int) -> Any:
        return [self._identity, self.source.key(place), _held(self.source, place)]

    @cached_property
    def _identity(self) -> str:
        options = asdict(self.source) if is_dataclass(self.source) else {}
        recipe = _recipe_digest(self.source, str(self._about.get("source", "")))
        return sha256([type(self.source).__qualname__, options, recipe])

    def load(self, index: int) -> Sample:
        with self._lock:
            sample = self.source.load(self._places[index])
        sample.key = self.key(index)
        return self.prepare.apply(sample)


def clip_options(prepare: Prepare) -> dict[str, Any]:
    """The part of `prepare` that chooses frames, as options of reading a clip: what is left out is never decoded."""
    found: dict[str, Any] = {"stride": prepare.stride} if prepare.stride != 1 else {}
    if prepare.fps:
        found["rate"] = prepare.fps
    if prepare.frames:
        found |= {"frames": prepare.frames, "spread": True}
    return found


def read_frames(folder: Path, name: str, prepare: Prepare) -> Sample:
    """A clip from a folder of pictures of one size, chosen by `stride` and `frames`.

    Raises:
        DataError: for no pictures, sizes that differ, a picture that cannot be used, or `fps` (frames have no times).
    """
    files = files_of(folder, IMAGES)
    if not files:
        raise DataError(folder, "has no pictures that could be frames")
    if prepare.fps:
        raise DataError(folder, "frames in a folder have no times: choose them by stride or frames, not by fps")
    files = files[:: prepare.stride]
    if prepare.frames and len(files) > prepare.frames:
        last = max(prepare.frames - 1, 1)
        files = [files[i * (len(files) - 1) // last] for i in range(prepare.frames)]
    host, picture = modality(name), modality("image")
    frames = [picture.read(path).data[picture.field] for path in files]
    if len(sizes := {tuple(frame.shape) for frame in frames}) > 1:
        raise DataError(folder, f"has frames of different sizes: {', '.join(str(list(s[1:])) for s in sorted(sizes))}")
    return Sample(name, {host.field: torch.stack(frames)}, key=str(folder))


def _source_of_files(listing: Listing, options: dict[str, Any]) -> Source:
    """The modality's folder source over exactly the files of a listing, in their order."""
    from tok4d.config.schema import TaskConfig
    from tok4d.data.build import build_source

    source = build_source(TaskConfig(listing.source, {**options, "path": str(listing.items[0].path.parent)}))
    if not isinstance(source, FolderSource):
        raise Tok4dError(f"{listing.source} reads no files one by one; it is a {type(source).__name__}")
    source.files = [item.path for item in listing.items]
    return source


def _held(source: Source, place: int) -> Any:
    """What the file of one sample holds, and what a manifest says of it; empty: the source has no file a sample."""
    if isinstance(source, FolderSource):
        return content(source.files[place])
    if isinstance(source, ManifestSource):
        row = source.rows[place]
        return [content(source.folder / row.path), row.caption, row.label]
    if isinstance(source, ShardSource):
        return content(Path(str(source.entries[place].shard)))
    return ""


def _recipe_digest(source: Source, name: str) -> str:
    """Digest of the recipe that a source reads: the one it names, or that of its own name; empty: none.

    A folder that stands for the recipe counts by all of its files.
    """
    if path := getattr(source, "path", ""):
        if isinstance(source, (FolderSource, ManifestSource, ShardSource)):
            return ""
        folder = Path(path).expanduser()
        files = sorted(found for found in folder.rglob("*") if found.is_file())
        return sha256([[found.relative_to(folder).as_posix(), content(found)] for found in files])
    from tok4d.data.recipes import load_recipe
    from tok4d.plugins.registry import config_names

    known = config_names("recipes")
    recipe = str(getattr(source, "recipe", "") or name.rpartition("/")[2])
    return load_recipe(recipe).digest if recipe in known else ""


def source_options(source: Source) -> dict[str, Any]:
    """All options of a source, for the protocol."""
    return {f.name: getattr(source, f.name) for f in fields(source) if f.init}
