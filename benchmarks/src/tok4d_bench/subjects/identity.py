"""The originals themselves: the null that shows what each figure is at best, and what measuring alone costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tok4d.errors import ConfigError
from tok4d.modality import Sample
from tok4d.plugins.registry import modalities
from tok4d_bench.contracts import Restored, Subject
from tok4d_bench.subjects.common import digest_of


class Identity(Subject):
    """Gives every sample back as it came, of any modality."""

    no_bits = "the originals themselves are not coded"

    def __init__(self, source: str = "", *, device: str = "cpu", dtype: str = "float32") -> None:
        if source:
            raise ConfigError(f"baseline identity takes no source, got {source!r}")
        self.name = "identity"
        self.digest = digest_of(kind="identity", version=1)
        self.reconstructs = tuple(modalities())

    def facts(self) -> dict[str, Any]:
        return {"kind": "identity", "parameters": 0, "note": "the originals themselves"}

    def reconstruct(self, samples: Sequence[Sample]) -> list[Restored]:
        return [Restored(sample) for sample in samples]
