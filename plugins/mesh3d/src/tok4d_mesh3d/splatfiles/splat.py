"""3D Gaussians as `.splat`: 32 bytes each, nothing else, all little endian.

Bytes: position 3 x float32; standard deviations 3 x float32; red, green, blue, opacity as 0..255; rotation w x y z as
128 + 128 q, so 0..255. Colours outside [0, 1] are clamped.
"""

from __future__ import annotations

from typing import BinaryIO

import numpy as np

from tok4d.model.gaussians import SH_DC
from tok4d_mesh3d.splatfiles.columns import Columns, to_byte
from tok4d_mesh3d.splatfiles.files import check_count, size_of

_ROW = np.dtype([("means", "<f4", 3), ("scales", "<f4", 3), ("rgba", "u1", 4), ("rotation", "u1", 4)])


def read(stream: BinaryIO, max_splats: int) -> Columns:
    """The Gaussians of a `.splat` file.

    Raises:
        ValueError: for a size that is not whole Gaussians, too many of them, or another format under that suffix.
    """
    count, rest = divmod(size_of(stream), _ROW.itemsize)
    if stream.peek(4)[:4] in (b"ply\n", b"ply\r") or stream.peek(2)[:2] == b"\x1f\x8b":  # type: ignore[attr-defined]
        raise ValueError("is not a .splat file but a PLY or compressed one: rename it after its format")
    if rest:
        raise ValueError(f"is truncated or no .splat file: {rest} bytes more than {count:,} Gaussians of 32")
    check_count(count, max_splats)
    rows = np.fromfile(stream, _ROW, count)
    rgba = rows["rgba"].astype(np.float32) / 255
    return Columns(
        means=rows["means"].astype(np.float32),
        scales=rows["scales"].astype(np.float32),
        quaternions=(rows["rotation"].astype(np.float32) - 128) / 128,
        opacities=rgba[:, 3],
        colors=(rgba[:, :3] - 0.5) / SH_DC,
    )


def write(stream: BinaryIO, columns: Columns) -> None:
    """All Gaussians in their order.

    Raises:
        ValueError: when there is none: a file of no bytes says nothing.
    """
    if len(columns) == 0:
        raise ValueError("a .splat file cannot hold 0 Gaussians; .ply can")
    rows = np.empty(len(columns), _ROW)
    rows["means"], rows["scales"] = columns.means, columns.scales
    rows["rgba"][:, :3] = to_byte(columns.rgb * 255)
    rows["rgba"][:, 3] = to_byte(columns.opacities * 255)
    # 128 + 128 * 1 does not fit a byte, 128 - 128 does: the same rotation with its largest component negative.
    largest = np.take_along_axis(columns.quaternions, np.abs(columns.quaternions).argmax(1)[:, None], 1)
    rows["rotation"] = to_byte(columns.quaternions * np.where(largest > 0, -1, 1) * 128 + 128)
    stream.write(rows.tobytes())
