"""Options of a dataclass from what YAML gives: names and types are looked at before the class sees them."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from tok4d.errors import ConfigError
from tok4d.options import from_options


@dataclass(frozen=True)
class Camera:
    width: int = 3
    zoom: float = 1.0
    name: str = "a"
    colour: bool = True
    size: tuple[int, int] | None = None


def test_values_of_the_annotated_types_are_taken():
    given = {"width": 5, "zoom": 2, "name": "b", "colour": False, "size": [3, 4]}
    made = from_options(Camera, given, "camera option")
    assert (made.width, made.zoom, made.name, made.colour, made.size) == (5, 2, "b", False, [3, 4])
    assert from_options(Camera, {"size": None}, "camera option") == Camera()


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"widht": 3}, "unknown camera option 'widht'. Did you mean 'width'"),
        ({"width": "wide"}, "camera option 'width' must be a whole number, got 'wide'"),
        ({"width": 2.5}, "'width' must be a whole number, got 2.5"),
        ({"width": True}, "'width' must be a whole number, got True"),
        ({"zoom": "far"}, "'zoom' must be a number, got 'far'"),
        ({"name": 5}, "'name' must be text, got 5"),
        ({"colour": "maybe"}, "'colour' must be true or false, got 'maybe'"),
        ({"colour": 1}, "'colour' must be true or false, got 1"),
        ({"size": 3}, "'size' must be a list of a whole number each or left out, got 3"),
        ({"size": [3, "x"]}, r"'size' must be a list of a whole number each or left out, got \[3, 'x'\]"),
    ],
)
def test_anything_else_is_one_sentence(given, error):
    with pytest.raises(ConfigError, match=error):
        from_options(Camera, given, "camera option")
