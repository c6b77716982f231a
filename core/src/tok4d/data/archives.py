"""Unpacking named members of wheels, tarballs and Debian packages: flat, bounded, and nothing but plain files."""

from __future__ import annotations

import shutil
import stat
import subprocess
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import IO

from tok4d.errors import DataError

MAX_BYTES = 4 << 30  # of all that one archive unpacks
_CHUNK = 1 << 20


def unpack(
    archive: Path,
    patterns: Sequence[str],
    folder: Path,
    wanted: Callable[[str], bool] = lambda name: True,
    max_bytes: int = MAX_BYTES,
    parents: int = 0,
) -> list[Path]:
    """Unpack the members that match a glob pattern and whose base name is `wanted` into `folder`, under base names.

    With `parents`, that many of the folders above a member go before its name, joined by `-`.

    Raises:
        DataError: when the archive is damaged, a pattern matches nothing, or a matching member is a link, has an
            unsafe path, meets a file of its name, or would exceed `max_bytes`.
    """
    if archive.suffix in (".whl", ".zip"):
        members = _zip_members(archive)
    elif archive.suffix == ".deb":
        members = _deb_members(archive)
    else:
        members = _tar_members(archive)
    found: list[Path] = []
    matched: set[str] = set()
    for name, plain, stream in members:
        hits = [pattern for pattern in patterns if fnmatchcase(name, pattern)]
        matched.update(hits)
        flat = "-".join(PurePosixPath(name).parts[-1 - parents :])
        if not hits or not wanted(flat):
            continue
        _refuse_unsafe(archive, name, plain)
        max_bytes -= _copy(archive, name, stream, folder / flat, max_bytes)
        found.append(folder / flat)
    if missing := [pattern for pattern in patterns if pattern not in matched]:
        raise DataError(archive, f"has no member like {', '.join(missing)}")
    return found


def _refuse_unsafe(archive: Path, name: str, plain: bool) -> None:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in path.name or not path.name:
        raise DataError(archive, f"member {name!r} has an unsafe path")
    if not plain:
        raise DataError(archive, f"member {name!r} is a link or a device, not a file")


def _copy(archive: Path, name: str, opened: Callable[[], IO[bytes]], target: Path, limit: int) -> int:
    """Copy one member, counting: what an archive's index says about sizes need not be true."""
    if target.exists():
        raise DataError(archive, f"two members would become {target.name!r}")
    size = 0
    with opened() as source, target.open("xb") as sink:
        while chunk := source.read(_CHUNK):
            size += len(chunk)
            if size > limit:
                raise DataError(archive, f"unpacks to more than the {limit:,} bytes left at member {name!r}")
            sink.write(chunk)
    return size


Members = Iterator[tuple[str, bool, Callable[[], IO[bytes]]]]  # name, is it a plain file, open it


def _zip_members(archive: Path) -> Members:
    with _damaged(archive), zipfile.ZipFile(archive) as opened:
        for info in opened.infolist():
            if not info.is_dir():
                mode = info.external_attr >> 16
                plain = not stat.S_IFMT(mode) or stat.S_ISREG(mode)
                yield info.filename, plain, lambda info=info: opened.open(info)  # type: ignore[misc]


def _tar_members(archive: Path) -> Members:
    with _damaged(archive), tarfile.open(archive, "r:*") as opened:
        yield from _entries(opened)


def _deb_members(archive: Path) -> Members:
    program = shutil.which("dpkg-deb")
    if program is None:
        raise DataError(archive, "needs the program 'dpkg-deb' to be unpacked")
    with subprocess.Popen([program, "--fsys-tarfile", str(archive)], stdout=subprocess.PIPE) as process:
        with _damaged(archive), tarfile.open(fileobj=process.stdout, mode="r|") as opened:
            yield from _entries(opened)
        if process.wait():
            raise DataError(archive, f"dpkg-deb failed with exit code {process.returncode}")


def _entries(opened: tarfile.TarFile) -> Members:
    for info in opened:
        if not info.isdir():
            name = info.name.removeprefix("./")
            yield name, info.isreg() and not info.issparse(), lambda info=info: _file(opened, info)  # type: ignore[misc]


def _file(opened: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    stream = opened.extractfile(info)
    if stream is None:
        raise DataError(info.name, "is not a file")
    return stream


@contextmanager
def _damaged(archive: Path) -> Iterator[None]:
    try:
        yield
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise DataError(archive, f"is damaged: {error}") from None
