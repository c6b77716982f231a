"""Gaussians for tests, and how far two sets of them are apart."""

from __future__ import annotations

import torch

from tok4d.model.gaussians import SH_DC, Gaussians


def random_gaussians(count: int, seed: int = 0) -> Gaussians:
    """All rotations, scales over a factor of 20, colours in [0, 1], opacities in (0, 1)."""
    rng = torch.Generator().manual_seed(seed)
    quaternions = torch.randn(count, 4, generator=rng)
    return Gaussians(
        means=torch.rand(count, 3, generator=rng) - 0.5,
        scales=torch.exp(torch.rand(count, 3, generator=rng) * 3 - 7),
        quaternions=quaternions / quaternions.norm(dim=1, keepdim=True),
        opacities=torch.rand(count, generator=rng) * 0.98 + 0.01,
        colors=(torch.rand(count, 3, generator=rng) - 0.5) / SH_DC,
    )


def errors(found: Gaussians, wanted: Gaussians) -> dict[str, float]:
    """Largest differences: position in units, scale relative, rotation in degrees, opacity, rgb."""
    apart = torch.minimum(
        (found.quaternions - wanted.quaternions).norm(dim=1), (found.quaternions + wanted.quaternions).norm(dim=1)
    )
    return {
        "position": (found.means - wanted.means).abs().max().item(),
        "scale": (found.scales / wanted.scales - 1).abs().max().item(),
        "rotation": torch.rad2deg(4 * torch.asin(apart / 2)).max().item(),
        "opacity": (found.opacities - wanted.opacities).abs().max().item(),
        "rgb": (found.rgb - wanted.rgb).abs().max().item(),
    }


def assert_close(found: Gaussians, wanted: Gaussians, **limits: float) -> None:
    """Every kind of error is within its limit, 2e-6 where none is given (rotation: 1e-3 degrees)."""
    bounds = {"position": 2e-6, "scale": 2e-6, "rotation": 1e-3, "opacity": 2e-6, "rgb": 2e-6, **limits}
    measured = errors(found, wanted)
    assert {name: value for name, value in measured.items() if not value <= bounds[name]} == {}, measured


def covariances(gaussians: Gaussians) -> torch.Tensor:
    """R diag(s^2) R^T `[N, 3, 3]` in float64, the rotation matrix written out from its definition."""
    w, x, y, z = gaussians.quaternions.double().unbind(1)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    rotation = torch.stack([torch.stack(row, 1) for row in rows], 1)
    return rotation @ torch.diag_embed(gaussians.scales.double().square()) @ rotation.mT
