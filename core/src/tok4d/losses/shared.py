"""What the terms of one objective have in common is computed once: pictures, their resized copies, their features.

Values live as long as one call of the objective. Outside of one, everything is computed when it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

_T = TypeVar("_T")
_Key = tuple[object, ...]
_values: ContextVar[dict[_Key, tuple[_Key, Any]] | None] = ContextVar("tok4d_losses_shared", default=None)


@contextmanager
def sharing() -> Iterator[None]:
    """Share within this block. One inside of another has values of its own, which it frees when it ends."""
    token = _values.set({})
    try:
        yield
    finally:
        _values.reset(token)


def shared(what: str, objects: _Key, options: _Key, make: Callable[[], _T]) -> _T:
    """`make()`, or what it gave before in this block for the same `what`, the very same objects, and equal options."""
    values = _values.get()
    if values is None:
        return make()
    key = (what, options, *map(id, objects))
    if key not in values:
        values[key] = (objects, make())  # the objects too: the id of a dead one may be another's
    made: _T = values[key][1]
    return made
