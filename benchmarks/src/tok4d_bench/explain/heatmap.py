"""A grid of numbers as a picture, without a plotting library."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

CELL = 48  # pixels a side
SHADES = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))  # dark is low; even in grey too
NOTHING = (128, 128, 128)


def heat_map(values: Sequence[Sequence[float]], path: Path) -> None:
    """Write a PNG: `values[i][j]` in row i from the bottom and column j, on a logarithmic scale where all are positive.

    Values that are not finite are grey; the centre has a frame.

    Raises:
        OSError: when it cannot be written.
    """
    from PIL import Image, ImageDraw

    from tok4d.weights.folder import replacing

    grid = np.array(values, dtype=np.float64)[::-1]
    pixels = np.kron(shades(grid), np.ones((CELL, CELL, 1))).round().astype(np.uint8)
    picture = Image.fromarray(pixels)
    row, column = grid.shape[0] // 2, grid.shape[1] // 2
    box = (column * CELL, row * CELL, (column + 1) * CELL - 1, (row + 1) * CELL - 1)
    ImageDraw.Draw(picture).rectangle(box, outline=(255, 255, 255), width=3)
    with replacing(path) as partial:
        picture.save(partial, "PNG")


def shades(grid: np.ndarray) -> np.ndarray:
    """Colours `[rows, columns, 3]` of 0 to 255, between the lowest and the highest finite value."""
    known = np.isfinite(grid)
    if not known.any():
        return np.broadcast_to(np.array(NOTHING, dtype=np.float64), (*grid.shape, 3)).copy()
    scaled = np.where(known, grid, grid[known][0])
    if scaled.min() > 0:
        scaled = np.log(scaled)
    low, high = float(scaled.min()), float(scaled.max())
    place = (scaled - low) / (high - low) if high > low and math.isfinite(high - low) else np.zeros_like(scaled)
    stops = np.linspace(0, 1, len(SHADES))
    found = np.stack([np.interp(place, stops, [shade[c] for shade in SHADES]) for c in range(3)], -1)
    found[~known] = NOTHING
    return found
