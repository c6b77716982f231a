"""Errors for people: one line that says what was wrong, where, and what to do.

The CLI prints a `Tok4dError` as a single line and exits with code 1; anything else is a bug and shows its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path


class Tok4dError(ValueError):
    """Base of all errors that a user can act on."""


class ConfigError(Tok4dError):
    """A configuration that cannot be used: unknown key, wrong type, contradiction."""


class PluginError(Tok4dError):
    """A plugin that is missing, broken, refused, or in conflict with another."""


class DataError(Tok4dError):
    """A file that cannot be used.

    Args:
        path: the file, as the user named it.
        reason: what is wrong with it, with the offending value.
    """

    def __init__(self, path: str | Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = str(path)
        self.reason = reason

    def __reduce__(self) -> tuple[type[DataError], tuple[str, str]]:
        return type(self), (self.path, self.reason)  # crosses loader workers with both parts intact


def unknown_name(kind: str, name: str, available: Iterable[str]) -> str:
    """Text for a name that is not known: the nearest match first, then everything there is."""
    names = sorted(available)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    listing = ", ".join(names) if names else "none"
    return f"unknown {kind} {name!r}.{hint} Available: {listing}"
