"""Kernel distance of originals and reconstructions, on any network's features.

n = samples, D = features.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tok4d.errors import ConfigError
from tok4d_bench.contracts import BenchData, ChunkReader, Subject, Value
from tok4d_bench.measures.base import nothing
from tok4d_bench.measures.features import GOT, WANTED, FeatureMeasure
from tok4d_bench.statistics.blocks import column
from tok4d_bench.statistics.kernel import paired_distance, subset_distances

NAMES = {"inception-v3-fid": "kid", "effnet-lite0": "KD-EffNetLite0", "vgg16-features": "KD-VGG16"}


class KernelDistance(FeatureMeasure):
    """Kernel distance (KID) of originals and reconstructions: unbiased also where samples are few.

    A sample and its own reconstruction are no pair of independent draws and are left out of the sums; an exact copy
    then has distance 0. The mean over random subsets, as published, where there are more samples than one holds, else
    over all at once with a jackknife error.

    Args:
        network, source: as in `tok4d.networks.load_network`; the value is `kid` for inception-v3-fid alone.
        subsets: how many; 0: all samples at once however many.
        subset_size: samples of each.
        seed: of the choice.

    Raises:
        ConfigError: for negative `subsets`, one subset, or subsets of fewer than 2 samples.
    """

    def __init__(
        self,
        network: str = "inception-v3-fid",
        source: str = "",
        subsets: int = 100,
        subset_size: int = 1000,
        seed: int = 0,
    ) -> None:
        super().__init__(network, source)
        if subsets < 0 or subsets == 1 or subset_size < 2:
            raise ConfigError(f"kid: subsets {subsets} must be 0 or 2 and more, of 2 samples or more: {subset_size}")
        self.subsets, self.subset_size, self.seed = subsets, subset_size, seed
        self.name = NAMES.get(network, f"KD-{network}")

    def protocol(self) -> dict[str, Any]:
        return {
            "implementation": "tok4d_bench.statistics.kernel",
            "version": 1,
            "kernel": "(x.y / D + 1)^3, unbiased, own pairs left out",
            "subsets": self.subsets,
            "subset_size": self.subset_size,
            "seed": self.seed,
            **self.network_facts(),
        }

    def finish(self, chunks: ChunkReader, data: BenchData, subject: Subject) -> list[Value]:
        n = chunks.n
        if n < 2:
            return [nothing(self.name, "a kernel distance needs 2 samples", n=n, higher_is_better=False)]
        if self.subsets == 0 or n <= self.subset_size:
            value, error = paired_distance(column(chunks(WANTED), WANTED), column(chunks(GOT), GOT))
            return [Value(self.name, value, n, error, False, "", "all samples at once")]
        found = self._of_subsets(chunks)
        # n / size subsets would share no sample; more of them repeat what these know
        error = float(found.std(ddof=1) * np.sqrt(self.subset_size / n))
        note = f"{self.subsets} subsets of {self.subset_size}"
        return [Value(self.name, float(found.mean()), n, error, False, "", note)]

    def _of_subsets(self, chunks: ChunkReader) -> np.ndarray:
        """Distances of all subsets; ten subsets' rows at a time are in memory."""
        rng = np.random.Generator(np.random.PCG64(self.seed))
        chosen = np.stack([np.sort(rng.permutation(chunks.n)[: self.subset_size]) for _ in range(self.subsets)])
        found = []
        for few in np.array_split(chosen, -(-self.subsets // 10)):
            wanted = np.unique(few)
            rows = {name: _rows(chunks, name, wanted) for name in (WANTED, GOT)}
            found.append(subset_distances(rows[WANTED], rows[GOT], np.searchsorted(wanted, few)))
        return np.concatenate(found)


def _rows(chunks: ChunkReader, name: str, wanted: np.ndarray) -> np.ndarray:
    """Rows of a column at sorted places."""
    parts, start = [], 0
    for piece in chunks(name):
        end = start + len(piece[name])
        inside = wanted[np.searchsorted(wanted, start) : np.searchsorted(wanted, end)]
        parts.append(piece[name][inside - start])
        start = end
    return np.concatenate(parts)
