"""A subject, a data set and a measure made for tests of the harness."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from tok4d.modality import Sample
from tok4d_bench.contracts import BenchData, ChunkReader, Columns, Measure, Restored, Subject, Suite, TaskSpec, Value


class Blur(Subject):
    """A convolution with random weights over the whole group at once: the last bits depend on the batch's shape."""

    reconstructs = ("image",)
    embeds = ("image",)

    def __init__(self, name: str = "blur", seed: int = 0) -> None:
        self.name, self.digest = name, f"{seed:064d}"
        self.calls: list[list[str]] = []
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.net = nn.Sequential(nn.Conv2d(3, 24, 5, padding=2), nn.GELU(), nn.Conv2d(24, 3, 5, padding=2))

    def reconstruct(self, samples: Sequence[Sample]) -> list[Restored]:
        self.calls.append([sample.key for sample in samples])
        made = self.net(torch.stack([sample.data["image"] for sample in samples]))
        made = made + 0.01 * torch.randn_like(made)  # draws: the runner gives each group a state of its own
        return [Restored(Sample("image", {"image": image}), bits=100.0, tokens=4) for image in made]

    def embed(self, samples: Sequence[Sample]) -> Tensor:
        pooled = torch.stack([sample.data["image"].mean((1, 2)) for sample in samples])
        return nn.functional.normalize(pooled, dim=1)


class Numbers(Measure):
    """Mean of the squared error, columns of all kinds, and a cached column of the originals."""

    kind: ClassVar[str] = "pair"

    def __init__(self, extra: int = 0) -> None:
        self.extra = extra
        self.references = 0

    def protocol(self) -> dict[str, Any]:
        return {"implementation": "numbers", "extra": self.extra}

    def reference(self, originals: Sequence[Sample]) -> Columns:
        self.references += 1
        means = [sample.data["image"].double().mean((1, 2)).numpy() for sample in originals]
        return {"means": np.stack(means).astype(np.float32)}

    def columns(self, originals: Sequence[Sample], results: Sequence[Restored]) -> Columns:
        errors = [
            float((a.sample.data["image"].double() - b.data["image"].double()).square().mean())
            for a, b in zip(results, originals, strict=True)
        ]
        return {"error": np.array(errors), "name": np.array([sample.key for sample in originals])}

    def finish(self, chunks: ChunkReader, data: BenchData, subject: Subject) -> list[Value]:
        pieces = list(chunks("error", "means"))
        errors = np.concatenate([piece["error"] for piece in pieces])
        means = np.concatenate([piece["means"] for piece in pieces])
        assert len(means) == len(errors) == chunks.n
        return [Value("error", float(np.add.reduce(errors) / len(errors)), len(errors), higher_is_better=False)]


def pictures(folder: Path, count: int, side: int = 24) -> Path:
    """PNG files of noise, 00.png and on."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 256, (side, side, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02d}.png")
    return folder


def suite_of(folder: Path, measures: Sequence[Any], **task: Any) -> Suite:
    """A suite of one task over a folder of pictures."""
    data = {"source": "image/folder", "options": {"path": str(folder)}}
    spec = TaskSpec(**{"data": data, "measures": list(measures), "inner_batch": 4, **task})
    return Suite("made", 1, "", {"one": spec})
