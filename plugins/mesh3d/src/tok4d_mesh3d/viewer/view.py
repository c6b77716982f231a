"""Where a viewer starts from: a camera on a sphere around the asset."""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, isfinite, radians, sin, tan

import torch
from torch import Tensor

from tok4d.errors import ConfigError


@dataclass(frozen=True)
class View:
    """A camera that looks at `target` from a sphere; the world's Z axis is up.

    Attributes:
        yaw: degrees around Z, 0 looks from the +x side, 90 from the +y side.
        pitch: degrees above the horizon, in [-90, 90].
        radius: distance to the target, in units of the world (the unit cube spans one).
        fov: angle of view across the shorter side of the picture, in degrees.
        target: the point in the middle.

    Raises:
        ConfigError: on construction, for a value out of range.
    """

    yaw: float = 45.0
    pitch: float = 20.0
    radius: float = 2.0
    fov: float = 40.0
    target: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def __post_init__(self) -> None:
        if not all(map(isfinite, (self.yaw, *self.target))):
            raise ConfigError(f"yaw and target of a view must be finite, got {self.yaw} and {self.target}")
        if not (-90 <= self.pitch <= 90 and 0 < self.fov < 180 and 0 < self.radius < 1e9):
            raise ConfigError(
                "a view needs a pitch in [-90, 90], a field of view in (0, 180) and a radius above 0, "
                f"got {self.pitch}, {self.fov} and {self.radius}"
            )

    def world_to_camera(self) -> Tensor:
        """`[4, 4]`, x right, y down, z forward (OpenCV). Straight from above or below, yaw still says what is right."""
        yaw, pitch = radians(self.yaw), radians(self.pitch)
        right = [-sin(yaw), cos(yaw), 0.0]
        down = [cos(yaw) * sin(pitch), sin(yaw) * sin(pitch), -cos(pitch)]
        forward = [-cos(yaw) * cos(pitch), -sin(yaw) * cos(pitch), -sin(pitch)]
        matrix = torch.eye(4)
        matrix[:3, :3] = torch.tensor([right, down, forward])
        matrix[:3, 3] = torch.tensor([0.0, 0.0, self.radius]) - matrix[:3, :3] @ torch.tensor(self.target)
        return matrix

    def intrinsics(self, width: int, height: int) -> Tensor:
        """`[3, 3]` in pixels."""
        focal = 0.5 * min(width, height) / tan(radians(self.fov) / 2)
        return torch.tensor([[focal, 0.0, width / 2], [0.0, focal, height / 2], [0.0, 0.0, 1.0]])
