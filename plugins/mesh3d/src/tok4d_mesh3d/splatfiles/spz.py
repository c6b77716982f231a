"""3D Gaussians as `.spz`, versions 2 and 3 (format description of Niantic's spz): one gzip stream, 20 bytes each.

Header, 16 bytes: magic, version, count (uint32 each), degree of harmonics, fractional bits, flags, reserved (uint8).
Then all positions, all opacities, all colours, all scales, all rotations, all higher harmonics (skipped):
position 3 x int24 / 2^fractional bits; opacity uint8 / 255; colour 3 x uint8 = 255 (0.5 + 0.15 f_dc);
scale 3 x uint8 = 16 (10 + log s); rotation, see `spzrotation`. All little endian, right-handed with y up.
"""

from __future__ import annotations

import struct
import zlib
from gzip import GzipFile
from math import floor, log2
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from tok4d_mesh3d.splatfiles.columns import Columns, Floats, to_byte
from tok4d_mesh3d.splatfiles.files import check_count
from tok4d_mesh3d.splatfiles.spzrotation import pack_three, pack_xyz, unpack_three, unpack_xyz

VERSIONS = (2, 3)
MAGIC = 0x5053474E
_HEADER = struct.Struct("<IIIBBBB")
_ANTIALIASED, _EXTENDED = 1, 2  # flags: trained with a compensated 2D filter, as ours are; more data at the end
_COLOR = 0.15
_BITS = 16  # fractional bits of positions at most: 1.5e-5 units, with room up to 128
_CHUNK = 1 << 20


def read(stream: BinaryIO, max_splats: int) -> Columns:
    """The Gaussians of an SPZ file. What its header implies is decompressed and not a byte more.

    Raises:
        ValueError, OSError: for another version, broken or truncated data, or too many Gaussians.
    """
    start = stream.read(2)
    stream.seek(0)
    if start == b"NG":
        raise ValueError("is an SPZ file of version 4 or later; versions 2 and 3 can be read")
    if start != b"\x1f\x8b":
        raise ValueError("is not an SPZ file: it is not compressed with gzip")
    try:
        with GzipFile(fileobj=stream, mode="rb") as data:
            return _read(data, max_splats)
    except zlib.error as error:
        raise ValueError(f"holds broken compressed data: {error}") from None


def _read(data: GzipFile, max_splats: int) -> Columns:
    header = data.read(_HEADER.size)
    if len(header) < _HEADER.size:
        raise ValueError("is truncated inside its header")
    magic, version, count, degree, bits, flags, _ = _HEADER.unpack(header)
    if magic != MAGIC:
        raise ValueError(f"is not an SPZ file: it starts with {magic:#010x} instead of {MAGIC:#010x}")
    if version not in VERSIONS:
        raise ValueError(f"is an SPZ file of version {version}; versions 2 and 3 can be read")
    if degree > 4 or bits > 23:
        raise ValueError(f"has an SPZ header with harmonics of degree {degree} and {bits} fractional bits")
    check_count(count, max_splats)
    fixed = _take(data, count, 9).reshape(count, 3, 3).astype(np.int32)
    fixed = fixed[..., 0] | fixed[..., 1] << 8 | fixed[..., 2].astype(np.int8).astype(np.int32) << 16
    opacities = _take(data, count, 1)[:, 0]
    colors, scales = _take(data, count, 3), _take(data, count, 3)
    quaternions = unpack_three(_take(data, count, 4)) if version == 3 else unpack_xyz(_take(data, count, 3))
    _skip(data, count * 3 * ((degree + 1) ** 2 - 1))
    if not flags & _EXTENDED and data.read(1):
        raise ValueError("holds more data than its header says")
    return Columns(
        means=(fixed / 2.0**bits).astype(np.float32),
        scales=np.exp(scales.astype(np.float32) / 16 - 10),
        quaternions=quaternions,
        opacities=opacities.astype(np.float32) / 255,
        colors=(colors.astype(np.float32) / 255 - 0.5) / _COLOR,
    )


def write(stream: BinaryIO, columns: Columns, version: int) -> None:
    """Compressed; the same Gaussians give the same bytes.

    Raises:
        ValueError: for positions beyond 2^23 units or scales outside [4.5e-5, 380].
    """
    bits = _fractional_bits(columns.means)
    steps = 16 * (np.log(columns.scales) + 10)
    if bad := int(((steps < -0.5) | (steps > 255.5)).any(1).sum()):
        raise ValueError(f"scales of {bad:,} of {len(columns):,} Gaussians are outside the [4.5e-5, 380] of .spz")
    fixed = np.rint(columns.means.astype(np.float64) * 2.0**bits).astype("<i4")
    three_bytes = np.ascontiguousarray(fixed).view(np.uint8).reshape(-1, 3, 4)[..., :3]
    rotations = pack_three(columns.quaternions) if version == 3 else pack_xyz(columns.quaternions)
    with GzipFile(filename="", mode="wb", fileobj=stream, mtime=0) as data:
        data.write(_HEADER.pack(MAGIC, version, len(columns), 0, bits, _ANTIALIASED, 0))
        data.write(three_bytes.tobytes())
        data.write(to_byte(columns.opacities * 255).tobytes())
        data.write(to_byte(255 * (0.5 + _COLOR * columns.colors)).tobytes())
        data.write(to_byte(steps).tobytes())
        data.write(rotations.tobytes())


def _fractional_bits(means: Floats) -> int:
    """As many as leave room for the farthest position in 24 bits with sign."""
    farthest = float(np.abs(means).max(initial=0.0))
    bits = _BITS if farthest == 0 else min(_BITS, floor(log2((2**23 - 1) / farthest)))
    if bits < 0:
        raise ValueError(f"a position of {farthest:.3g} is beyond the 2^23 that .spz can hold")
    return bits


def _take(data: GzipFile, count: int, width: int) -> NDArray[np.uint8]:
    """`[count, width]` bytes."""
    content = data.read(count * width)
    if len(content) < count * width:
        raise ValueError(f"is truncated: {count:,} Gaussians wanted, its data ends before")
    return np.frombuffer(content, np.uint8).reshape(count, width)


def _skip(data: GzipFile, length: int) -> None:
    while length > 0:
        content = data.read(min(length, _CHUNK))
        if not content:
            raise ValueError(f"is truncated: {length:,} bytes of harmonics are missing")
        length -= len(content)
