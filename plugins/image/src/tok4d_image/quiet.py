"""Keeping decoders quiet: what matters is raised as an error, everything else is noise per file."""

from __future__ import annotations

import logging
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_STDERR = 2

# Without any handler Python prints Pillow's log lines on stderr; a program that sets up logging still gets them.
logging.getLogger("PIL").addHandler(logging.NullHandler())

_lock = threading.Lock()
_depth = 0
_filters = warnings.catch_warnings()


@contextmanager
def no_warnings() -> Iterator[None]:
    """Silence Python warnings while any thread decodes.

    Counted, since nested `catch_warnings` of several threads would restore each other's filters.
    """
    global _depth, _filters
    with _lock:
        if _depth == 0:
            _filters = warnings.catch_warnings()
            _filters.__enter__()
            warnings.simplefilter("ignore")
        _depth += 1
    try:
        yield
    finally:
        with _lock:
            _depth -= 1
            if _depth == 0:
                _filters.__exit__(None, None, None)


_native_lock = threading.Lock()


@contextmanager
def no_native_messages(wanted: bool = True) -> Iterator[None]:
    """Keep a C library from writing to the terminal: libtiff prints what Pillow then raises as well.

    The process's stderr goes nowhere meanwhile, hence only for what needs it and for one thread at a time.
    """
    if not wanted or not _has_stderr():
        yield
        return
    with _native_lock:
        kept = os.dup(_STDERR)
        nowhere = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, _STDERR)
            yield
        finally:
            os.dup2(kept, _STDERR)
            os.close(kept)
            os.close(nowhere)


def _has_stderr() -> bool:
    try:
        os.fstat(_STDERR)
    except OSError:
        return False
    return True
