"""Files that belong to an asset (materials, textures, buffers): read from its own folder or archive, nowhere else."""

from __future__ import annotations

import re
import zipfile
import zlib
from abc import ABC, abstractmethod
from functools import cached_property
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from tok4d.errors import Tok4dError

MAX_BYTES = 1 << 30
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")  # two letters at least: `C:` is a drive


class AssetError(Tok4dError):
    """A file that an asset refers to and that is not there or must not be read."""


class Assets(ABC):
    """The files beside a mesh, by the names that the mesh file uses.

    A name that leads outside (an address, an absolute path, `..`) is never followed. As files from other machines
    carry absolute paths, a file of the same base name is taken from the asset's own folder instead.
    """

    def read(self, name: str, max_bytes: int = MAX_BYTES) -> bytes:
        """Content of one file.

        Raises:
            AssetError: when there is no such file inside, it lies outside, or it is larger than `max_bytes`.
        """
        cleaned = unquote(name.strip().strip('"')).replace("\\", "/")
        if _SCHEME.match(cleaned):
            raise AssetError(f"{name!r} is an address; only files in the asset's own folder are read")
        path = PurePosixPath(re.sub(r"^[A-Za-z]:", "", cleaned))
        if not path.name or "\0" in cleaned:
            raise AssetError(f"{name!r} is no file name")
        inside = not path.is_absolute() and path.as_posix() == cleaned.removeprefix("./") and not _climbs(path)
        for candidate in ([path] if inside else []) + [PurePosixPath(path.name)]:
            content = self.fetch(candidate, max_bytes)
            if content is not None:
                return content
        raise AssetError(f"{name!r} is not there" if inside else f"{name!r} lies outside of the asset's folder")

    @abstractmethod
    def fetch(self, path: PurePosixPath, max_bytes: int) -> bytes | None:
        """Content of a relative path, or None when there is no such file."""


def _climbs(path: PurePosixPath) -> bool:
    depth = 0
    for part in path.parts:
        depth += -1 if part == ".." else 1
        if depth < 0:
            return True
    return False


class NoAssets(Assets):
    """A mesh file that stands alone."""

    def fetch(self, path: PurePosixPath, max_bytes: int) -> bytes | None:
        return None


class FolderAssets(Assets):
    """Files under a folder; links that lead out of it count as outside."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()

    def fetch(self, path: PurePosixPath, max_bytes: int) -> bytes | None:
        try:
            found = (self.folder / path).resolve()
            if not found.is_relative_to(self.folder):
                raise AssetError(f"{str(path)!r} lies outside of the asset's folder")
            if not found.is_file():
                return None
            if found.stat().st_size > max_bytes:
                raise AssetError(f"{str(path)!r} has {found.stat().st_size:,} bytes, the limit is {max_bytes:,}")
            return found.read_bytes()
        except (OSError, ValueError, RuntimeError) as error:
            if isinstance(error, AssetError):
                raise
            raise AssetError(f"{str(path)!r} cannot be read ({error})") from None


class ZipAssets(Assets):
    """Members of an open zip under a folder of it; nothing is unpacked to disk."""

    def __init__(self, archive: zipfile.ZipFile, folder: PurePosixPath) -> None:
        self.archive, self.folder = archive, folder

    @cached_property
    def members(self) -> dict[str, zipfile.ZipInfo]:
        """Members by name; one that occurs twice is what the archive's index names last."""
        return {info.filename.lstrip("/"): info for info in self.archive.infolist() if not info.is_dir()}

    def fetch(self, path: PurePosixPath, max_bytes: int) -> bytes | None:
        parts: list[str] = []
        for part in (self.folder / path).parts:
            if part == "..":
                if len(parts) <= len(self.folder.parts):
                    raise AssetError(f"{str(path)!r} lies outside of the asset's folder")
                parts.pop()
            else:
                parts.append(part)
        info = self.members.get("/".join(parts))
        return None if info is None else read_member(self.archive, info, max_bytes)


def read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, max_bytes: int) -> bytes:
    """Content of one zip member, counted while it is unpacked: what the index says about sizes need not be true.

    Raises:
        AssetError: when it is larger than `max_bytes`, damaged, encrypted or packed in an unknown way.
    """
    try:
        with archive.open(info) as stream:
            content = stream.read(max_bytes + 1)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError) as error:
        raise AssetError(f"{info.filename!r} in the archive is damaged ({error})") from None
    if len(content) > max_bytes:
        raise AssetError(f"{info.filename!r} unpacks to more than the limit of {max_bytes:,} bytes")
    return content
