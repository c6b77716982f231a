"""LPIPS of 3D assets: a reconstruction's Gaussians drawn from the cameras of its original's pictures.

n = samples of a group, V = views, H, W = height and width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from tok4d.modality import Sample
from tok4d_bench.contracts import BenchData, ChunkReader, Subject, UnsuitedError, Value
from tok4d_bench.measures.pictures import LPIPS
from tok4d_bench.statistics.blocks import column


class ViewLPIPS(LPIPS):
    """LPIPS 0.1 of rendered views, the mean over an asset's views, then over assets: `mesh3d/view_lpips_vgg`, `_alex`.

    The views are those of `mesh3d/view_psnr`, drawn once for all measures. An original without pictures and a
    reconstruction without Gaussians have nothing to compare and do not count.

    Args:
        net, size: as in `LPIPS`.

    Raises:
        ConfigError: for an unknown network, or a size that it cannot see.
    """

    def __init__(self, net: str = "vgg", size: int | None = None) -> None:
        super().__init__(net, size)
        self.name = f"mesh3d/view_lpips_{net}"

    def facts(self) -> dict[str, Any]:
        return {**super().facts(), "pictures": "Gaussians drawn from the original's cameras, over its background"}

    def scores(self, originals: Sequence[Sample], restored: Sequence[Sample]) -> list[float]:
        pairs = [_views(wanted, got) for wanted, got in zip(originals, restored, strict=True)]
        distances = iter(self.distances([pair for pair in pairs if pair is not None]))
        return [math.nan if pair is None else next(distances) for pair in pairs]

    def finish(self, chunks: ChunkReader, data: BenchData, subject: Subject) -> list[Value]:
        values = column(chunks(self.name), self.name)
        if len(values) and bool(np.isnan(values).all()):
            raise UnsuitedError(f"none of {len(values)} samples and reconstructions has what {self.name} compares")
        return super().finish(chunks, data, subject)


def _views(original: Sample, restored: Sample) -> tuple[Tensor, Tensor] | None:
    """Pictures `[V, 3, H, W]` of both in [-1, 1]; None where there is nothing to draw or to compare it with."""
    from tok4d_mesh3d.renders import shared_render
    from tok4d_mesh3d.samples import has_gaussians, has_views

    if not (has_gaussians(restored) and has_views(original)):
        return None
    drawn = shared_render(restored, original)
    return drawn.wanted.float().clamp(-1, 1), drawn.images.float().clamp(-1, 1)
