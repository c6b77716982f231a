"""Reading and writing Gaussians by the suffix of the file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Literal

from tok4d.errors import ConfigError, DataError, unknown_name
from tok4d.model.gaussians import Gaussians
from tok4d_mesh3d.splatfiles import ply, splat, spz
from tok4d_mesh3d.splatfiles.columns import Columns
from tok4d_mesh3d.splatfiles.files import reading, replacing
from tok4d_mesh3d.splatfiles.turns import to_z_up, turned

Up = Literal["y", "z"]
Read = Callable[[BinaryIO, int], Columns]

MAX_SPLATS = 10_000_000
_READ: dict[str, Read] = {".ply": ply.read, ".splat": splat.read, ".spz": spz.read}
SUFFIXES = tuple(_READ)
# The SPZ description fixes its axes (right, up, back); the other two leave them open.
_UP: dict[str, Up] = {".ply": "z", ".splat": "z", ".spz": "y"}


def read_splats(path: str | Path, *, up: Up | None = None, max_splats: int = MAX_SPLATS) -> Gaussians:
    """The Gaussians of a `.ply` (INRIA layout), `.splat` or `.spz` file, Z-up, float32, in the order of the file.

    Only the constant colour is kept: coefficients that change with the direction of view are skipped. The 8-bit
    formats hold opacities 0 and 1 themselves; all others lie in between.

    Args:
        up: the file's up axis. None: Y for `.spz`, Z (as it is) for the others.
        max_splats: files with more are refused before they are decoded.

    Raises:
        DataError: for a missing, broken, truncated, too large or foreign file, and for values that are no Gaussians.
        ConfigError: for an unknown axis.
    """
    suffix = _suffix(path)
    axis = _axis(up, suffix)
    with reading(path) as stream:
        gaussians = _READ[suffix](stream, max_splats).gaussians()
    return to_z_up(gaussians) if axis == "y" else gaussians


def write_splats(gaussians: Gaussians, path: str | Path, *, up: Up | None = None, spz_version: int = 3) -> None:
    """Write Z-up Gaussians in the format of the suffix, complete or not at all.

    `.ply` keeps float32. The others round; at most, `.splat`: 1/510 in colour (clamped to [0, 1]) and opacity, 0.9
    degrees in rotation; `.spz`: 2^-17 units in position (coarser for assets larger than 128 units), 3.2 % in scale,
    1/510 in opacity, 0.0037 in colour (clamped to 0.5 +- 0.94), 0.3 degrees in rotation, in version 2 up to 14 for
    turns by close to half a circle, since it derives w from x, y and z.

    Args:
        up: up axis of the file to write; None as in `read_splats`.
        spz_version: 3, or 2 for older readers.

    Raises:
        DataError: for an unknown suffix, values that the format cannot hold or a folder that takes no file. A file
            that was there before stays as it was.
        ConfigError: for an unknown axis or version.
    """
    suffix = _suffix(path)
    if _axis(up, suffix) == "y":
        gaussians = turned(gaussians)
    if spz_version not in spz.VERSIONS:
        raise ConfigError(f"spz_version must be one of {', '.join(map(str, spz.VERSIONS))}, got {spz_version}")
    with replacing(path) as stream:
        columns = Columns.of(gaussians)
        if suffix == ".spz":
            spz.write(stream, columns, spz_version)
        elif suffix == ".splat":
            splat.write(stream, columns)
        else:
            ply.write(stream, columns)


def _suffix(path: str | Path) -> str:
    suffix = Path(path).suffix.lower()
    if suffix not in _READ:
        raise DataError(path, f"unknown suffix {suffix!r} of a splat file; known: {', '.join(SUFFIXES)}")
    return suffix


def _axis(up: str | None, suffix: str) -> str:
    if up not in (None, "y", "z"):
        raise ConfigError(unknown_name("up axis", str(up), ("y", "z")))
    return up or _UP[suffix]
