"""A cache of tensors on disk: what was rendered and lifted once is not made again.

Files are named by a digest of everything that decides their content, and written whole or not at all; so any number of
processes may share a folder, and a damaged or missing file is simply made anew. What was not used for longest goes
first when the folder grows beyond its bound.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any
from uuid import uuid4

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tok4d.data.fetch import cache_root

log = logging.getLogger(__name__)
Tensors = dict[str, Tensor]
_SUFFIX, _PART = ".safetensors", ".part"
_ABANDONED_S = 3600.0  # age of an unfinished file whose writer is gone
_SLACK = 0.9  # a folder that is too large shrinks to this share of its bound, so that not every write looks


class TensorCache:
    """A bounded folder of tensor files.

    Args:
        folder: made on first use; None: `assets3d` in tok4d's cache folder.
        max_bytes: bound of the whole folder; 0 keeps nothing and reads nothing.
    """

    def __init__(self, folder: Path | None, max_bytes: int) -> None:
        self.folder = folder or cache_root() / "assets3d"
        self.max_bytes = max_bytes

    def get(self, digest: str, make: Callable[[], Tensors]) -> Tensors:
        """The tensors of a digest, made by `make` when they are not there. A folder that takes no file is no error."""
        if not self.max_bytes:
            return make()
        path = self.folder / digest[:2] / f"{digest}{_SUFFIX}"
        try:
            tensors = load_file(path)
            os.utime(path)
            return tensors
        except (FileNotFoundError, SafetensorError, OSError):
            pass
        tensors = make()
        try:
            self._write(path, tensors)
        except OSError as error:
            log.warning("%s: cannot be kept (%s)", path, error.strerror or error)
        return tensors

    def _write(self, path: Path, tensors: Tensors) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{uuid4().hex}{_PART}")
        try:
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, part)
            part.replace(path)
        except SafetensorError as error:  # the disk is full, say
            raise OSError(str(error)) from error
        finally:
            part.unlink(missing_ok=True)
        self._shrink()

    def _shrink(self) -> None:
        """Remove what was not used for longest; other processes may do the same at the same time."""
        found: list[tuple[float, int, Path]] = []
        for path in self.folder.glob(f"??/*{_SUFFIX}"):
            if (seen := _stat(path)) is not None:
                found.append((seen.st_mtime, seen.st_size, path))
        for path in self.folder.glob(f"??/*{_PART}"):
            if (seen := _stat(path)) is not None and time.time() - seen.st_mtime > _ABANDONED_S:
                path.unlink(missing_ok=True)
        total = sum(size for _, size, _ in found)
        if total <= self.max_bytes:
            return
        for _, size, path in sorted(found):
            if total <= self.max_bytes * _SLACK:
                return
            path.unlink(missing_ok=True)
            total -= size


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None


def digest_of(what: Mapping[str, Any]) -> str:
    """Hex digest of JSON values and of the code that turns assets into tensors."""
    text = json.dumps({**what, "code": _code()}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def file_digest(path: Path) -> str:
    """Digest of what an asset's tensors depend on: its content, and names, sizes and times of the files beside it for
    the formats that refer to others (materials, textures, buffers).

    Raises:
        OSError: when it cannot be read.
    """
    with path.open("rb") as stream:
        content = hashlib.file_digest(stream, "sha256") if hasattr(hashlib, "file_digest") else _sha256(stream.read())
    digest = content.hexdigest()
    if path.suffix.lower() not in (".obj", ".gltf"):
        return digest
    beside = []
    for other in sorted(path.parent.rglob("*")):
        if (seen := _stat(other)) is not None and other.is_file():
            beside.append([str(other.relative_to(path.parent)), seen.st_size, seen.st_mtime_ns])
    return hashlib.sha256(json.dumps([digest, beside]).encode()).hexdigest()


def _sha256(content: bytes) -> Any:
    return hashlib.sha256(content)


@lru_cache(maxsize=1)
def _code() -> str:
    """Digest of this package's modules: another version of the code makes other files."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
