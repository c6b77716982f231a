"""Gaussians in 16 bytes each, as the viewer's shader reads them: four uint32, little endian, one texel.

Low bits first. Word 0: x, y (16 bits each). Word 1: z (16), scale 0, scale 1 (8 each). Word 2: scale 2 (8), rotation:
index of the largest of w, x, y, z (2), the other three in order (7 each). Word 3: red, green, blue, opacity (8 each).
Positions are steps of the bounding box, scales steps of the logarithm between the asset's smallest and largest.
Errors at most: position 1/131,070 of the box's side, scale 1/510 of the logarithmic range, rotation 2.3 degrees, colour
(clamped to [0, 1]) and opacity 1/510.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from tok4d.model.gaussians import Gaussians
from tok4d_mesh3d.splatfiles.columns import Columns, to_byte

LEVELS = 63  # on each side of zero, so that zero is exact; a component that is not the largest is at most sqrt(1/2)


@dataclass(frozen=True)
class Packed:
    """Packed Gaussians and what their numbers mean.

    Attributes:
        content: 16 bytes a Gaussian.
        count, total: Gaussians packed, and those that there were.
        origin, extent: smallest corner and sides of the bounding box.
        scale: smallest logarithm of a scale, and one step of it.
    """

    content: bytes
    count: int
    total: int
    origin: list[float]
    extent: list[float]
    scale: list[float]


def pack(gaussians: Gaussians, max_splats: int) -> Packed:
    """The Gaussians in their order; when there are too many, those that hide most: opacity times area.

    Raises:
        ValueError: for no Gaussians, or values that are none.
    """
    if len(gaussians) == 0:
        raise ValueError("there are no Gaussians to show")
    columns = _kept(Columns.of(gaussians), max_splats)
    low, high = columns.means.min(0), columns.means.max(0)
    position = _steps(columns.means, low, high, 65535)
    logs = np.log(columns.scales)
    scale = _steps(logs, logs.min(), logs.max(), 255)
    rgba = np.concatenate([to_byte(columns.rgb * 255), to_byte(columns.opacities * 255)[:, None]], 1).astype(np.uint32)
    words = np.empty((len(columns), 4), "<u4")
    words[:, 0] = position[:, 0] | position[:, 1] << 16
    words[:, 1] = position[:, 2] | scale[:, 0] << 16 | scale[:, 1] << 24
    words[:, 2] = scale[:, 2] | _rotations(columns.quaternions) << 8
    words[:, 3] = rgba[:, 0] | rgba[:, 1] << 8 | rgba[:, 2] << 16 | rgba[:, 3] << 24
    return Packed(
        content=words.tobytes(),
        count=len(columns),
        total=len(gaussians),
        origin=[float(x) for x in low],
        extent=[float(x) for x in high - low],
        scale=[float(logs.min()), float(logs.max() - logs.min()) / 255],
    )


def _kept(columns: Columns, limit: int) -> Columns:
    if len(columns) <= limit:
        return columns
    widths = np.sort(columns.scales, 1)
    hidden = columns.opacities * widths[:, 1] * widths[:, 2]
    index = np.sort(np.argpartition(-hidden, limit - 1)[:limit])
    return Columns(*(part[index] for part in vars(columns).values()))


def _steps(
    values: NDArray[np.floating], low: NDArray[np.floating], high: NDArray[np.floating], steps: int
) -> NDArray[np.uint32]:
    """0..steps between low and high; 0 where they are equal."""
    span = np.where(high > low, high.astype(np.float64) - low, 1.0)
    return np.rint((values.astype(np.float64) - low) / span * steps).astype(np.uint32)


def _rotations(quaternions: NDArray[np.floating]) -> NDArray[np.uint32]:
    """23 bits each."""
    largest = np.abs(quaternions).argmax(1)[:, None]
    positive = quaternions * np.where(np.take_along_axis(quaternions, largest, 1) < 0, -1, 1)
    three = np.arange(3)[None]
    rest = np.take_along_axis(positive, three + (three >= largest), 1)
    steps = np.clip(np.rint(rest * (LEVELS * sqrt(2))) + LEVELS, 0, 2 * LEVELS).astype(np.uint32)
    return largest[:, 0].astype(np.uint32) | steps[:, 0] << 2 | steps[:, 1] << 9 | steps[:, 2] << 16
