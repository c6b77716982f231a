"""Names, categories and groups of emoji, from the table that emoji-datasource ships (`emoji.json`).

One emoji has one code (its code points in hex, joined by `-`) in every set of pictures. Near-duplicates are one group:
skin tones, genders and the direction of walking, families, flags, clock faces, phases of the moon, and shapes that
differ in colour alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tok4d.errors import DataError

TABLE = "emoji.json"
CATEGORIES = (
    "Activities",
    "Animals & Nature",
    "Component",
    "Flags",
    "Food & Drink",
    "Objects",
    "People & Body",
    "Smileys & Emotion",
    "Symbols",
    "Travel & Places",
)
_SELECTOR = "fe0f"  # asks for the coloured form; sets of pictures do not agree on where it stands
_TONES = {f"1f3f{last}" for last in "bcdef"}
_DROPPED = {_SELECTOR, "200d", "2640", "2642", "27a1"} | _TONES  # joiner, female, male, facing right
_PERSONS = {
    "1f468": "1f9d1", "1f469": "1f9d1",  # man, woman: person
    "1f466": "1f9d2", "1f467": "1f9d2",  # boy, girl: child
    "1f474": "1f9d3", "1f475": "1f9d3",  # old man, old woman: older person
    "1f934": "1fac5", "1f478": "1fac5",  # prince, princess: person with a crown
    "1f936": "1f385",  # Mrs Claus: Santa
    "1f483": "1f57a",  # woman dancing: man dancing
    "1f930": "1fac4", "1fac3": "1fac4",  # pregnant woman, man: person
}  # fmt: skip
_SANTA = "1f9d1 1f384"
_ALIKE_SUBCATEGORIES = {"country-flag": "flags", "subdivision-flag": "flags", "family": "families"}
_ALIKE_CODES = {
    "clocks": " ".join(f"1f5{last:02x}" for last in range(0x50, 0x68)),
    "moons": " ".join(f"1f3{last:02x}" for last in range(0x11, 0x19)),
    "hearts": "2764 1f499 1f49a 1f49b 1f49c 1f5a4 1f90d 1f90e 1f9e1 1fa75 1fa76 1fa77",
    "circles": "1f534 1f535 1f7e0 1f7e1 1f7e2 1f7e3 1f7e4 26aa 26ab",
    "squares": "1f7e5 1f7e6 1f7e7 1f7e8 1f7e9 1f7ea 1f7eb 2b1b 2b1c 25fb 25fc 25fd 25fe 25aa 25ab",
    "books": "1f4d5 1f4d7 1f4d8 1f4d9",
}
_ALIKE = {code: name for name, codes in _ALIKE_CODES.items() for code in codes.split()}
_FAMILIES = {f"1f46{last}" for last in "abcd"}


class Emoji(NamedTuple):
    """One picture's entry.

    Attributes:
        code: of the emoji, lower case, without the selector of the coloured form.
        name: in English: the caption.
        short: the name that chat programs use.
        category: one of `CATEGORIES`.
        group: near-duplicates share it.
        tone: whether it is a variant in a skin tone; its name is that of the emoji.
    """

    code: str
    name: str
    short: str
    category: str
    group: str
    tone: bool


def read_table(path: Path) -> list[Emoji]:
    """All emoji with their variants, in the order of their codes.

    Raises:
        DataError: when the table cannot be read or has another form.
    """
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        found = [one for entry in entries for one in _variants(entry)]
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(path, f"cannot be read ({error})") from None
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(path, f"is no table of emoji: {type(error).__name__} {error}") from None
    if unknown := sorted({one.category for one in found} - set(CATEGORIES)):
        raise DataError(path, f"has the unknown categories {', '.join(unknown)}")
    return sorted(found)


def code_of(unified: str) -> str:
    """A code as `Emoji.code` has it: `0023-FE0F-20E3` and `0023-20e3` are one emoji."""
    return "-".join(part for part in unified.lower().split("-") if part != _SELECTOR)


def _variants(entry: Mapping[str, Any]) -> Iterator[Emoji]:
    name, short, category = entry["name"], entry["short_name"], entry["category"]
    code = code_of(entry["unified"])
    group = group_of(code, entry["subcategory"])
    yield Emoji(code, caption(name or short), short, category, group, False)
    for variant in entry.get("skin_variations", {}).values():
        yield Emoji(code_of(variant["unified"]), caption(name or short), short, category, group, True)


def caption(name: str) -> str:
    """A name as people write it: the table has most of them in capitals."""
    text = " ".join(name.replace("_", " ").split())
    return text.lower() if text.isupper() else text


def group_of(code: str, subcategory: str) -> str:
    """Name of the group of an emoji; its own code where nothing is like it."""
    if subcategory in _ALIKE_SUBCATEGORIES:
        return _ALIKE_SUBCATEGORIES[subcategory]
    if code in _ALIKE:
        return _ALIKE[code]
    parts = code.split("-")
    if code in _FAMILIES or parts.count("1f9d1") + parts.count("1f9d2") > 1:
        return "families"
    kept = " ".join(_PERSONS.get(part, part) for part in parts if part not in _DROPPED)
    if kept == _SANTA:
        kept = _PERSONS["1f936"]
    return kept or code  # a tone or a sign by itself
