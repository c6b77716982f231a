"""Numpy arrays out of a pickle that nobody vouches for.

Python's unpickler calls what a file names. This one reads the same instructions, carries out the few that build arrays
in dicts, lists and tuples, and imports and calls nothing.
"""

from __future__ import annotations

import pickletools
import re
from collections.abc import Callable, Iterator
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tok4d.errors import DataError

MAX_BYTES = 1 << 30
_MAX_STEPS = 100_000  # instructions of a file, and values in what it builds
_MAX_DEPTH = 16
_NUMBERS = re.compile(r"[<>|=]?[biuf][1248]")  # types that hold numbers and no objects
_MARK = object()

Array = NDArray[Any]


class _RefusedError(Exception):
    """Why a pickle is not read on."""


class _Type:
    """A numpy type being built: its letters, then the byte order."""

    def __init__(self, letters: Any, *_: Any) -> None:
        self.letters = letters

    def build(self, state: Any) -> None:
        self.letters = f"{state[1]}{self.letters}"

    def resolve(self) -> np.dtype[Any]:
        if not isinstance(self.letters, str) or not _NUMBERS.fullmatch(self.letters):
            raise _RefusedError(f"holds an array of type {self.letters!r:.40}, not of plain numbers")
        return np.dtype(self.letters)


class _Array:
    """An array being built: empty, then its shape, type, order and bytes."""

    def __init__(self, *_: Any) -> None:
        self.array: Array | None = None

    def build(self, state: Any) -> None:
        _, shape, kind, by_columns, data = state
        self.fill(data, kind, shape, "F" if by_columns else "C")

    def fill(self, data: Any, kind: Any, shape: Any, order: Any) -> _Array:
        if not isinstance(kind, _Type) or not isinstance(data, (bytes, bytearray)):
            raise _RefusedError("holds an array whose content is not plain bytes")
        dtype = kind.resolve()
        if not all(isinstance(side, int) and side >= 0 for side in shape):
            raise _RefusedError(f"holds an array of shape {shape!r:.40}")
        if prod(shape) * dtype.itemsize != len(data):
            raise _RefusedError(f"holds {len(data)} bytes for an array of shape {shape!r:.40} and type {dtype}")
        self.array = np.frombuffer(data, dtype).reshape(shape, order="F" if order == "F" else "C")
        return self


def _empty() -> dict[str, Any]:
    """An OrderedDict as pickles write it: empty at first, its items set one by one."""
    return {}


_NDARRAY = object()
_CALLS: dict[Any, Callable[..., Any]] = {
    "reconstruct": _Array,
    "dtype": _Type,
    "frombuffer": lambda data, kind, shape, order: _Array().fill(data, kind, shape, order),
    "dict": _empty,
}
_GLOBALS: dict[str, Any] = {
    "numpy.core.multiarray._reconstruct": "reconstruct",
    "numpy._core.multiarray._reconstruct": "reconstruct",
    "numpy.core.numeric._frombuffer": "frombuffer",
    "numpy._core.numeric._frombuffer": "frombuffer",
    "numpy.dtype": "dtype",
    "numpy.ndarray": _NDARRAY,
    "collections.OrderedDict": "dict",
}


class _Named(str):
    """A global that a file named and that is admitted; no string of the file's own can pass for one."""

    __slots__ = ()


