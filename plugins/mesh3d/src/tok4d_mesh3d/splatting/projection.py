"""Gaussians in one view, written plainly: the reference that the compiled projection is tested against.

M = Gaussians in front of the camera. EWA splatting (Zwicker et al. 2001) with the filter of Mip-Splatting (Yu et al.
2024): the covariance in the image grows by `filter_2d`, the opacity falls by the root of the determinants' ratio.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from tok4d_mesh3d.splatting.inputs import Scene
from tok4d_mesh3d.splatting.rules import MARGIN, MIN_ALPHA, NEAR


@dataclass(frozen=True, eq=False)
class Splats:
    """Gaussians of one view, by depth, equal depths by index.

    Attributes:
        index: `[M]` their place among the Gaussians.
        xy: `[M, 2]` centres in pixels; the first pixel's centre is at 0.5.
        conics: `[M, 3]` inverse covariances xx, xy, yy.
        opacities: `[M]`, lessened by the filter.
        reach: `[M, 2]` how far from the centre, in x and y, alpha can be 1/255 (a bound, without gradient).
    """

    index: Tensor
    xy: Tensor
    conics: Tensor
    opacities: Tensor
    reach: Tensor


def project(scene: Scene, view: int) -> Splats:
    """The Gaussians that one view can see; differentiable in the Gaussians and the camera."""
    rotation, shift = scene.world_to_camera[view, :3, :3], scene.world_to_camera[view, :3, 3]
    points = scene.means @ rotation.T + shift
    index = torch.nonzero(points[:, 2].detach() >= NEAR)[:, 0]
    index = index[torch.argsort(points[index, 2].detach(), stable=True)]
    points, lens = points[index], scene.intrinsics[view]
    jacobian = perspective_jacobian(points, lens, scene.width, scene.height) @ rotation
    covariance = jacobian @ covariances(scene.quaternions[index], scene.scales[index]) @ jacobian.transpose(1, 2)
    xx, xy, yy = covariance[:, 0, 0], covariance[:, 0, 1], covariance[:, 1, 1]
    sharp = xx * yy - xy * xy
    xx, yy = xx + scene.filter_2d, yy + scene.filter_2d
    determinant = xx * yy - xy * xy
    visible = (sharp > 0) & (determinant > 0)
    # Selected before the root and the quotients: their gradients at zero would be NaN.
    sharp, determinant = torch.where(visible, sharp, 0.25), torch.where(visible, determinant, 1.0)
    opacities = torch.where(visible, scene.opacities[index] * (sharp / determinant).sqrt(), 0.0)
    with torch.no_grad():
        exponent = (opacities / MIN_ALPHA).clamp_min(1.0).log()
        reach = (2 * exponent[:, None] * torch.stack([xx, yy], 1)).sqrt()
    return Splats(
        index=index,
        xy=points[:, :2] / points[:, 2:] * lens[[0, 1], [0, 1]] + lens[:2, 2],
        conics=torch.stack([yy, -xy, xx], 1) / determinant[:, None],
        opacities=opacities,
        reach=reach,
    )


def perspective_jacobian(points: Tensor, lens: Tensor, width: int, height: int) -> Tensor:
    """Derivative of pixels by camera coordinates `[M, 2, 3]`.

    Directions are held within a margin around the image: beyond, the affine approximation makes splats of any size.
    """
    focal, centre = lens[[0, 1], [0, 1]], lens[:2, 2]
    size = lens.new_tensor([width, height])
    margin = MARGIN * 0.5 * size
    slopes = points[:, :2] / points[:, 2:]
    slopes = torch.minimum(torch.maximum(slopes, -(centre + margin) / focal), (size - centre + margin) / focal)
    inverse = 1 / points[:, 2]
    zero = torch.zeros_like(inverse)
    rows = [
        torch.stack([focal[0] * inverse, zero, -focal[0] * slopes[:, 0] * inverse], 1),
        torch.stack([zero, focal[1] * inverse, -focal[1] * slopes[:, 1] * inverse], 1),
    ]
    return torch.stack(rows, 1)


def covariances(quaternions: Tensor, scales: Tensor) -> Tensor:
    """R S S R^T `[M, 3, 3]` of quaternions w, x, y, z of any length."""
    w, x, y, z = F.normalize(quaternions, dim=1).unbind(1)
    rotation = torch.stack(
        [
            torch.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)], 1),
            torch.stack([2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)], 1),
            torch.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], 1),
        ],
        1,
    )
    return rotation @ (scales.square()[:, :, None] * rotation.transpose(1, 2))
