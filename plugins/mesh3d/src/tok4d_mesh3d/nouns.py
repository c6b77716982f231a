"""Noun classes: what an object is, from its English name.

The rule: the head noun of an English name is its last word. Text from the first `with`, `on`, `under`, comma or number
on is left out; then the last two words, and after them the last one, are looked up in the table, in lower case and
without plural. A name whose head noun is in no class has none: it is in no accuracy figure.
"""

from __future__ import annotations

import re

CLASSES: dict[str, str] = {
    "chair": "chair armchair stool seat wheelchair",
    "table": "table desk workbench",
    "sofa": "sofa couch futon",
    "bed": "bed crib",
    "lamp": "lamp light lantern lamppost spotlight chandelier",
    "door": "door",
    "window": "window",
    "cabinet": "cabinet cupboard wardrobe chest vanity dresser",
    "shelves": "shelf shelve bookcase",
    "person": "female male boy girl",
    "animal": "cat dog horse deer chicken rabbit bulldog",
    "tree": "tree pine palm poplar cypress maple beech acacia blossom",
    "plant": "plant flower tulip orchid lily cactus ficus bonsai yucca bamboo spathiphyllum hedge bush",
    "vehicle": "car bus truck van sedan suv motorbike scooter beetle",
    "bicycle": "bicycle bike tricycle",
    "switch": "switch",
    "plug": "plug socket",
    "heater": "radiator heater boiler furnace fireplace chimney",
    "cooker": "cooker cooktop stove oven microwave",
    "sink": "sink washbasin basin",
    "bottle": "bottle flacon",
    "cup": "cup mug glass",
    "vase": "vase jar pottery",
    "clothing": "jacket dress skirt trouser suit short hat cap glove shoe sneaker slipper mocassin bootie",
    "screen": "tv screen laptop tablet imac ibook",
    "bin": "bin dustbin trashcan trash-can",
    "box": "box crate suitcase briefcase",
    "railing": "railing fence",
}
# Names whose last word misleads.
_MISLEADING = {"clothes horse", "hot dog", "rocking horse", "roasted chicken", "indoor bike"}
_BY_NOUN = {noun: name for name, nouns in CLASSES.items() for noun in nouns.split()}
_TAIL = re.compile(r"\s(with|on|under)\s.*|,.*|\s-\s.*|\s\d.*")


def noun_class(name: str) -> str | None:
    """Class of an object by its name, or None when its head noun is in no class."""
    text = _TAIL.sub("", " ".join(name.lower().split()))
    if text in _MISLEADING:
        return None
    words = [_singular(word) for word in re.findall(r"[^\W_][\w'’-]*", text)]
    return _BY_NOUN.get("-".join(words[-2:])) or (_BY_NOUN.get(words[-1]) if words else None)


def _singular(word: str) -> str:
    return word[:-1] if word.endswith("s") and not word.endswith(("ss", "us", "is")) else word