class _Reader:
    """The instructions of the pickle format that arrays need. Its stack and memo hold data, never code."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self, data: bytes) -> Any:
        for count, (code, argument, _) in enumerate(pickletools.genops(data)):
            if count > _MAX_STEPS:
                raise _RefusedError(f"has more than {_MAX_STEPS:,} instructions")
            if code.name == "STOP":
                return self.stack.pop()
            self.step(code.name, argument)
        raise _RefusedError("has no end")

    def step(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in ("PROTO", "FRAME"):
            return
        if name in _LITERALS:
            stack.append(argument)
        elif name in _VALUES:
            stack.append(_VALUES[name]())
        elif name in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self.memo[len(self.memo) if argument is None else argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif name == "GLOBAL":
            stack.append(_admit(argument.replace(" ", ".")))
        elif name == "STACK_GLOBAL":
            last, module = stack.pop(), stack.pop()
            stack.append(_admit(f"{module}.{last}"))
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            self.collect(int(name[-1]))
        elif name == "TUPLE":
            stack.append(tuple(self.marked()))
        elif name in ("APPEND", "APPENDS"):
            items = [stack.pop()] if name == "APPEND" else self.marked()
            _of(stack[-1], list, "a list").extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            items = self.popped(2) if name == "SETITEM" else self.marked()
            _put(_of(stack[-1], dict, "a dict"), items)
        elif name == "REDUCE":
            arguments, called = stack.pop(), stack.pop()
            stack.append(_CALLS[_of(called, _Named, "a call")](*_of(arguments, tuple, "arguments")))
        elif name == "BUILD":
            state, built = stack.pop(), stack[-1]
            _of(built, (_Type, _Array), "an array").build(state)
        else:
            raise _RefusedError(f"has the instruction {name}, which arrays do not need")

    def popped(self, count: int) -> list[Any]:
        items = self.stack[-count:]
        del self.stack[-count:]
        return items

    def collect(self, count: int) -> None:
        self.stack.append(tuple(self.popped(count)))

    def marked(self) -> list[Any]:
        """What was put on the stack since the last mark."""
        items: list[Any] = []
        while (item := self.stack.pop()) is not _MARK:
            items.append(item)
        return items[::-1]


_LITERALS = {
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    *("BININT", "BININT1", "BININT2", "LONG1"),
}
_VALUES: dict[str, Callable[[], Any]] = {
    "MARK": lambda: _MARK,
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
}


def _admit(name: str) -> Any:
    if name not in _GLOBALS:
        raise _RefusedError(f"names {name[:100]}, which is neither an array nor a container; nothing was run")
    found = _GLOBALS[name]
    return _Named(found) if isinstance(found, str) else found


def _of(value: Any, kind: Any, role: str) -> Any:
    if not isinstance(value, kind):
        raise _RefusedError(f"has a value of type {type(value).__name__} where {role} belongs")
    return value


def _put(target: dict[str, Any], items: list[Any]) -> None:
    for key, value in zip(items[::2], items[1::2], strict=True):
        target[_of(key, str, "a name")] = value


def load_arrays(path: Path, max_bytes: int = MAX_BYTES) -> dict[str, Array]:
    """All arrays of a pickle, by their keys and positions joined with `/`: `VGG16_0/Conv_0/kernel`.

    Args:
        path: a pickle (protocol 3 to 5) of numpy arrays in dicts, lists and tuples.
        max_bytes: bound on the file, and on the arrays together.

    Returns:
        Arrays of bools, integers and floats; they share the file's bytes and cannot be written to.

    Raises:
        DataError: for a file that is missing, too large, damaged, or holds anything else: the first thing it names
            that is not admitted is in the message. Nothing that a file names is ever imported or called.
    """
    try:
        size = path.stat().st_size
        if size > max_bytes:
            raise DataError(path, f"has {size:,} bytes, more than the {max_bytes:,} expected")
        data = path.read_bytes()
    except OSError as error:
        raise DataError(path, f"cannot be read: {error.strerror or error}") from error
    try:
        found = dict(_leaves(_Reader().run(data)))
    except _RefusedError as error:
        raise DataError(path, str(error)) from None
    except Exception as error:  # a damaged pickle can fail in any way there is
        raise DataError(path, f"is no complete pickle of arrays: {' '.join(str(error).split())[:200]}") from None
    total = sum(array.nbytes for array in found.values())
    if total > max_bytes:
        raise DataError(path, f"holds arrays of {total:,} bytes, more than the {max_bytes:,} expected")
    return found


def _leaves(top: Any) -> Iterator[tuple[str, Array]]:
    """Arrays with their paths. A value may hold itself, or one thing many times over: depth and number are bounded."""
    waiting: list[tuple[tuple[str, ...], Any]] = [((), top)]
    seen = 0
    while waiting:
        seen += 1
        names, value = waiting.pop()
        if len(names) > _MAX_DEPTH:
            raise _RefusedError(f"is nested more than {_MAX_DEPTH} deep")
        if isinstance(value, _Array) and value.array is not None:
            yield "/".join(names), value.array
        elif isinstance(value, dict):
            waiting += [((*names, key), item) for key, item in reversed(value.items())]
        elif isinstance(value, (list, tuple)):
            waiting += [((*names, str(index)), item) for index, item in reversed(list(enumerate(value)))]
        else:
            raise _RefusedError(f"holds a {type(value).__name__} at {'/'.join(names) or 'its top'}, not an array")
        if seen + len(waiting) > _MAX_STEPS:
            raise _RefusedError(f"holds more than {_MAX_STEPS:,} values")
