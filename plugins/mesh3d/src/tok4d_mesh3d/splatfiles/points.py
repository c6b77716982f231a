"""Gaussians as coloured points, for programs that know no splats: `.ply` and `.glb`."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from tok4d.errors import ConfigError, DataError, unknown_name
from tok4d.model.gaussians import Gaussians
from tok4d_mesh3d.splatfiles.columns import Columns, Floats, to_byte
from tok4d_mesh3d.splatfiles.files import replacing
from tok4d_mesh3d.splatfiles.turns import turned

_UP = {".ply": "z", ".glb": "y"}  # glTF fixes its axes, PLY leaves them open
_ROW = np.dtype([("xyz", "<f4", 3), ("rgb", "u1", 3)])


def write_points(
    gaussians: Gaussians, path: str | Path, *, min_opacity: float = 0.1, up: Literal["y", "z"] | None = None
) -> None:
    """Write the centres of Z-up Gaussians and their colours, clamped to 8 bits; complete or not at all.

    Args:
        min_opacity: Gaussians below it are left out.
        up: up axis of the file; None: Z for `.ply` (x, y, z float; red, green, blue uchar), Y for `.glb` (one POINTS
            primitive; COLOR_0 is linear light, as glTF wants it, not sRGB).

    Raises:
        DataError: for an unknown suffix, when no Gaussian is left, and when the file cannot be written.
        ConfigError: for an opacity outside [0, 1] or an unknown axis.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in _UP:
        raise DataError(path, f"unknown suffix {suffix!r} of a point cloud; known: {', '.join(_UP)}")
    if not 0 <= min_opacity <= 1:
        raise ConfigError(f"min_opacity must be in [0, 1], got {min_opacity}")
    if up not in (None, "y", "z"):
        raise ConfigError(unknown_name("up axis", str(up), ("y", "z")))
    with replacing(path) as stream:
        columns = Columns.of(turned(gaussians) if (up or _UP[suffix]) == "y" else gaussians)
        kept = columns.opacities >= min_opacity
        if not kept.any():
            raise ValueError(f"none of {len(columns):,} Gaussians has an opacity of at least {min_opacity}")
        (_write_glb if suffix == ".glb" else _write_ply)(stream, columns.means[kept], columns.rgb[kept].clip(0, 1))


def _write_ply(stream: BinaryIO, xyz: Floats, rgb: Floats) -> None:
    lines = ["ply", "format binary_little_endian 1.0", f"element vertex {len(xyz)}"]
    lines += [f"property float {name}" for name in "xyz"]
    lines += [f"property uchar {name}" for name in ("red", "green", "blue")]
    stream.write("\n".join([*lines, "end_header", ""]).encode("ascii"))
    rows = np.empty(len(xyz), _ROW)
    rows["xyz"], rows["rgb"] = xyz, to_byte(rgb * 255)
    stream.write(rows.tobytes())


def _write_glb(stream: BinaryIO, xyz: Floats, rgb: Floats) -> None:
    import trimesh

    rgba = np.full((len(xyz), 4), 255, np.uint8)
    rgba[:, :3] = to_byte(255 * _linear(rgb))
    content = trimesh.Scene(trimesh.PointCloud(xyz, colors=rgba)).export(file_type="glb")
    assert isinstance(content, bytes)
    stream.write(content)


def _linear(srgb: Floats) -> NDArray[np.floating]:
    """Linear light of sRGB values in [0, 1] (IEC 61966-2-1)."""
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
