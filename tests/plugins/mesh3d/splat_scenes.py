"""Gaussians and cameras for splatting tests, and splatting once more, pixel by pixel in numpy."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

NAMES = ("means", "quaternions", "scales", "opacities", "colors")
WIDTH, HEIGHT, FOCAL = 37, 29, 34.0
KINDS = ("plain", "large", "tiny", "around", "crowded")


def lens(focal: float, width: float, height: float, views: int = 1) -> Tensor:
    """Intrinsics `[views, 3, 3]` with the principal point in the middle, float64."""
    matrix = torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]], dtype=torch.float64)
    return matrix.repeat(views, 1, 1)


def cameras(seed: int, views: int = 2) -> tuple[Tensor, Tensor]:
    """Turned cameras about 2.5 from the origin, and lenses with unlike focal lengths and a shifted centre."""
    turns = Rotation.random(views, random_state=seed).as_matrix()
    rigid = torch.eye(4, dtype=torch.float64).repeat(views, 1, 1)
    rigid[:, :3, :3] = torch.from_numpy(turns)
    rigid[:, :3, 3] = torch.tensor([0.1, -0.2, 2.5])
    lenses = lens(FOCAL, WIDTH, HEIGHT, views)
    lenses[:, 1, 1] *= 1.1
    lenses[:, 0, 2] += 1.3
    return rigid, lenses


def random_scene(kind: str, count: int, seed: int, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """Gaussians of one kind, or of all: what their kind says holds for any of the `cameras`.

    Args:
        kind: `plain`; `large`: wider than the image; `tiny`: a seventh of a pixel; `around`: also behind the camera,
            at it and outside of the image; `crowded`: opaque, in a heap, many at the same depth; `mixed`: all.
    """
    if kind == "mixed":
        parts = [random_scene(k, count // 5, seed + i) for i, k in enumerate(KINDS)]
        return {name: torch.cat([part[name] for part in parts]).to(dtype) for name in NAMES}
    rng = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng, dtype=torch.float64)

    spread = {"around": 3.0, "crowded": 0.1}.get(kind, 0.4)
    size = {"large": 0.0, "tiny": -4.5, "crowded": -2.0}.get(kind, -2.5)
    means = normal(count, 3) * spread
    opacities = torch.sigmoid(normal(count) * 2)
    if kind == "crowded":
        means = means[torch.arange(count) // 3]  # three at every place: equal depths
        opacities = 1 - 0.1 * torch.sigmoid(normal(count))
        opacities[::4] = 1.0
    return {
        "means": means.to(dtype),
        "quaternions": (normal(count, 4) * 3).to(dtype),
        "scales": torch.exp(normal(count, 3) * 0.7 + size).to(dtype),
        "opacities": opacities.to(dtype),
        "colors": normal(count, 3).to(dtype),
    }


def one_gaussian(**changes: list[float]) -> dict[str, Tensor]:
    """A white, opaque round Gaussian of size 0.1, 2 in front of an unmoved camera, float64."""
    values: dict[str, list[float]] = {
        "means": [0.0, 0.0, 2.0],
        "quaternions": [1.0, 0.0, 0.0, 0.0],
        "scales": [0.1, 0.1, 0.1],
        "opacities": [1.0],
        "colors": [1.0, 1.0, 1.0],
    }
    made = {name: torch.tensor([value], dtype=torch.float64) for name, value in {**values, **changes}.items()}
    return {**made, "opacities": made["opacities"].reshape(-1)}


def together(*gaussians: dict[str, Tensor]) -> dict[str, Tensor]:
    """Gaussians of several scenes in one."""
    return {name: torch.cat([each[name] for each in gaussians]) for name in NAMES}


def by_hand(
    scene: dict[str, Tensor], camera: Tensor, intrinsics: Tensor, width: int, height: int, filter_2d: float
) -> np.ndarray:
    """Colour and alpha `[4, H, W]` of one view: scipy's rotations, a numeric Jacobian, loops over pixels.

    Of Gaussians inside the view or a little outside: where directions are not held to the image's margin.
    """
    pose, matrix = camera.numpy(), intrinsics.numpy()

    def pixel(point: np.ndarray) -> np.ndarray:
        return (matrix @ (point / point[2]))[:2]

    drawn = []
    rows = [scene[name].numpy() for name in NAMES]
    for mean, (w, x, y, z), scales, opacity, color in zip(*rows, strict=True):
        point = pose[:3, :3] @ mean + pose[:3, 3]
        if point[2] < 0.01:
            continue
        step = 1e-6
        jacobian = np.stack([(pixel(point + e) - pixel(point - e)) / (2 * step) for e in np.eye(3) * step], axis=1)
        axes = pose[:3, :3] @ Rotation.from_quat([x, y, z, w]).as_matrix()
        sharp = jacobian @ axes @ np.diag(scales**2) @ axes.T @ jacobian.T
        wide = sharp + filter_2d * np.eye(2)
        factor = math.sqrt(max(np.linalg.det(sharp), 0) / np.linalg.det(wide))
        drawn.append((point[2], pixel(point), np.linalg.inv(wide), opacity * factor, color))
    drawn.sort(key=lambda splat: splat[0])
    out = np.zeros((4, height, width))
    for row in range(height):
        for column in range(width):
            left = 1.0
            for _, centre, inverse, opacity, color in drawn:
                away = np.array([column + 0.5, row + 0.5]) - centre
                alpha = min(0.999, opacity * math.exp(-0.5 * away @ inverse @ away))
                if alpha < 1 / 255:
                    continue
                if left * (1 - alpha) <= 1e-4:
                    break
                out[:3, row, column] += left * alpha * color
                left *= 1 - alpha
            out[3, row, column] = 1 - left
    return out
