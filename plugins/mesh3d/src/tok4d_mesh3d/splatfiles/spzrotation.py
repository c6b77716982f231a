"""Rotations in SPZ files, between bytes and unit quaternions w, x, y, z `[N, 4]`.

Version 2: x, y, z of the quaternion with w >= 0 as bytes 127.5 (1 + q). Version 3: a uint32; its two highest bits name
the largest of x, y, z, w, which is not stored; the other three follow in that order, 10 bits each from the highest:
a sign, then 9 bits of the magnitude in units of sqrt(1/2) / 511.
"""

from __future__ import annotations

from math import sqrt

import numpy as np
from numpy.typing import NDArray

from tok4d_mesh3d.splatfiles.columns import Floats, to_byte

_STEP = sqrt(0.5) / 511
_SHIFTS = np.array([20, 10, 0], np.uint32)


def pack_xyz(quaternions: Floats) -> NDArray[np.uint8]:
    """Version 2, `[N, 3]`."""
    positive = quaternions * np.where(quaternions[:, :1] < 0, -1, 1)
    return to_byte(127.5 * (1 + positive[:, 1:]))


def unpack_xyz(packed: NDArray[np.uint8]) -> Floats:
    """Version 2 of bytes `[N, 3]`."""
    xyz = packed.astype(np.float32) / 127.5 - 1
    w = np.sqrt(np.maximum(0, 1 - np.square(xyz).sum(1, keepdims=True)))
    return np.concatenate([w, xyz], 1)


def pack_three(quaternions: Floats) -> NDArray[np.uint32]:
    """Version 3, `[N]` little endian."""
    xyzw = np.roll(quaternions, -1, 1)
    largest = np.abs(xyzw).argmax(1)
    rest = np.take_along_axis(xyzw, _others(largest), 1)
    rest = rest * np.where(np.take_along_axis(xyzw, largest[:, None], 1) < 0, -1, 1)
    magnitude = np.minimum(np.rint(np.abs(rest) / _STEP), 511).astype(np.uint32)
    pieces = (magnitude | (rest < 0).astype(np.uint32) << np.uint32(9)) << _SHIFTS
    return (largest.astype(np.uint32) << np.uint32(30) | np.bitwise_or.reduce(pieces, axis=1)).astype("<u4")


def unpack_three(packed: NDArray[np.uint8]) -> Floats:
    """Version 3 of bytes `[N, 4]`."""
    words = np.ascontiguousarray(packed).view("<u4")
    pieces = words >> _SHIFTS
    rest = (pieces & 511) * np.where(pieces & 512, -_STEP, _STEP)
    largest = (words[:, 0] >> 30).astype(np.intp)
    xyzw = np.empty((len(words), 4), np.float64)
    np.put_along_axis(xyzw, _others(largest), rest, 1)
    np.put_along_axis(xyzw, largest[:, None], np.sqrt(np.maximum(0, 1 - np.square(rest).sum(1, keepdims=True))), 1)
    return np.roll(xyzw, 1, 1).astype(np.float32)


def _others(largest: NDArray[np.intp]) -> NDArray[np.intp]:
    """The three of 0..3 that are not `largest`, ascending, `[N, 3]`."""
    three = np.arange(3)[None]
    return three + (three >= largest[:, None])
