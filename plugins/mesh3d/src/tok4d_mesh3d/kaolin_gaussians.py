"""Decoded Gaussians as Kaolin's `GaussianSplatModel` and back, for its transforms, masks and USD files.

N = Gaussians. Written to Kaolin's documented interface (newer than 0.18); it holds values after activation, rotations
as w, x, y, z, and spherical harmonics `[N, 1, 3]` of degree 0, as ours does.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F

from tok4d.errors import Tok4dError
from tok4d.model.gaussians import Gaussians


def to_kaolin(gaussians: Gaussians) -> Any:
    """A `kaolin.rep.GaussianSplatModel` that shares the tensors.

    Raises:
        Tok4dError: when Kaolin is missing, or too old to have this container.
    """
    try:
        from kaolin import rep
    except ImportError as error:
        raise Tok4dError(
            f"Kaolin is not installed ({error}); its wheels come from NVIDIA's own index, one per torch and CUDA: "
            "see docs/mesh3d.md"
        ) from error
    if not hasattr(rep, "GaussianSplatModel"):
        raise Tok4dError("this Kaolin has no GaussianSplatModel; it came after version 0.18")
    return rep.GaussianSplatModel(
        positions=gaussians.means,
        orientations=gaussians.quaternions,
        scales=gaussians.scales,
        opacities=gaussians.opacities,
        sh_coeff=gaussians.colors[:, None],
    )


def from_kaolin(model: Any) -> Gaussians:
    """Gaussians of a `GaussianSplatModel`; harmonics beyond the constant one are left out.

    Raises:
        Tok4dError: for a model with a transform that is stored but not applied.
    """
    if model.transform is not None:
        raise Tok4dError("this model has a transform that is not applied; call as_transformed() first")
    return Gaussians(
        means=model.positions,
        scales=model.scales,
        quaternions=F.normalize(model.orientations, dim=-1),
        opacities=model.opacities,
        colors=model.sh_coeff[:, 0],
    )
