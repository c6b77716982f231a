"""Turning Gaussians between a world whose Z axis is up and one whose Y axis is."""

from __future__ import annotations

from math import sqrt

import torch
from torch import Tensor

from tok4d.model.gaussians import Gaussians

_HALF = 1 / sqrt(2)


def turned(gaussians: Gaussians) -> Gaussians:
    """Z-up to Y-up: (x, y, z) -> (x, z, -y), a quarter turn about x that takes positions and rotations along."""
    return _turn(gaussians, (0, 2, 1), (1.0, 1.0, -1.0), -_HALF)


def to_z_up(gaussians: Gaussians) -> Gaussians:
    """Y-up to Z-up: (x, y, z) -> (x, -z, y), the inverse of `turned`."""
    return _turn(gaussians, (0, 2, 1), (1.0, -1.0, 1.0), _HALF)


def _turn(gaussians: Gaussians, axes: tuple[int, int, int], signs: tuple[float, float, float], x: float) -> Gaussians:
    means = gaussians.means[:, list(axes)] * gaussians.means.new_tensor(signs)
    return Gaussians(means, gaussians.scales, _about_x(gaussians.quaternions, x), gaussians.opacities, gaussians.colors)


def _about_x(q: Tensor, x: float) -> Tensor:
    """The product (1/sqrt(2), x, 0, 0) * q of rotations w, x, y, z `[N, 4]`: first q, then the quarter turn."""
    a, b, c, d = q.unbind(1)
    return torch.stack([_HALF * a - x * b, _HALF * b + x * a, _HALF * c - x * d, _HALF * d + x * c], 1)
