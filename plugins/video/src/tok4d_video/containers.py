"""Is a file whole? Containers say how long they are; a file that ends before that was cut off.

Decoders conceal what is missing, and headers that lie about the duration are common, so neither shows a truncated
file. The lengths of its boxes do. Sources: ISO/IEC 14496-12 (boxes), RFC 8794 and 9559 (EBML, Matroska), the RIFF and
GIF89a specifications. Files written live leave lengths open: they pass.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

from tok4d.errors import DataError

_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot", b"styp", b"moof", b"sidx", b"uuid")


def check_whole(path: str | Path) -> None:
    """Refuse a file that ends before its container does.

    Raises:
        DataError: with the number of bytes missing.
    """
    try:
        with Path(path).open("rb") as stream:
            size = stream.seek(0, 2)
            stream.seek(0)
            end = _end(stream, size)
    except OSError as error:
        raise DataError(path, f"cannot be read ({error.strerror})") from None
    if end > size:
        raise DataError(path, f"is truncated: it has {size:,} bytes, its container says at least {end:,}")


def _end(stream: BinaryIO, size: int) -> int:
    """Where the container ends, as far as it says; 0 when it does not."""
    head = stream.read(12)
    if head[4:8] in _BOXES:
        return _boxes_end(stream, size)
    if head[:4] == b"RIFF" and head[8:] == b"AVI ":
        return _riff_end(stream, size)
    if head[:4] == _EBML:
        return _segment_end(stream, size)
    if head[:3] == b"GIF":
        return _gif_end(stream, size)
    return 0


def _boxes_end(stream: BinaryIO, size: int) -> int:
    """End of the last top-level box of MP4 and QuickTime; a length of 0 means up to the end of the file."""
    place = 0
    while place + 8 <= size:
        stream.seek(place)
        length, kind = struct.unpack(">I4s", stream.read(8))
        if length == 1:
            wide = stream.read(8)
            length = int.from_bytes(wide, "big") if len(wide) == 8 else 16
        if length < 8 or not kind.isalnum():  # up to the end, or padding that is no box
            return 0
        place += length
    return place


def _riff_end(stream: BinaryIO, size: int) -> int:
    """End of the last RIFF chunk: long files hold several, one after the other."""
    place = 0
    while place + 8 <= size:
        stream.seek(place)
        kind, length = struct.unpack("<4sI", stream.read(8))
        if kind not in (b"RIFF", b"JUNK") or length in (0, 0xFFFFFFFF):
            return 0
        place += 8 + length  # the padding byte of an odd length may be left out at the end
        place += place % 2 if place < size else 0
    return place


def _segment_end(stream: BinaryIO, size: int) -> int:
    """End of the Segment of Matroska and WebM; an unknown length is all ones."""
    place = 0
    for _ in range(16):
        stream.seek(place)
        name = stream.read(4)
        length, octets = _ebml_length(stream)
        if length is None or len(name) < 4:
            return 0
        place += 4 + octets + length
        if name == _SEGMENT:
            return place
        if place >= size:
            return place
    return 0


def _ebml_length(stream: BinaryIO) -> tuple[int | None, int]:
    """A variable-length number and how many octets it takes; None: unknown or none."""
    first = stream.read(1)
    if not first or not first[0]:
        return None, 1
    octets = 9 - first[0].bit_length()
    value = int.from_bytes(bytes([first[0] & (0xFF >> octets)]) + stream.read(octets - 1), "big")
    return (None if value == (1 << 7 * octets) - 1 else value), octets


def _gif_end(stream: BinaryIO, size: int) -> int:
    """A GIF ends with a trailer byte, which some writers pad."""
    stream.seek(max(0, size - 64))
    return 0 if stream.read().rstrip(b"\0").endswith(b"\x3b") else size + 1
