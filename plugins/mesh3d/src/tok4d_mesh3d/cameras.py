"""Cameras: where they stand, how they project, and `transforms.json` files.

V = views. OpenCV axes: x right, y down, z forward; `world_to_camera` maps world points to camera points. The world
has z up. Pixel (row i, column j) covers [j, j + 1] x [i, i + 1]; its centre is at (j + 0.5, i + 0.5).
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tok4d.errors import ConfigError, DataError, Tok4dError

FOV = 40.0
RADIUS = 2.0
_MAX_JSON = 1 << 26


@dataclass(frozen=True)
class Cameras:
    """Pinhole cameras.

    Attributes:
        world_to_camera: float32 `[V, 4, 4]`, rigid.
        intrinsics: float32 `[V, 3, 3]`, normalised: they map to [0, 1] x [0, 1] over the image.
    """

    world_to_camera: Tensor
    intrinsics: Tensor

    def __post_init__(self) -> None:
        count = len(self.world_to_camera)
        if self.world_to_camera.shape != (count, 4, 4) or self.intrinsics.shape != (count, 3, 3):
            shapes = f"{list(self.world_to_camera.shape)} and {list(self.intrinsics.shape)}"
            raise Tok4dError(f"cameras need matrices [V, 4, 4] and intrinsics [V, 3, 3], got {shapes}")

    def __len__(self) -> int:
        return len(self.world_to_camera)

    def __getitem__(self, index: slice | Tensor | Sequence[int]) -> Cameras:
        return Cameras(self.world_to_camera[index], self.intrinsics[index])

    def pixel_intrinsics(self, width: int, height: int) -> Tensor:
        """Intrinsics `[V, 3, 3]` that map to pixels of a picture of this size."""
        return self.intrinsics.new_tensor([[width], [height], [1.0]]) * self.intrinsics

    @property
    def centers(self) -> Tensor:
        """Positions `[V, 3]` in the world."""
        rotation, shift = self.world_to_camera[:, :3, :3], self.world_to_camera[:, :3, 3]
        return -(rotation.mT @ shift[..., None])[..., 0]

    def project(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Image position `[V, N, 2]` (normalised) and depth along the view axis `[V, N]` of world points `[N, 3]`."""
        local = points @ self.world_to_camera[:, :3, :3].mT + self.world_to_camera[:, None, :3, 3]
        image = local @ self.intrinsics.mT
        return image[..., :2] / image[..., 2:], image[..., 2]

    def unproject(self, uv: Tensor, depth: Tensor) -> Tensor:
        """World points `[V, N, 3]` at normalised image positions `[N, 2]` and depths `[V, N]`."""
        homogeneous = torch.cat([uv, torch.ones_like(uv[:, :1])], dim=1)
        local = (homogeneous @ torch.linalg.inv(self.intrinsics).mT) * depth[..., None]
        return (local - self.world_to_camera[:, None, :3, 3]) @ self.world_to_camera[:, :3, :3]


def look_at(eyes: Tensor, target: Tensor | None = None, fov: float = FOV) -> Cameras:
    """Cameras at `eyes [V, 3]` that look at a point (the origin), the world's z axis upwards in the picture.

    A camera that looks along z has no such "up"; the picture's up is then the world's y axis, for views from below and
    from above alike.

    Args:
        fov: horizontal and vertical field of view in degrees.

    Raises:
        Tok4dError: when an eye is at the target.
    """
    if not 0 < fov < 180:
        raise ConfigError(f"fov must be in (0, 180) degrees, got {fov}")
    eyes = eyes.double()
    forward = (torch.zeros(3) if target is None else target).double() - eyes
    distance = forward.norm(dim=1, keepdim=True)
    if not bool((distance > 1e-9).all()):
        raise Tok4dError("a camera stands at the point that it looks at")
    forward = forward / distance
    up = torch.tensor([0.0, 0.0, 1.0]).double().expand_as(forward)
    steep = forward[:, 2:].abs() > 1 - 1e-6
    up = torch.where(steep, torch.tensor([0.0, 1.0, 0.0]).double(), up)
    right = torch.linalg.cross(forward, up)
    right = right / right.norm(dim=1, keepdim=True)
    rotation = torch.stack([right, torch.linalg.cross(forward, right), forward], dim=1)
    matrix = torch.eye(4).double().repeat(len(eyes), 1, 1)
    matrix[:, :3, :3] = rotation
    matrix[:, :3, 3] = -(rotation @ eyes[..., None])[..., 0]
    return Cameras(matrix.float(), normalized_intrinsics(fov).expand(len(eyes), 3, 3).contiguous())


def normalized_intrinsics(fov: float) -> Tensor:
    """`[3, 3]` of a square picture with this field of view in degrees: f = 0.5 / tan(fov / 2), c = 0.5."""
    focal = 0.5 / math.tan(math.radians(fov) / 2)
    return torch.tensor([[focal, 0.0, 0.5], [0.0, focal, 0.5], [0.0, 0.0, 1.0]])


