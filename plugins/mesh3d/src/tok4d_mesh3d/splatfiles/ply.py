"""3D Gaussians as PLY in the layout of the INRIA release: one vertex a Gaussian, all numbers float32.

Columns: x y z, nx ny nz (zero), f_dc_0..2 (constant spherical harmonic), optional f_rest_* (skipped), opacity as its
logit, scale_0..2 as natural logarithms of standard deviations, rot_0..3 = w x y z of any length.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from tok4d_mesh3d.splatfiles.columns import Columns, Floats
from tok4d_mesh3d.splatfiles.files import check_count, size_of
from tok4d_mesh3d.splatfiles.plyheader import COLOR, NEEDED, POSITION, ROTATION, SCALE, Header, read_header

_NORMAL = ("nx", "ny", "nz")
_CHUNK = 1 << 18  # rows: with all harmonics a row has 248 bytes, of which 56 are kept
_SMALLEST, _LARGEST = 1e-12, 1 - 2.0**-24  # opacities of which the logit is finite in float32


def read(stream: BinaryIO, max_splats: int) -> Columns:
    """The Gaussians of a PLY file: binary of either byte order, or text.

    Raises:
        ValueError: for another kind of PLY, too few bytes or too many Gaussians.
    """
    header = read_header(stream)
    if missing := header.missing:
        raise ValueError(f"is a PLY file but not one of 3D Gaussians: its vertices lack {', '.join(missing)}")
    check_count(header.count, max_splats)
    table = _empty(stream, header)
    (_fill_text if header.ascii else _fill_binary)(stream, header, table)

    def pick(names: Sequence[str]) -> Floats:
        return table[:, [NEEDED.index(name) for name in names]]

    with np.errstate(over="ignore"):  # an infinity is refused with its column's name
        opacities = 1 / (1 + np.exp(-pick(["opacity"])[:, 0].astype(np.float64)))
        return Columns(pick(POSITION), np.exp(pick(SCALE)), pick(ROTATION), opacities.astype(np.float32), pick(COLOR))


def write(stream: BinaryIO, columns: Columns) -> None:
    """Binary, little endian, without f_rest. Opacities 0 and 1 become the nearest whose logit is finite."""
    names = (*POSITION, *_NORMAL, *COLOR, "opacity", *SCALE, *ROTATION)
    lines = ["ply", "format binary_little_endian 1.0", f"element vertex {len(columns)}"]
    lines += [f"property float {name}" for name in names]
    stream.write("\n".join([*lines, "end_header", ""]).encode("ascii"))
    opacities = columns.opacities.astype(np.float64).clip(_SMALLEST, _LARGEST)
    parts: list[NDArray[Any]] = [
        columns.means,
        np.zeros_like(columns.means),
        columns.colors,
        (np.log(opacities) - np.log1p(-opacities))[:, None],
        np.log(columns.scales),
        columns.quaternions,
    ]
    for start in range(0, len(columns), _CHUNK):
        rows = [part[start : start + _CHUNK].astype("<f4") for part in parts]
        stream.write(np.concatenate(rows, 1).tobytes())


def _empty(stream: BinaryIO, header: Header) -> Floats:
    """Room for the rows, once the file is known to hold them all."""
    least = 2 * len(header.row.names or ()) if header.ascii else header.row.itemsize  # text: a digit and a space each
    wanted, there = header.count * least, size_of(stream) - header.start + header.ascii
    if there < wanted:
        raise ValueError(f"is truncated: {header.count:,} Gaussians take {wanted:,} bytes, there are {there:,}")
    return np.empty((header.count, len(NEEDED)), np.float32)


def _fill_binary(stream: BinaryIO, header: Header, table: Floats) -> None:
    for start in range(0, header.count, _CHUNK):
        count = min(_CHUNK, header.count - start)
        rows = np.frombuffer(stream.read(count * header.row.itemsize), header.row)
        for i, name in enumerate(NEEDED):
            table[start : start + count, i] = rows[name]


def _fill_text(stream: BinaryIO, header: Header, table: Floats) -> None:
    names = list(header.row.names or ())
    wanted = [names.index(name) for name in NEEDED]
    for start in range(0, header.count, _CHUNK):
        count = min(_CHUNK, header.count - start)
        lines = list(islice(stream, count))
        if len(lines) < count:
            raise ValueError(f"is truncated: {header.count:,} Gaussians wanted, {start + len(lines):,} found")
        with np.errstate(over="ignore"):
            table[start : start + count] = np.loadtxt(lines, usecols=wanted, ndmin=2, comments=None, encoding="latin-1")
