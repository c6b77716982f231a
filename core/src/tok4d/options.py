"""Options given by name, into the dataclass that describes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

from tok4d.errors import ConfigError, unknown_name

_T = TypeVar("_T")


def from_options(cls: type[_T], options: Mapping[str, Any], kind: str) -> _T:
    """An object of a dataclass from some of its fields.

    Args:
        cls: the dataclass; it checks the values itself.
        options: values by name.
        kind: what to call an option in errors, `image option` say.

    Raises:
        ConfigError: for an unknown option, with the nearest and all known ones.
    """
    known = [field.name for field in fields(cls)]  # type: ignore[arg-type]
    for name in options:
        if name not in known:
            raise ConfigError(unknown_name(kind, name, known))
    return cls(**options)
