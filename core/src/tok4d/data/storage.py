"""Files in object storage by URL (`s3://`, `gs://`, `file://`, `memory://`, ...): read by ranges, through fsspec.

fsspec is imported on first use, and the driver of a protocol (s3fs, gcsfs, ...) with it. A `Stored` is only a name, so
it goes to loader processes as it is; each of them makes its own connections. Local paths never come here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

from tok4d.errors import DataError, Tok4dError

_VERSIONS = ("ETag", "etag", "md5Hash", "LastModified", "last_modified", "updated", "mtime", "created")
_MAGIC = re.compile(r"[*\[]")


class Stamp(NamedTuple):
    """What tells one content of a file from another: bytes, and time of change or tag as its storage has it."""

    size: int
    version: str


def is_url(name: str) -> bool:
    """Whether a name is for `Stored` rather than for a local path."""
    return "://" in name


@dataclass(frozen=True, order=True)
class Stored:
    """A file by its URL.

    Every method raises `DataError` when the file is missing or cannot be read, and `Tok4dError` when fsspec or the
    protocol's driver is not installed.
    """

    url: str

    def __str__(self) -> str:
        return self.url

    @property
    def name(self) -> str:
        """The last part of the URL."""
        return self.url.rpartition("/")[2]

    def beside(self, suffix: str) -> Stored:
        """The file whose URL goes on with `suffix`."""
        return Stored(self.url + suffix)

    def exists(self) -> bool:
        """Whether it is there now."""
        with self._system() as (system, path):
            system.invalidate_cache()
            return bool(system.isfile(path))

    def stamp(self) -> Stamp:
        """Its size and version now."""
        with self._system() as (system, path):
            found = system.info(path)
        version = next((str(found[name]) for name in _VERSIONS if found.get(name) is not None), "")
        return Stamp(int(found["size"]), version)

    @contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        """A seekable stream for reading that fetches ahead."""
        with self._system() as (system, path):
            stream = system.open(path, "rb")
        with stream:  # what its user raises is no error of the storage
            yield cast("IO[bytes]", stream)

    def read(self, start: int = 0, size: int | None = None) -> bytes:
        """Some bytes in one request; fewer when the file ends before."""
        if size == 0:
            return b""
        with self._system() as (system, path):
            return cast(bytes, system.cat_file(path, start=start, end=None if size is None else start + size))

    def read_ranges(self, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Several pieces (start, size), asked for at once where the storage can."""
        with self._system() as (system, path):
            starts, ends = [start for start, _ in ranges], [start + size for start, size in ranges]
            return cast("list[bytes]", system.cat_ranges([path] * len(ranges), starts, ends, on_error="raise"))

    def write(self, content: bytes) -> None:
        """Put a content there, complete or not at all."""
        with self._system() as (system, path), system.transaction, system.open(path, "wb") as stream:
            stream.write(content)

    @contextmanager
    def _system(self) -> Iterator[tuple[Any, str]]:
        """The file system and the file's path in it; whatever a driver raises becomes one error."""
        system, path = _resolved(self.url)
        try:
            yield system, path
        except (FileNotFoundError, IsADirectoryError):
            raise DataError(self.url, "no such file") from None
        except Tok4dError:
            raise
        except Exception as error:  # drivers raise errors of their own clients
            said = " ".join(str(error).split()) or type(error).__name__
            raise DataError(self.url, f"cannot be reached or read ({said})") from error


def find_stored(url: str, suffix: str) -> list[Stored]:
    """Files of a URL: itself when it ends with `suffix`, else those of a glob or below a folder, sorted.

    Raises:
        DataError: when there is none.
        Tok4dError: when fsspec or the protocol's driver is not installed.
    """
    if url.endswith(suffix) and not _MAGIC.search(url):
        return [Stored(url)]
    with Stored(url)._system() as (system, path):
        names = system.glob(path) if _MAGIC.search(url) else system.find(path)
        found = sorted(str(system.unstrip_protocol(name)) for name in names if name.endswith(suffix))
    if not found:
        raise DataError(url, f"no file that ends with {suffix}")
    return [Stored(name) for name in found]


def _resolved(url: str) -> tuple[Any, str]:
    try:
        from fsspec.core import url_to_fs
    except ImportError:
        raise Tok4dError(f"{url}: URLs need fsspec; install it with pip install fsspec") from None
    try:
        system, path = url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise Tok4dError(f"{url.partition('://')[0]}:// URLs cannot be opened: {error}") from None
    return system, path


def stamp_of(file: Path | Stored) -> Stamp:
    """Size and version of a local or stored file.

    Raises:
        DataError: when it cannot be found.
    """
    if isinstance(file, Stored):
        return file.stamp()
    try:
        found = file.stat()
    except OSError as error:
        raise DataError(file, error.strerror or str(error)) from None
    return Stamp(found.st_size, str(found.st_mtime_ns))