def hammersley_sphere(views: int = 16, radius: float = RADIUS, fov: float = FOV) -> Cameras:
    """Cameras spread over a sphere, those of the 3D data that AToken was trained on.

    u = i / N and v = radical inverse of i in base 2; u -> 2u below 0.25, else 2u / 3 + 1 / 3; pitch =
    acos(1 - 2u) - pi / 2, yaw = 2 pi v. View 0 stands exactly below the object and looks straight up.
    """
    if views < 1:
        raise ConfigError(f"views must be at least 1, got {views}")
    eyes = []
    for i in range(views):
        u = i / views
        u = 2 * u if u < 0.25 else 2 * u / 3 + 1 / 3
        pitch, yaw = math.acos(1 - 2 * u) - math.pi / 2, 2 * math.pi * _radical_inverse(i)
        eyes.append((math.cos(yaw) * math.cos(pitch), math.sin(yaw) * math.cos(pitch), math.sin(pitch)))
    return look_at(torch.tensor(eyes, dtype=torch.float64) * radius, fov=fov)


def _radical_inverse(index: int) -> float:
    """The binary digits of `index`, mirrored behind the point."""
    value, place = 0.0, 0.5
    while index:
        value += place * (index & 1)
        index, place = index >> 1, place / 2
    return value


def turntable(
    frames: int, elevation: float = 20.0, radius: float = RADIUS, fov: float = FOV, start: float = -90.0
) -> Cameras:
    """Cameras on a circle round the z axis, evenly spaced, against the clock seen from above.

    Args:
        elevation: degrees above the ground.
        start: where the first one stands, in degrees from the x axis; -90 is in front of a model that faces -y.
    """
    if frames < 1:
        raise ConfigError(f"frames must be at least 1, got {frames}")
    yaw = torch.arange(frames, dtype=torch.float64) / frames * 2 * math.pi + math.radians(start)
    pitch = torch.full_like(yaw, math.radians(elevation))
    eyes = torch.stack([yaw.cos() * pitch.cos(), yaw.sin() * pitch.cos(), pitch.sin()], dim=1)
    return look_at(eyes * radius, fov=fov)


def write_transforms(cameras: Cameras, names: Sequence[str], path: str | Path) -> None:
    """A Blender-style `transforms.json`: camera-to-world with y up and -z forward, fields of view in radians.

    Raises:
        Tok4dError: when there are not as many names as cameras.
    """
    if len(names) != len(cameras):
        raise Tok4dError(f"{len(cameras)} cameras need as many file names, got {len(names)}")
    flip = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0])).double()
    poses = torch.linalg.inv(cameras.world_to_camera.double()) @ flip
    frames = []
    for name, pose, intrinsics in zip(names, poses, cameras.intrinsics, strict=True):
        angle = 2 * math.atan(0.5 / float(intrinsics[0, 0]))
        frames.append({"file_path": name, "camera_angle_x": angle, "transform_matrix": pose.tolist()})
    text = json.dumps({"aabb": [[-0.5] * 3, [0.5] * 3], "frames": frames}, indent=1)
    Path(path).write_text(text + "\n", encoding="utf-8")


def read_transforms(path: str | Path) -> tuple[Cameras, list[str]]:
    """Cameras and file names of a `transforms.json`; the field of view is the frame's own or the file's.

    Raises:
        DataError: when the file is missing, damaged, or names a pose that is no rigid motion.
    """
    try:
        if Path(path).stat().st_size > _MAX_JSON:
            raise DataError(path, f"has more than {_MAX_JSON:,} bytes")
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        frames = content["frames"]
        names = [str(frame["file_path"]) for frame in frames]
        poses = torch.tensor([frame["transform_matrix"] for frame in frames], dtype=torch.float64)
        angles = [float(frame.get("camera_angle_x", content.get("camera_angle_x", math.nan))) for frame in frames]
    except FileNotFoundError:
        raise DataError(path, "no such file") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(path, f"is no transforms.json ({type(error).__name__}: {error})") from None
    return _cameras(path, poses, angles), names


def _cameras(path: str | Path, poses: Tensor, angles: list[Any]) -> Cameras:
    if poses.shape[1:] != (4, 4):
        raise DataError(path, f"must hold matrices of 4x4, got {list(poses.shape)}")
    rotation = poses[:, :3, :3]
    rigid = ((rotation @ rotation.mT - torch.eye(3)).abs().amax((1, 2)) < 1e-3) & (torch.linalg.det(rotation) > 0)
    for i, angle in enumerate(angles):
        if not bool(rigid[i]) or not bool(poses[i].isfinite().all()):
            raise DataError(path, f"frame {i} has a transform_matrix that is no rigid motion")
        if not 0 < angle < math.pi:
            raise DataError(path, f"frame {i} has no camera_angle_x in (0, pi), got {angle}")
    flip = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0])).double()
    matrices = torch.linalg.inv(poses @ flip)
    intrinsics = torch.stack([normalized_intrinsics(math.degrees(angle)) for angle in angles])
    return Cameras(matrices.float(), intrinsics)
