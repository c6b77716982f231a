"""Opening files that may be anything, and writing files whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

from tok4d.errors import DataError


@contextmanager
def reading(path: str | Path) -> Iterator[BinaryIO]:
    """The bytes of a regular file that is not empty; what its decoder refuses becomes a DataError with the path.

    Raises:
        DataError: for what the block or the system refuses (ValueError, EOFError, OSError).
    """
    source = Path(path)
    if source.is_dir():
        raise DataError(path, "is a folder, not a file")
    if source.exists() and not source.is_file():
        raise DataError(path, "is not a regular file")
    try:
        with source.open("rb") as stream:
            if size_of(stream) == 0:
                raise ValueError("is empty")
            yield stream
    except FileNotFoundError:
        raise DataError(path, "no such file") from None
    except (ValueError, EOFError, OSError) as error:
        raise DataError(path, _reason(error)) from None


@contextmanager
def replacing(path: str | Path) -> Iterator[BinaryIO]:
    """A file beside `path` that takes its place when the block succeeds; otherwise nothing is left of it.

    Raises:
        DataError: for what the block or the system refuses (ValueError, OSError).
    """
    target = Path(path)
    unfinished = target.with_name(f".{uuid4().hex}.part")
    try:
        with unfinished.open("xb") as stream:
            yield stream
        unfinished.replace(target)
    except (ValueError, OSError) as error:
        raise DataError(path, f"cannot write: {_reason(error)}") from None
    finally:
        unfinished.unlink(missing_ok=True)


def size_of(stream: BinaryIO) -> int:
    """Bytes of an open file."""
    return os.fstat(stream.fileno()).st_size


def check_count(count: int, max_splats: int) -> None:
    """Refuse a count that a file's header claims before anything is allocated for it."""
    if count > max_splats:
        raise ValueError(f"claims {count:,} Gaussians, more than max_splats = {max_splats:,}")


def _reason(error: Exception) -> str:
    if isinstance(error, DataError):
        return error.reason
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__
