"""What a layout finds in a folder, and the tools by which it looks."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tok4d.errors import DataError

IMAGES = (".jpeg", ".jpg", ".png", ".webp")
VIDEOS = (".mp4", ".avi", ".mkv", ".webm", ".mov")
MAX_TABLE = 1 << 30  # bytes of an annotation file; COCO's largest is half of it


@dataclass(frozen=True)
class Item:
    """One sample.

    Attributes:
        key: its name in results.
        path: its file, or the folder of its frames.
        captions: all that describe it.
        label: its class.
    """

    key: str
    path: Path
    captions: tuple[str, ...] = ()
    label: int | None = None


@dataclass(frozen=True)
class Listing:
    """A data set as it lies in a folder.

    Attributes:
        modality: of all samples.
        items: in a fixed order.
        classes: names by label; empty: there are none, or they are not known.
        frames: whether an item's path is a folder of frames.
        source: name of the source that reads the files, where the modality's `read` is not what is wanted.
        notes: what could not be found and is not needed for everything, such as the names of classes.
    """

    modality: str
    items: tuple[Item, ...]
    classes: tuple[str, ...] = ()
    frames: bool = False
    source: str = ""
    notes: tuple[str, ...] = field(default=())


def refuse(folder: Path, expected: str) -> DataError:
    """The error for a tree that is not the layout: what was expected, and what is there."""
    if not folder.is_dir():
        return DataError(folder, f"no such folder; expected {expected}")
    names = sorted(path.name + "/" * path.is_dir() for path in folder.iterdir())
    more = f" and {len(names) - 6} more" if len(names) > 6 else ""
    return DataError(folder, f"expected {expected}; found {', '.join(names[:6]) or 'nothing'}{more}")


def first_there(folder: Path, names: Iterable[str]) -> Path | None:
    """The first of some paths that exists below a folder."""
    return next((folder / name for name in names if (folder / name).exists()), None)


def files_of(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    """Files of a folder with one of the suffixes, sorted by name; hidden ones are left out."""
    if not folder.is_dir():
        return []
    found = (path for path in folder.iterdir() if path.suffix.lower() in suffixes and not path.name.startswith("."))
    return sorted(path for path in found if path.is_file())


def folders_of(folder: Path) -> list[Path]:
    """Folders in a folder, sorted; hidden ones are left out."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def read_text(path: Path) -> str:
    """A text file of bounded size.

    Raises:
        DataError: when it is missing, too large or no UTF-8 text.
    """
    try:
        if (size := path.stat().st_size) > MAX_TABLE:
            raise DataError(path, f"{size:,} bytes are too many for an annotation file")
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(path, f"cannot be read ({getattr(error, 'strerror', None) or error})") from None


def read_json(path: Path) -> Any:
    """A JSON file; errors as `read_text`, and for what is no JSON."""
    try:
        return json.loads(read_text(path))
    except (json.JSONDecodeError, RecursionError) as error:
        raise DataError(path, f"is not JSON ({error})") from None


def read_csv(path: Path, columns: Sequence[str]) -> Iterator[dict[str, str]]:
    """Rows of a CSV file that has these columns; errors as `read_text`, and for a missing column."""
    rows = csv.DictReader(read_text(path).splitlines())
    found = list(rows.fieldnames or ())
    if missing := [name for name in columns if name not in found]:
        raise DataError(path, f"has no column {missing[0]!r}; it has {', '.join(map(repr, found)) or 'none'}")
    for row in rows:
        yield {name: (row[name] or "").strip() for name in columns}
