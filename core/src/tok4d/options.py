"""Options by name, against the signature of what takes them: names, and types as they are annotated."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import fields
from functools import lru_cache
from typing import Any, TypeVar, Union, get_args, get_origin

from tok4d.errors import ConfigError, unknown_name

Made = TypeVar("Made")
_WORDS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true or false",
    type(None): "left out",
}


def build(what: str, make: Callable[..., Made], options: Mapping[str, Any], *given: Any, **settings: Any) -> Made:
    """Call what options are for, after a look at each of them.

    Args:
        what: who takes them, for errors.
        make: class or function.
        options: as someone wrote them.
        given, settings: further arguments, which are not checked.

    Raises:
        ConfigError: for an unknown option, with the nearest, one of another type, and arguments that do not fit.
    """
    check_options(what, make, options, settings)
    try:
        return make(*given, **settings, **options)
    except TypeError as error:
        said = ", ".join(f"{name}={value!r}" for name, value in options.items()) or "no options"
        raise ConfigError(f"{what} with {said}: {' '.join(str(error).split())}") from error


def from_options(cls: type[Made], options: Mapping[str, Any], kind: str) -> Made:
    """An object of a dataclass from some of its fields.

    Args:
        cls: the dataclass; it checks the values themselves.
        options: values by name.
        kind: what to call an option in errors, `image option` say.

    Raises:
        ConfigError: for an unknown option, with the nearest and all known ones, or one of another type.
    """
    check_fields(cls, options, kind)
    return cls(**options)


def check_fields(cls: type, options: Mapping[str, Any], kind: str) -> None:
    """Names and types of some of a dataclass's fields; arguments and errors as `from_options`."""
    _check(options, [field.name for field in fields(cls)], _annotations(cls), kind)


def check_options(
    what: str, make: Callable[..., Any], options: Mapping[str, Any], settings: Mapping[str, Any] | None = None
) -> None:
    """Errors as `build`."""
    parameters = inspect.signature(make).parameters.values()
    named = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)} - set(settings or ())
    anything = any(p.kind is p.VAR_KEYWORD for p in parameters)
    _check(options, [*named, *options] if anything else named, _annotations(make), "option", f"{what}: ")


def _check(
    options: Mapping[str, Any], known: Collection[str], types: Mapping[str, Any], kind: str, before: str = ""
) -> None:
    for name, value in options.items():
        if name not in known:
            raise ConfigError(before + unknown_name(kind, str(name), known))
        if name in types and not fits(value, types[name]):
            raise ConfigError(f"{before}{kind} {name!r} must be {in_words(types[name])}, got {value!r}")


def fits(value: Any, kind: Any) -> bool:
    """Whether a value, as YAML gives it, is of an annotated type. What is not understood fits: its owner checks it."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return any(fits(value, part) for part in parts)
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    base = origin or kind
    if not isinstance(base, type):
        return True
    if issubclass(base, Mapping):
        inner = parts[1] if len(parts) == 2 else Any
        return isinstance(value, Mapping) and all(fits(item, inner) for item in value.values())
    if issubclass(base, Sequence) and base is not str:
        inner = parts[0] if parts else Any
        return isinstance(value, (list, tuple)) and all(fits(item, inner) for item in value)
    return isinstance(value, base) if base in _WORDS else True


def in_words(kind: Any) -> str:
    """An annotated type for people."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return " or ".join(in_words(part) for part in parts)
    base = origin or kind
    if base in _WORDS:
        return _WORDS[base]
    if isinstance(base, type) and issubclass(base, Mapping):
        inner = f" with {in_words(parts[1])} each" if len(parts) == 2 and get_origin(parts[1]) else ""
        return f"a mapping{inner}"
    inner = f" of {in_words(parts[0])} each" if parts and parts[0] in _WORDS else ""
    return f"a list{inner}"


@lru_cache(maxsize=256)  # every file that is read asks for those of its reader's options
def _annotations(make: Callable[..., Any]) -> dict[str, Any]:
    """Types of the parameters; none where the names in them are not at hand (imports for type checkers alone)."""
    try:
        found = inspect.signature(make, eval_str=True).parameters.values()
    except NameError:
        return {}
    return {
        p.name: p.annotation
        for p in found
        if p.annotation is not p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
    }
