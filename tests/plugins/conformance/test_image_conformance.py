"""The in-tree image plugin passes the kit that outside plugins use."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tok4d import Sample
from tok4d.testing import ModalityConformance

SHAPES = [(1, 1), (1, 40), (16, 16), (17, 5), (33, 50)]


class TestImage(ModalityConformance):
    tolerance = 1 / 255 + 1e-6  # half a step of 8 bits in [-1, 1]

    @pytest.fixture
    def samples(self) -> list[Sample]:
        generator = torch.Generator().manual_seed(0)
        return [Sample("image", {"image": torch.rand(3, *shape, generator=generator) * 1.8 - 0.9}) for shape in SHAPES]

    def source_options(self, name: str, folder: Path) -> dict[str, object] | None:
        """Recipes need a network, shards a tar, manifests a list: all have tests of their own."""
        return {} if name in ("folder", "shapes") else None
