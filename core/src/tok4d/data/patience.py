"""Reading again what a network or a disk failed to give once: it says nothing about the file."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from typing import TypeVar

_T = TypeVar("_T")
PAUSES = (0.5, 2.0, 8.0)  # seconds before the second, third and fourth try
_NAMES = (
    "EIO EREMOTEIO ESTALE EAGAIN EBUSY EINTR ETIMEDOUT EPIPE ECONNRESET ECONNABORTED ECONNREFUSED "
    "ENETDOWN ENETUNREACH EHOSTDOWN EHOSTUNREACH"
)
_NUMBERS = {getattr(errno, name) for name in _NAMES.split() if hasattr(errno, name)}


def patiently(work: Callable[[], _T]) -> _T:
    """The result of `work`, tried again after a pause where what it raises comes from a failing connection or disk.

    Where samples stand in a run must not hang on such a moment: all processes find it out by themselves.
    """
    for pause in PAUSES:
        try:
            return work()
        except Exception as error:
            if not transient(error):
                raise
            time.sleep(pause)
    return work()


def transient(error: BaseException | None) -> bool:
    """Whether an error, or what caused it, may be gone the next time."""
    while error is not None:
        if isinstance(error, (TimeoutError, ConnectionError)):
            return True
        if isinstance(error, OSError) and error.errno in _NUMBERS:
            return True
        error = error.__cause__
    return False
