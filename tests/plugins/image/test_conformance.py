"""The image plugin passes the kit that outside plugins pass."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tok4d.modality import Sample
from tok4d.testing.conformance import ModalityConformance
from tok4d_image.pixels import to_signed


class TestImage(ModalityConformance):
    tolerance = 1 / 255

    @pytest.fixture
    def samples(self) -> list[Sample]:
        generator = torch.Generator().manual_seed(0)
        sizes = [(1, 1), (16, 16), (17, 40), (31, 1), (5, 64)]
        images = [torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8) for size in sizes]
        return [Sample("image", {"image": to_signed(image)}, key=f"s{i}") for i, image in enumerate(images)]

    def source_options(self, name: str, folder: Path) -> dict[str, object] | None:
        if name == "folder":
            return {"path": str(folder)}
        if name == "shapes":
            return {"count": 5, "side": 20}
        return None  # photos need a network, shards a tar; both have tests of their own
