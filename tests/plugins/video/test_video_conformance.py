"""The video plugin passes the kit that outside plugins pass."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tok4d.modality import Sample
from tok4d.testing.conformance import ModalityConformance


def smooth(frames: int, height: int, width: int) -> torch.Tensor:
    """A clip that a lossy codec keeps: waves that drift."""
    t = torch.arange(frames)[:, None, None] / 12
    rows, columns = torch.arange(height)[None, :, None] / 40, torch.arange(width)[None, None, :] / 40
    return torch.stack([(rows + columns * k + t * (1 + k) / 2).sin() * 0.8 for k in (0.5, 1.0, 1.5)], dim=1)


class TestVideo(ModalityConformance):
    tolerance = 0.12  # H.264 at crf 18

    @pytest.fixture
    def samples(self) -> list[Sample]:
        shapes = [(1, 16, 16), (3, 17, 40), (4, 31, 18), (5, 32, 48), (17, 24, 33)]
        return [
            Sample("video", {"video": smooth(*shape)}, fps=12.5 * (1 + i % 2), key=f"s{i}")
            for i, shape in enumerate(shapes)
        ]

    def source_options(self, name: str, folder: Path) -> dict[str, object] | None:
        if name == "folder":
            return {"path": str(folder)}
        if name == "moving":
            return {"count": 4}
        return None  # clips need a network; manifests and shards have tests of their own
