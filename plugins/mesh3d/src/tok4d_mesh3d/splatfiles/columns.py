"""Gaussians as plain arrays, between files and tensors.

N = Gaussians. Arrays, float32 once checked: means, scales, colors `[N, 3]`, quaternions `[N, 4]` w, x, y, z,
opacities `[N]`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray

from tok4d.model.gaussians import SH_DC, Gaussians

Floats = NDArray[np.floating]


@dataclass(frozen=True, eq=False)
class Columns:
    """The parts of `tok4d.model.gaussians.Gaussians` as arrays; quaternions of any length but zero."""

    means: Floats
    scales: Floats
    quaternions: Floats
    opacities: Floats
    colors: Floats

    @classmethod
    def of(cls, gaussians: Gaussians) -> Columns:
        """The arrays of Gaussians on any device, checked.

        Raises:
            ValueError: for values that are no Gaussians.
        """
        parts = (gaussians.means, gaussians.scales, gaussians.quaternions, gaussians.opacities, gaussians.colors)
        return cls(*(part.detach().to("cpu", torch.float32).numpy() for part in parts)).checked()

    def __len__(self) -> int:
        return len(self.means)

    @property
    def rgb(self) -> Floats:
        """Colors as 0.5 + SH_DC * colors, not clamped."""
        return 0.5 + SH_DC * self.colors

    def checked(self) -> Columns:
        """These arrays as float32, with quaternions of length 1.

        Raises:
            ValueError: for values that are not finite, scales that are not positive, opacities outside [0, 1] and
                rotations of length zero, with their number.
        """
        for field in fields(self):
            values = getattr(self, field.name)
            if bad := int((~np.isfinite(values)).reshape(len(self), prod(values.shape[1:])).any(1).sum()):
                raise ValueError(f"{field.name} of {bad:,} of {len(self):,} Gaussians are not finite")
        length = np.linalg.norm(self.quaternions.astype(np.float64), axis=1, keepdims=True)
        problems = {
            "scales that are not positive": (self.scales <= 0).any(1),
            "an opacity outside [0, 1]": (self.opacities < 0) | (self.opacities > 1),
            "a rotation of length zero": length[:, 0] < 1e-12,
        }
        for name, where in problems.items():
            if bad := int(where.sum()):
                raise ValueError(f"{bad:,} of {len(self):,} Gaussians have {name}")
        parts = (self.means, self.scales, self.quaternions / length, self.opacities, self.colors)
        return Columns(*(np.asarray(part, np.float32) for part in parts))

    def gaussians(self) -> Gaussians:
        """Float32 tensors on the CPU.

        Raises:
            ValueError: as `checked`.
        """
        ready = self.checked()
        return Gaussians(*(torch.from_numpy(np.array(getattr(ready, field.name))) for field in fields(self)))


def to_byte(values: NDArray[np.floating]) -> NDArray[np.uint8]:
    """The nearest of 0..255, clamped."""
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
