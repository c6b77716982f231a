"""The frames of a file in presentation order, found by reading its packets once; nothing but the first is decoded.

N = frames. What headers say about length and rate is not believed. Packets are counted; where they do not tell (no
time stamps, VP8 with its hidden frames) frames are decoded and counted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tok4d.errors import DataError
from tok4d_video.ffmpeg import open_input, readable

_SEEKING = {"mov", "matroska", "avi"}  # containers that find a key frame by its time stamp without fail
_UNSTATED = {"avi"}  # no presentation times in the file: with reordered frames they are guessed
_HIDING = ("vp8",)  # codecs with packets that show nothing
_IDR = 5  # NAL unit type, ITU-T H.264 table 7-1


@dataclass(frozen=True)
class FrameIndex:
    """Attributes:
    stamps: presentation time of every frame `[N]` int64, rising, in units of `unit` seconds.
    unit: seconds per stamp.
    last: how long the last frame is taken to be shown, in the same units: as long as frames usually are.
    starts: numbers of the frames at which decoding may start and gives all frames from there on; the first is 0.
    exact: every frame's stamp is known and no two are equal, so that frames can be found by stamp.
    """

    stamps: NDArray[np.int64]
    unit: Fraction
    last: int
    starts: NDArray[np.int64]
    exact: bool

    def __len__(self) -> int:
        return len(self.stamps)

    @property
    def duration(self) -> Fraction:
        """Seconds from the first frame's beginning to the last one's end."""
        return (int(self.stamps[-1] - self.stamps[0]) + self.last) * self.unit

    @property
    def times(self) -> NDArray[np.float64]:
        """Seconds from the first frame at which each is shown `[N]`."""
        return (self.stamps - self.stamps[0]) * float(self.unit)

    def start_before(self, number: int) -> int:
        """The latest frame at which decoding may start to reach this one."""
        return int(self.starts[np.searchsorted(self.starts, number, side="right") - 1])

    def number_of(self, stamp: int | None) -> int | None:
        """The frame with this stamp, or None."""
        if stamp is None or not self.exact:
            return None
        number = int(np.searchsorted(self.stamps, stamp))
        return number if number < len(self) and self.stamps[number] == stamp else None


class _Packet(NamedTuple):
    stamp: int | None
    length: int
    key: bool


def scan(container: Any, stream: Any, path: str | Path) -> tuple[FrameIndex, Any]:
    """Index of the stream and its first frame, decoded.

    Raises:
        DataError: when nothing can be decoded, or packets are cut off.
    """
    packets: list[_Packet] = []
    first: Any = None
    with readable(path, "has damaged video data"):
        for packet in container.demux(stream):
            if first is None:
                first = next(iter(decoded(stream.codec_context, packet)), None)
            if not packet.size:
                continue  # no picture: the one before stays on
            if packet.is_corrupt:
                raise DataError(path, f"is truncated or damaged at packet {len(packets)}")
            if not packet.is_discard:
                key = bool(packet.is_keyframe) and (not packets or _restarts(stream.codec_context, packet))
                packets.append(_Packet(packet.pts, packet.duration or 0, key))
    if first is None:
        raise DataError(path, "has no frame that can be decoded")
    if _tells(packets, stream):
        return _index_packets(packets, container, stream), first
    return _index_decoded(path, stream), first


def decoded(decoder: Any, packet: Any) -> Iterator[Any]:
    """Frames that come out with a packet; an empty one in mid-stream, which decoders refuse, shows nothing new."""
    if packet.size or packet.dts is None:
        yield from decoder.decode(packet)


def _tells(packets: list[_Packet], stream: Any) -> bool:
    stamps = [packet.stamp for packet in packets]
    known = None not in stamps and len(set(stamps)) == len(stamps)
    return known and packets[0].key and stream.codec_context.name not in _HIDING


def _restarts(codec: Any, packet: Any) -> bool:
    """Whether a key frame is complete in itself: H.264 also marks points from which pictures recover bit by bit."""
    return codec.name != "h264" or _IDR in _nal_types(bytes(packet), codec.extradata or b"")


def _nal_types(data: bytes, extradata: bytes) -> Iterator[int]:
    """Types of an H.264 packet's NAL units: length-prefixed (MP4, Matroska) or with start codes."""
    place = 0
    if extradata[:1] == b"\x01" and len(extradata) > 4:
        width = (extradata[4] & 3) + 1
        while place + width < len(data):
            yield data[place + width] & 31
            place += width + int.from_bytes(data[place : place + width], "big")
        return
    while 0 <= (place := data.find(b"\0\0\1", place)) < len(data) - 3:
        yield data[place + 3] & 31
        place += 3


def _index_packets(packets: list[_Packet], container: Any, stream: Any) -> FrameIndex:
    stamps = np.array([packet.stamp for packet in packets], dtype=np.int64)
    keys = np.array([packet.key for packet in packets])
    names = container.format.name.split(",")
    order = np.argsort(stamps)
    starts = np.zeros(1, dtype=np.int64)
    guessed = stream.codec_context.has_b_frames and not _UNSTATED.isdisjoint(names)
    if not _SEEKING.isdisjoint(names) and not guessed:
        # Open groups of pictures: frames shown before the key frame come after it. Decoding cannot start there.
        after = np.minimum.accumulate(stamps[::-1])[::-1]
        before = np.maximum.accumulate(np.concatenate([stamps[:1] - 1, stamps[:-1]]))
        clean = keys & (after == stamps) & (before < stamps)
        starts = np.union1d(starts, np.searchsorted(stamps[order], stamps[clean]))
    if stream.codec_context.name in ("gif", "apng"):  # frames build on all those before, whatever the packets say
        starts = starts[:1]
    # Containers state one length for all frames or none, whatever the true gaps are; a single frame has nothing else.
    last = _usual_gap(stamps[order]) or packets[0].length
    return FrameIndex(stamps[order], Fraction(stream.time_base), last, starts, exact=True)


def _index_decoded(path: str | Path, stream: Any) -> FrameIndex:
    """Count by decoding. Where stamps are missing or do not rise, frames are taken to be evenly spaced."""
    found: list[int | None] = []
    with open_input(path) as container, readable(path, "has damaged video data"):
        again = container.streams[stream.index]
        for packet in container.demux(again):
            found += [frame.pts for frame in decoded(again.codec_context, packet)]
    if not found:
        raise DataError(path, "has no frame that can be decoded")
    known = [stamp for stamp in found if stamp is not None]
    if len(known) == len(found) and (np.diff(known) > 0).all():
        stamps = np.array(known, dtype=np.int64)
        return FrameIndex(stamps, Fraction(stream.time_base), _usual_gap(stamps), np.zeros(1, dtype=np.int64), False)
    unit = 1 / Fraction(stream.average_rate or stream.guessed_rate or 25)
    return FrameIndex(np.arange(len(found)), unit, 1, np.zeros(1, dtype=np.int64), False)


def _usual_gap(stamps: NDArray[np.int64]) -> int:
    return int(np.median(np.diff(stamps))) if len(stamps) > 1 else 0
