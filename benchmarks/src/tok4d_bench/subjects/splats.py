"""Splats: an asset's own voxels as one round Gaussian each, in the mean colour of its pixels. Nothing is learned.

What the voxels alone show of an asset: a Gaussian decoder that draws worse has lost something on the way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from tok4d.errors import ConfigError
from tok4d.modality import Sample
from tok4d.model.gaussians import SH_DC
from tok4d_bench.contracts import Restored, Subject
from tok4d_bench.subjects.common import digest_of

SCALE, OPACITY = 0.5, 0.95


def splats_of(sample: Sample, scale: float = SCALE, opacity: float = OPACITY) -> Sample:
    """One round splat a voxel in the mean colour of its patch, beside the voxels; no pictures, no metadata of files.

    Args:
        scale: standard deviation of a splat, in voxel sides.
    """
    voxels, coords, side = sample.data["voxels"], sample.data["coords"], sample.meta["resolution"]
    count = len(voxels)
    colours = (voxels.view(count, -1, 3).mean(1) + 1) / 2
    return Sample(
        "mesh3d",
        {
            "voxels": voxels,
            "coords": coords,
            "means": (coords.float() + 0.5) / side - 0.5,
            "scales": torch.full((count, 3), scale / side),
            "quaternions": torch.tensor([1.0, 0.0, 0.0, 0.0]).repeat(count, 1),
            "opacities": torch.full((count,), opacity),
            "colors": (colours - 0.5) / SH_DC,
        },
        key=sample.key,
        meta={"resolution": side},
    )


class Splats(Subject):
    """The voxels of an asset as they are, drawn as one splat each: `mesh3d/psnr` is that of an exact copy.

    Args:
        scale: standard deviation of a splat, in voxel sides.
        opacity: of every splat, in (0, 1].

    Raises:
        ConfigError: for a source, or values out of range.
    """

    no_bits = "the originals' own voxels are not coded"
    reconstructs = ("mesh3d",)

    def __init__(
        self,
        source: str = "",
        *,
        device: str = "cpu",
        dtype: str = "float32",
        scale: float = SCALE,
        opacity: float = OPACITY,
    ) -> None:
        if source:
            raise ConfigError(f"baseline splats takes no source, got {source!r}")
        if not scale > 0 or not 0 < opacity <= 1:
            raise ConfigError(f"splats: scale {scale} must be above 0, and opacity {opacity} in (0, 1]")
        self.name, self.scale, self.opacity = "splats", scale, opacity
        self.digest = digest_of(kind="splats", version=1, scale=scale, opacity=opacity)

    def facts(self) -> dict[str, Any]:
        return {"kind": "splats", "parameters": 0, "scale": self.scale, "opacity": self.opacity}

    def reconstruct(self, samples: Sequence[Sample]) -> list[Restored]:
        drawn = [splats_of(sample, self.scale, self.opacity) for sample in samples]
        return [Restored(one, tokens=len(one.data["coords"])) for one in drawn]
