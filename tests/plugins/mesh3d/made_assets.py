"""Assets and samples for tests of the modality, small enough for milliseconds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from made_meshes import box_obj

from tok4d.modality import Sample
from tok4d_mesh3d.modality import Mesh3dModality

SMALL = {"views": 6, "size": 64, "resolution": 8, "supersample": 1}
HEAD = {"resolution": 8, "width": 24, "blocks": 1, "heads": 1, "mlp": 24, "num_gaussians": 4}
HOST = Mesh3dModality(resolution=8)


def box_sample(folder: Path, **options: Any) -> Sample:
    """A box with six colours, drawn and lifted."""
    return HOST.read(box_obj(folder), **{**SMALL, **options})


def decoded(sample: Sample, head: torch.nn.Module) -> Sample:
    """A sample through its tokens and a head."""
    (made,) = HOST.unpatchify(HOST.patchify(sample), head)
    made.key = sample.key
    return made


def with_data(sample: Sample, changes: Mapping[str, torch.Tensor]) -> Sample:
    """A copy with other tensors."""
    return Sample(sample.modality, {**sample.data, **changes}, key=sample.key, meta=dict(sample.meta))


def voxel_cloud(sample: Sample) -> dict[str, torch.Tensor]:
    """Gaussians that stand in the middle of a sample's voxels, grey and nearly solid."""
    count, side = len(sample.data["coords"]), sample.meta["resolution"]
    return {
        "means": (sample.data["coords"] + 0.5) / side - 0.5,
        "scales": torch.full((count, 3), 0.5 / side),
        "quaternions": torch.tensor([1.0, 0, 0, 0]).repeat(count, 1),
        "opacities": torch.full((count,), 0.999),
        "colors": torch.zeros(count, 3),
    }
