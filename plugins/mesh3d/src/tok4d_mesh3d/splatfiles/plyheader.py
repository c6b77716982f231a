"""The header of a PLY file (Turk, "The PLY Polygon File Format", 1994): which rows follow, and of which numbers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

_TYPES = {
    "char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4",
    "float": "f4", "double": "f8",
    "int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4",
    "float32": "f4", "float64": "f8",
}  # fmt: skip
_ORDERS = {"ascii": "=", "binary_little_endian": "<", "binary_big_endian": ">"}
MAX_HEADER = 1 << 16  # bytes; a header with 62 properties takes about 1,500

# One number each, in the order in which the INRIA layout lists them.
POSITION = ("x", "y", "z")
COLOR = ("f_dc_0", "f_dc_1", "f_dc_2")
SCALE = ("scale_0", "scale_1", "scale_2")
ROTATION = ("rot_0", "rot_1", "rot_2", "rot_3")
NEEDED = (*POSITION, *COLOR, "opacity", *SCALE, *ROTATION)


@dataclass(frozen=True)
class Header:
    """What a PLY file's first element holds.

    Attributes:
        ascii: numbers are text, one row a line; otherwise binary.
        count: rows.
        row: structured type of one row.
        start: first byte after the header.
    """

    ascii: bool
    count: int
    row: np.dtype[np.void]
    start: int

    @property
    def missing(self) -> list[str]:
        """Properties of 3D Gaussians that the rows lack."""
        return [name for name in NEEDED if name not in (self.row.names or ())]


def is_splat_ply(path: str | Path) -> bool:
    """Whether a file's header is that of a PLY of 3D Gaussians rather than of a mesh or of plain points.

    Raises:
        OSError: when the file cannot be opened.
    """
    with Path(path).open("rb") as stream:
        try:
            return not read_header(stream).missing
        except ValueError:
            return False


def read_header(stream: BinaryIO) -> Header:
    """The header at the start of a file; the stream is left at the first row.

    Raises:
        ValueError: when it is none, too long, or describes rows of variable length.
    """
    lines = _lines(stream)
    order = _ORDERS.get(lines[1][1]) if len(lines[1]) == 3 and lines[1][0] == "format" else None
    if order is None or lines[1][2] != "1.0":
        raise ValueError(f"has a PLY header with an unknown format {' '.join(lines[1])!r}")
    elements = [i for i, line in enumerate(lines) if line[0] == "element"]
    if not elements or len(lines[elements[0]]) != 3 or lines[elements[0]][1] != "vertex":
        raise ValueError("has a PLY header whose first element is not 'vertex'")
    end = elements[1] if len(elements) > 1 else len(lines)
    row = [_property(line, order) for line in lines[elements[0] + 1 : end]]
    names = [name for name, _ in row]
    if not names or len(set(names)) < len(names):
        raise ValueError("has a PLY header with no properties or with one twice")
    return Header(lines[1][1] == "ascii", _count(lines[elements[0]][2]), np.dtype(row), stream.tell())


def _lines(stream: BinaryIO) -> list[list[str]]:
    """The words of each header line but comments; at least `ply` and the line after it."""
    if stream.read(3) != b"ply" or stream.readline(3).strip():
        raise ValueError("is not a PLY file: it does not start with 'ply'")
    lines = [["ply"]]
    while stream.tell() < MAX_HEADER:
        line = stream.readline(MAX_HEADER)
        words = line.decode("ascii", "replace").split()
        if not line:
            break
        if words == ["end_header"]:
            if len(lines) < 2:
                raise ValueError("has a PLY header without a format")
            return lines
        if words and words[0] not in ("comment", "obj_info"):
            lines.append(words)
    raise ValueError(f"has no end_header within the first {MAX_HEADER:,} bytes")


def _property(words: list[str], order: str) -> tuple[str, str]:
    if len(words) != 3 or words[0] != "property" or words[1] not in _TYPES:
        raise ValueError(f"has a PLY vertex with {' '.join(words)[:60]!r}; wanted 'property TYPE NAME'")
    return words[2], order + _TYPES[words[1]]


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        raise ValueError(f"has a PLY header with {text[:20]!r} as the number of vertices")
    return int(text)
