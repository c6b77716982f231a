"""Choosing models of the `furniture` recipe: what all sources of these objects share, whatever they make of them."""

from __future__ import annotations

import hashlib
import json
import zipfile
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

from tok4d.data.source import Source, split_groups
from tok4d.errors import ConfigError, DataError
from tok4d.modality import Sample
from tok4d_mesh3d.furniture import RECIPE, FurnitureItem, load_catalogue
from tok4d_mesh3d.nouns import CLASSES

LABELS = tuple(CLASSES)


@dataclass
class FurnitureOptions(Source):
    """Models of the recipe: caption = the catalogue's name, label = index of the noun in `LABELS`.

    An object is on the same side of the split as picture, as turntable and as mesh: sides go by the model's id, for
    every noun by itself, so that each class is on both.

    Attributes:
        classes: only models of these nouns (see `tok4d_mesh3d.nouns`); empty: all models, also those without one.
        limit: at most that many models of a side; 0: all. Which ones is decided by a hash of their ids.
        path: folder of `.sh3f` files; empty: the recipe, fetched on first use.
    """

    classes: tuple[str, ...] | list[str] = ()
    limit: int = 0
    path: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if unknown := [name for name in self.classes if name not in CLASSES]:
            raise ConfigError(f"unknown nouns {unknown}; there are {', '.join(CLASSES)}")
        if isinstance(self.limit, bool) or not isinstance(self.limit, int) or self.limit < 0:
            raise ConfigError(f"limit must be a whole number of at least 0, got {self.limit!r}")

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(name if not self.classes or name in self.classes else "" for name in LABELS)

    @cached_property
    def items(self) -> list[FurnitureItem]:
        """Models on this side of the split, in the catalogue's order.

        Raises:
            Tok4dError: when the recipe cannot be fetched, or nothing is left.
        """
        found = load_catalogue(self._folder())
        if self.classes:
            found = [item for item in found if item.noun in self.classes]
        kept: set[str] = set()
        for noun in {item.noun for item in found}:
            ids = [item.identity for item in found if item.noun == noun]
            kept.update(ids[i] for i in split_groups(ids, self.split, self.folds, self.fold))
        if self.limit:
            kept = set(sorted(kept, key=lambda name: hashlib.sha256(name.encode()).digest())[: self.limit])
        items = [item for item in found if item.identity in kept]
        if not items:
            raise DataError(self._folder(), f"no model on the {self.split!r} side of the split ({len(found)} in all)")
        return items

    def _folder(self) -> Path:
        if self.path:
            return Path(self.path).expanduser()
        from tok4d.data.fetch import ensure

        return ensure(RECIPE)[1]

    def __len__(self) -> int:
        return len(self.items)

    def key(self, index: int) -> str:
        return self.items[index].identity

    def told(self, sample: Sample, index: int) -> Sample:
        """The sample with key, caption, label and where it comes from."""
        item = self.items[index]
        sample.key, sample.caption = item.identity, item.name
        sample.label = None if item.noun is None else LABELS.index(item.noun)
        sample.meta |= {"licence": item.licence, "creator": item.creator, "category": item.category}
        return sample

    def identity(self, item: FurnitureItem) -> str:
        """What stands for an item's content: the archive's index of checksums, the model and how it is turned."""
        try:
            seen = item.archive.stat()
            index = _index(str(item.archive), seen.st_size, seen.st_mtime_ns)
        except (OSError, zipfile.BadZipFile) as error:
            raise DataError(item.archive, f"cannot be read ({error})") from None
        return json.dumps([index, item.model, item.rotation])


@lru_cache(maxsize=256)
def _index(archive: str, size: int, changed: int) -> str:
    """Digest of the names, sizes and checksums of an archive's members; the last two arguments tell another file."""
    with zipfile.ZipFile(archive) as opened:
        members = [[info.filename, info.file_size, info.CRC] for info in opened.infolist()]
    return hashlib.sha256(json.dumps(members).encode()).hexdigest()
