"""The mesh3d plugin passes the kit that outside plugins pass."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tok4d.modality import Modality, Sample
from tok4d.testing.conformance import ModalityConformance
from tok4d.tokens import TokenSet
from tok4d_mesh3d.voxels import unflatten


def voxels(count: int, seed: int = 0, resolution: int = 64) -> Sample:
    """Random voxels in the order of files: sorted by x, y, z."""
    generator = torch.Generator().manual_seed(seed)
    places = torch.randperm(resolution**3, generator=generator)[:count].sort().values
    data = {
        "voxels": torch.rand(count, 768, generator=generator) * 2 - 1,
        "coords": unflatten(places, resolution),
    }
    return Sample("mesh3d", data, key=f"s{seed}", meta={"resolution": resolution})


class TestMesh3d(ModalityConformance):
    tolerance = 1.001 / 255  # half a byte of [-1, 1], and what float32 rounds

    @pytest.fixture
    def samples(self) -> list[Sample]:
        return [voxels(count, seed) for seed, count in enumerate((1, 2, 57, 300))]

    def source_options(self, name: str, folder: Path) -> dict[str, object] | None:
        if name == "folder":
            return {"path": str(folder), "cache_gb": 0}
        if name == "solids":
            return {
                "count": 4,
                "resolution": 64,
                "views": 4,
                "size": 32,
                "targets": 2,
                "target_size": 16,
                "cache_gb": 0,
            }
        return None  # furniture needs a network and has tests of its own

    def test_grid_agrees_with_patchify(self, modality: Modality, samples: list[Sample], tokens: list[TokenSet]) -> None:
        """Which voxels there are is content: only the full grid is known beforehand."""
        small = modality.configured({"resolution": 3})
        full = voxels(27, resolution=3)
        tokens_of_full = small.patchify(full)
        coords, origin = small.grid((27, 768))
        assert torch.equal(coords, tokens_of_full.coords)
        assert origin == tokens_of_full.origins[0]
        with pytest.raises(ValueError, match=r"is not known before it exists"):
            small.grid((26, 768))
