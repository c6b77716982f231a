"""Targets, `"module:attribute"`: importing them, and what to tell people when that fails."""

from __future__ import annotations

import re
from importlib import import_module
from typing import Any

TARGET = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


def resolve(target: str) -> Any:
    """Import `"module"` or `"module:attribute"`. Whatever the import raises is passed on."""
    module_name, _, path = target.partition(":")
    found: Any = import_module(module_name)
    for part in path.split(".") if path else ():
        found = getattr(found, part)
    return found


def reason(error: BaseException) -> str:
    """One line for an exception: its type, text and, for a syntax error, the place."""
    if isinstance(error, SyntaxError):
        return f"SyntaxError: {error.msg} ({error.filename}, line {error.lineno})"
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def advice(error: BaseException, target: str, distribution: str, leave_out: str) -> str:
    """What a user can do about a plugin part that does not import or run.

    Args:
        leave_out: the setting of TOK4D_PLUGINS that leaves the plugin out.
    """
    own = target.partition(":")[0].partition(".")[0]
    missing = getattr(error, "name", None) if isinstance(error, ModuleNotFoundError) else None
    if missing and missing.partition(".")[0] != own:
        return f"install what provides the module {missing.partition('.')[0]!r}, or leave it out: {leave_out}"
    if missing:
        return f"reinstall {distribution}, it lacks its own module {missing!r}, or leave it out: {leave_out}"
    return f"update {distribution} or report it to its authors, or leave it out: {leave_out}"
