"""Voxels as a PLY: a cloud of coloured points for every program, and what the voxels hold behind it.

Binary, little endian. The first element, `vertex`, has the middles of the voxels and a colour each. The second,
`voxel`, has x, y, z in the grid and the 768 values of the voxel's picture as bytes: other programs skip it, `read`
restores the sample from it to 1/255. A comment gives the grid's resolution.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch

from tok4d.modality import Sample
from tok4d.model.gaussians import Gaussians
from tok4d_mesh3d.samples import CHANNELS, COORDS, VOXELS, coarse_gaussians, resolution_of
from tok4d_mesh3d.splatfiles.files import reading, replacing, size_of

MAX_VOXELS = 1 << 22
MAX_RESOLUTION = 512
_COMMENT = "comment tok4d voxels, resolution "
_POINT = np.dtype([("xyz", "<f4", 3), ("rgb", "u1", 3)])
_VOXEL = np.dtype([("xyz", "<u2", 3), ("count", "<u2"), ("pixels", "u1", CHANNELS)])
_HEADER = re.compile(re.escape(_COMMENT).encode() + rb"(\d{1,6})\nelement vertex (\d{1,12})\n")


def write_voxels(sample: Sample, path: str | Path, default_resolution: int) -> None:
    """Write a sample's voxels, values clamped to [-1, 1]; complete or not at all.

    Raises:
        DataError: for values that are not finite, or a folder that takes no file.
    """
    resolution = resolution_of(sample, default_resolution)
    with replacing(path) as stream:
        points = coarse_gaussians(sample, resolution)
        values = sample.data[VOXELS].detach().cpu().float().clamp(-1, 1)
        voxels = np.empty(len(values), _VOXEL)
        voxels["xyz"], voxels["count"] = sample.data[COORDS].cpu().numpy(), CHANNELS
        voxels["pixels"] = ((values + 1) * 127.5).round().to(torch.uint8).numpy()
        stream.write(_header(len(values), resolution))
        stream.write(_points(points).tobytes())
        stream.write(voxels.tobytes())


def is_voxel_ply(path: str | Path) -> bool:
    """Whether a file is a PLY that `write_voxels` made.

    Raises:
        OSError: when it cannot be opened.
    """
    with Path(path).open("rb") as stream:
        return stream.read(3) == b"ply" and _HEADER.search(stream.read(256)) is not None


def read_voxels(path: str | Path, modality: str) -> Sample:
    """The sample of a file of `write_voxels`.

    Raises:
        DataError: when it is missing, truncated, damaged or too large.
    """
    with reading(path) as stream:
        return _read(stream, modality, str(path))


def _read(stream: BinaryIO, modality: str, key: str) -> Sample:
    start = stream.read(1024)
    found = _HEADER.search(start)
    if found is None:
        raise ValueError("is no PLY file of voxels")
    resolution, count = int(found[1]), int(found[2])
    header = _header(count, resolution)
    if not 1 <= resolution <= MAX_RESOLUTION or count > MAX_VOXELS or not start.startswith(header):
        raise ValueError(f"has a damaged header of {count:,} voxels in a grid of {resolution}^3")
    if (wanted := len(header) + count * (_POINT.itemsize + _VOXEL.itemsize)) != size_of(stream):
        raise ValueError(
            f"is truncated or damaged: its {count:,} voxels take {wanted:,} bytes, not {size_of(stream):,}"
        )
    stream.seek(len(header) + count * _POINT.itemsize)
    rows = np.frombuffer(stream.read(), _VOXEL)
    if bool((rows["count"] != CHANNELS).any()) or bool((rows["xyz"] >= resolution).any()):
        raise ValueError("holds a voxel outside of its grid, or one of another size")
    values = torch.from_numpy(rows["pixels"].astype(np.float32)) / 127.5 - 1
    coords = torch.from_numpy(rows["xyz"].astype(np.int32))
    return Sample(modality, {VOXELS: values, COORDS: coords}, key=key, meta={"resolution": resolution})


def _header(count: int, resolution: int) -> bytes:
    lines = ["ply", "format binary_little_endian 1.0", f"{_COMMENT}{resolution}", f"element vertex {count}"]
    lines += [f"property float {name}" for name in "xyz"]
    lines += [f"property uchar {name}" for name in ("red", "green", "blue")]
    lines += [f"element voxel {count}", *(f"property ushort {name}" for name in "xyz")]
    return "\n".join([*lines, "property list ushort uchar pixels", "end_header", ""]).encode("ascii")


def _points(points: Gaussians) -> np.ndarray:
    rows = np.empty(len(points), _POINT)
    rows["xyz"] = points.means.cpu().numpy()
    rows["rgb"] = (points.rgb.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
    return rows
