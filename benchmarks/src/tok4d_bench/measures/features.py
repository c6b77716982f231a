"""Measures of sets look at features of originals and reconstructions, of any network.

n = samples of a group, D = features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from tok4d.errors import DataError
from tok4d.losses.shared import shared
from tok4d.modality import Sample
from tok4d.networks.base import FeatureNetwork, Network
from tok4d_bench.contracts import Columns, Measure, Requirement, Restored
from tok4d_bench.measures.base import RANGE, by_size, network_requirement, pictures, pretrained

GOT, WANTED = "features", "features_of_original"


class FeatureMeasure(Measure):
    """Features of originals and reconstructions as columns `[n, D]`.

    Args:
        network: its name in `tok4d.networks`.
        source: file of its weights, where they are elsewhere.
    """

    kinds: ClassVar[type[Network]] = FeatureNetwork

    def __init__(self, network: str, source: str = "") -> None:
        self.network, self.source = network, source
        self._loaded: Any = None

    @property
    def loaded(self) -> Any:
        """The network, loaded when it is first needed."""
        if self._loaded is None:
            self._loaded = pretrained(self.network, self.source, self.kinds, self.device)
        return self._loaded

    def requirements(self) -> list[Requirement]:
        return [network_requirement(self.network, self.source)]

    def network_facts(self) -> dict[str, Any]:
        """What of the protocol the network decides."""
        facts = {"network": self.network, "digest": self.loaded.digest, "preprocessing": self.loaded.preprocessing}
        return {**facts, "range": RANGE}

    def reference(self, originals: Sequence[Sample]) -> Columns:
        return {WANTED: self.features(originals)}

    def columns(self, originals: Sequence[Sample], results: Sequence[Restored]) -> Columns:
        return {GOT: self.features([one.sample for one in results])}

    def features(self, samples: Sequence[Sample]) -> np.ndarray:
        """`[n, D]` float32; computed once for all measures inside of one `tok4d.losses.shared.sharing` block."""
        return shared("benchmark features", tuple(samples), self.view(), lambda: self._features(samples))

    @torch.inference_mode()
    def _features(self, samples: Sequence[Sample]) -> np.ndarray:
        found = by_size([(self.seen(sample),) for sample in samples], self.loaded, self.device)
        return np.concatenate([one.numpy(force=True) for one in found]).astype(np.float32)

    def view(self) -> tuple[object, ...]:
        """What the features depend on beside the samples."""
        return (self.network, self.source, self.device)

    def seen(self, sample: Sample) -> Tensor:
        """What the network sees of a sample, with a first axis of 1.

        Raises:
            DataError: for what is no single picture.
        """
        found = pictures(sample)
        if len(found) != 1:
            raise DataError(sample.key or "sample", f"is a clip of {len(found)} frames: {self.network} sees pictures")
        return found
