"""Procedural pictures: gradients, discs, stripes and noise, with a caption each.

H = height, W = width (equal here). Nothing but (seed, number, side) decides what a picture looks like.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tok4d.colours import COLOURS

KINDS = ("gradient", "disc", "stripes", "noise")

_Mask = NDArray[np.float64]


def draw_shape(seed: int, number: int, side: int) -> tuple[Tensor, str, int]:
    """Picture `number` of a set: pixels uint8 `[3, side, side]`, a caption, and the kind's index in `KINDS`."""
    rng = np.random.default_rng([seed, number])
    label = number % len(KINDS)
    first, second = rng.choice(list(COLOURS), size=2, replace=False)
    axis = (np.arange(side) + 0.5) / side
    row, column = np.meshgrid(axis, axis, indexing="ij")
    mask, words = _PAINTERS[label](row, column, rng)
    ink, paper = (np.array(COLOURS[name], dtype=np.float64) for name in (first, second))
    picture = mask[..., None] * ink + (1 - mask[..., None]) * paper
    pixels = torch.from_numpy(np.rint(picture).astype(np.uint8)).permute(2, 0, 1).contiguous()
    return pixels, words.format(first=first, second=second), label


def _direction(row: _Mask, column: _Mask, rng: np.random.Generator) -> _Mask:
    """Distance along a random direction, from 0 at one corner to about 1 at the opposite one."""
    angle = rng.uniform(0, 2 * np.pi)
    along = (row - 0.5) * np.sin(angle) + (column - 0.5) * np.cos(angle)
    return along / (abs(np.sin(angle)) + abs(np.cos(angle))) + 0.5


def _gradient(row: _Mask, column: _Mask, rng: np.random.Generator) -> tuple[_Mask, str]:
    return np.clip(_direction(row, column, rng), 0, 1), "a smooth gradient from {second} to {first}"


def _disc(row: _Mask, column: _Mask, rng: np.random.Generator) -> tuple[_Mask, str]:
    radius = rng.uniform(0.1, 0.4)
    top, left = rng.uniform(radius, 1 - radius, size=2)
    distance = np.hypot(row - top, column - left)
    edge = 1 / len(row)  # one pixel wide, so that the rim is antialiased
    size = "small" if radius < 0.25 else "large"
    return np.clip((radius - distance) / edge + 0.5, 0, 1), f"a {size} {{first}} disc on {{second}}"


def _stripes(row: _Mask, column: _Mask, rng: np.random.Generator) -> tuple[_Mask, str]:
    count = int(rng.integers(2, 12))
    wave = np.sin(2 * np.pi * (count * _direction(row, column, rng) + rng.random()))
    return np.clip(wave * 3 + 0.5, 0, 1), f"{count} {{first}} stripes on {{second}}"


def _noise(row: _Mask, column: _Mask, rng: np.random.Generator) -> tuple[_Mask, str]:
    """Random plane waves whose strength falls with frequency: a cloudy texture at any size."""
    total = np.zeros_like(row)
    for octave in range(5):
        for _ in range(4):
            frequency = rng.normal(size=2) * 2.0**octave
            wave = np.sin(2 * np.pi * (frequency[0] * row + frequency[1] * column + rng.random()))
            total += wave * 0.6**octave
    return 1 / (1 + np.exp(-total)), "a cloudy texture of {first} and {second}"


_PAINTERS = (_gradient, _disc, _stripes, _noise)
