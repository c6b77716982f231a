"""Colours by name: of backgrounds that people ask for, and of generated data with captions."""

from __future__ import annotations

from tok4d.errors import ConfigError

RGB = tuple[int, int, int]

COLOURS: dict[str, RGB] = {  # generated data draws from them by place: their order is part of it
    "red": (214, 45, 32),
    "orange": (240, 135, 30),
    "yellow": (245, 215, 60),
    "green": (60, 160, 70),
    "cyan": (70, 190, 200),
    "blue": (45, 85, 200),
    "purple": (135, 65, 165),
    "pink": (240, 150, 185),
    "white": (245, 245, 245),
    "grey": (128, 128, 128),
    "black": (15, 15, 15),
}


def parse_background(colour: str) -> RGB:
    """A CSS name or `#rrggbb` as RGB in 0..255.

    Raises:
        ConfigError: for anything else.
    """
    from PIL import ImageColor

    try:
        red, green, blue, *_ = ImageColor.getrgb(colour)
    except (ValueError, AttributeError, TypeError):
        raise ConfigError(f"background must be a colour name or #rrggbb, got {colour!r}") from None
    return red, green, blue
