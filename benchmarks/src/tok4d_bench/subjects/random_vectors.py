"""Random vectors for samples and texts: what understanding costs nothing to reach, through the very same measures.

n = samples, D = width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tok4d.errors import ConfigError
from tok4d.modality import Sample
from tok4d.plugins.registry import modalities
from tok4d_bench.contracts import Subject
from tok4d_bench.subjects.common import digest_of, main_tensor


class Random(Subject):
    """Draws a unit vector for everything it is shown, by the hash of what that holds: equal things have equal vectors.

    So nothing depends on the order of samples or the number of processes. It knows no classes and no captions; what
    accuracy, recall or a probe has above it is understanding.

    Args:
        width: D.
        seed: of the vectors.

    Raises:
        ConfigError: for a source, or a width below 1.
    """

    no_bits = "random vectors code nothing"

    def __init__(
        self, source: str = "", *, device: str = "cpu", dtype: str = "float32", width: int = 64, seed: int = 0
    ) -> None:
        if source:
            raise ConfigError(f"baseline random takes no source, got {source!r}")
        if width < 1:
            raise ConfigError(f"random: width must be at least 1, got {width}")
        self.width, self.seed = width, seed
        self.name = "random" if not seed else f"random-seed{seed}"
        self.digest = digest_of(kind="random", version=1, width=width, seed=seed)
        self.embeds = tuple(modalities())

    def facts(self) -> dict[str, Any]:
        return {"kind": "random", "parameters": 0, "embedding_width": self.width, "seed": self.seed}

    def embed(self, samples: Sequence[Sample]) -> Tensor:
        return torch.stack([self._vector(_bytes(sample)) for sample in samples])

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        return torch.stack([self._vector(text.encode()) for text in texts])

    def features(self, samples: Sequence[Sample], where: str) -> Tensor:
        """Other vectors for every place: `features`, `latents` and `codes` alike."""
        return torch.stack([self._vector(where.encode() + _bytes(sample)) for sample in samples])

    def _vector(self, content: bytes) -> Tensor:
        """`[D]` float32 of length 1."""
        state = hashlib.sha256(f"{self.seed}:".encode() + content).digest()[:8]
        generator = torch.Generator().manual_seed(int.from_bytes(state, "little") >> 1)
        return torch.nn.functional.normalize(torch.randn(self.width, generator=generator), dim=0)


def _bytes(sample: Sample) -> bytes:
    return main_tensor(sample).detach().cpu().contiguous().numpy().tobytes()
