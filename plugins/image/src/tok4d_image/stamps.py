"""The stamps of Tux Paint, as the recipe `stamps` unpacks them: a picture and a text file beside each.

A file's name keeps the folders above it, joined by `-`; the first of them below `stamps` is the category. The first
line of the text is the English caption.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from tok4d.errors import DataError

STAMP_CATEGORIES = (
    "animals",
    "clothes",
    "food",
    "hobbies",
    "household",
    "medical",
    "military",
    "naturalforces",
    "people",
    "plants",
    "seasonal",
    "space",
    "sports",
    "symbols",
    "town",
    "vehicles",
)
_HEAD = "usr-share-tuxpaint-stamps-"
_MAX_TEXT = 1 << 16
_WORDS = re.compile(r"[a-z0-9]+")
_ARTICLES = ("a", "an", "the", "some")


class Stamp(NamedTuple):
    """One stamp: its name below the category, file, caption, category, and the group that a split keeps together."""

    key: str
    file: Path
    caption: str
    category: str
    group: str


def find_stamps(folder: Path) -> list[Stamp]:
    """Stamps of a folder that have a caption, by name. Without one are mirror images of others, which are left out.

    Raises:
        DataError: when there is none, or a caption cannot be read.
    """
    found = []
    for file in sorted(folder.glob(f"{_HEAD}*.png")):
        text = file.with_suffix(".txt")
        key = file.stem.removeprefix(_HEAD)
        category = key.partition("-")[0]
        if category in STAMP_CATEGORIES and text.is_file():
            caption = _caption(text)
            found.append(Stamp(key, file, caption, category, group_of(caption)))
    if not found:
        raise DataError(folder, f"has no stamps ({_HEAD}CATEGORY-*.png with a .txt beside it)")
    return found


def _caption(path: Path) -> str:
    try:
        with path.open(encoding="utf-8") as file:
            line = file.readline(_MAX_TEXT).strip()
    except (OSError, ValueError) as error:
        raise DataError(path, f"caption cannot be read ({error})") from None
    if not line:
        raise DataError(path, "has no caption in its first line")
    return line


def group_of(caption: str) -> str:
    """Captions that differ in their first article, capitals and punctuation alone are one group."""
    words = _WORDS.findall(caption.lower())
    return " ".join(words[1:] if len(words) > 1 and words[0] in _ARTICLES else words) or caption
